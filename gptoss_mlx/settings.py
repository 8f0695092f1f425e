"""Where the project keeps its files, and the environment variable that changes it.

`GPTOSS_HOME`: folder for everything that gptoss keeps (history now; models and chats). Default: the platform's data
folder.
"""

import os
from pathlib import Path

import platformdirs


def home_folder() -> Path:
    """The folder for everything that gptoss keeps; not made by this call."""
    override = os.environ.get("GPTOSS_HOME")
    if override:
        return Path(override).expanduser()
    return platformdirs.user_data_path("gptoss-mlx", appauthor=False)


def models_folder() -> Path:
    """Where converted models lie, each in a folder of its name; not made by this call."""
    return home_folder() / "models"


def history_file() -> Path:
    """What was typed at the prompt of the line mode, one entry a line."""
    return home_folder() / "history"
