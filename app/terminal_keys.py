"""Alt+Enter in terminals without the kitty protocol: macOS' Terminal, xterm, tmux and most others send ESC and CR.

Textual 8.2.8 does not know that sequence and makes Enter of it, which would send a message that was to get a new line.
Its table of sequences is private; an entry that a later Textual brings is left as it is.
"""

from collections.abc import MutableMapping
from typing import Any, cast

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual.keys import Keys

ALT_ENTER = "\x1b\r"

OTHER_ENTERS = frozenset(("shift+\r", "ctrl+\r", "\r"))
"""What Textual calls Enter with a modifier where the terminal says it as xterm does (`ESC [ 27 ; 2 ; 13 ~`); the
last one is with Alt. Enter alone is `enter`."""


def know_alt_enter() -> None:
    """Makes Alt+Enter known, as Ctrl+J: both make a new line."""
    cast(MutableMapping[str, Any], ANSI_SEQUENCES_KEYS).setdefault(ALT_ENTER, (Keys.ControlJ,))
