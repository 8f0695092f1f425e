"""The pocket model's sizes: gpt-oss's architecture, every number small."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dimensions:
    """The sizes of one gpt-oss network; the defaults are the pocket model's."""

    vocab_size: int
    """Token ids, special tokens included."""
    hidden_size: int = 192
    """Width of the residual stream; a multiple of 64."""
    intermediate_size: int = 192
    """Width inside one expert; a multiple of 64."""
    num_layers: int = 4
    """Decoder layers, sliding and full in turn, the first sliding."""
    num_experts: int = 8
    """Experts in a layer."""
    experts_per_token: int = 4
    """Experts that one token uses."""
    num_attention_heads: int = 4
    """Query heads."""
    num_key_value_heads: int = 2
    """Key and value heads."""
    head_dim: int = 64
    """Width of one head."""
    sliding_window: int = 128
    """Positions a sliding layer sees, the current one included."""
    rms_norm_eps: float = 1e-5
    """Added to the mean square."""
    swiglu_limit: float = 7.0
    """Clamp of gate and up."""
    rope_theta: float = 150000.0
    """Rotary base."""
    rope_factor: float = 32.0
    """YaRN's stretch of the context."""
    rope_beta_fast: float = 32.0
    """YaRN: rotations over the initial context above which a pair is left alone."""
    rope_beta_slow: float = 1.0
    """YaRN: rotations below which a pair is fully stretched."""
    initial_context_length: int = 4096
    """YaRN's original context."""
    max_position_embeddings: int = 131072
    """The context length the config states."""
