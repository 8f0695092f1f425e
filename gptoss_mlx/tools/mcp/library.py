"""The `mcp` library: whether it is there, and how it is kept off the screen."""

import importlib.util
import logging
from typing import Final

from gptoss_mlx.errors import UsageError

INSTALL: Final = 'pip install "gptoss-mlx[mcp]"'
"""What installs it."""

_LOGGERS: Final = ("client", "mcp")
"""The names under which the library logs."""


def require_library() -> None:
    """Raises UsageError where the library is not installed. Imports nothing."""
    if importlib.util.find_spec("mcp") is None or importlib.util.find_spec("mcp_types") is None:
        raise UsageError(f"servers of tools (MCP) need the package mcp, which is not installed here; {INSTALL}")


def silence() -> None:
    """Keeps what the library logs off standard error where nobody has set up logging: a screen is drawn there."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
