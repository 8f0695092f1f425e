"""The terminal app. The only package that may import Textual; it reaches the model through the public Python API."""
