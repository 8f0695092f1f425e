"""`python -m gptoss_mlx.cli`: the command `gptoss` where it is not on the path."""

import sys

from gptoss_mlx.cli import main

sys.exit(main())
