"""The app's style, for apps of the tests that show a few widgets of it."""

from pathlib import Path

import gptoss_mlx.app

STYLE = Path(gptoss_mlx.app.__file__).parent / "app.tcss"
