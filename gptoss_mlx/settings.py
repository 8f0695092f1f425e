"""Where the project keeps its files, and the environment variable that changes it.

`GPTOSS_HOME`: folder for everything that gptoss keeps (history now; models and chats). Default: the platform's data
folder.

`GPTOSS_KERNELS`: `auto` (default) uses the Metal kernels that were found to be right and faster on this machine, `off`
none of them, `on` all of them, unchecked.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Final

import platformdirs

from gptoss_mlx.errors import UsageError

PARTIAL_SUFFIX: Final = ".partial"
"""What a model's folder ends in until it is whole."""

DOWNLOAD_NAME: Final = "download"
"""The folder, in an unfinished model, for what comes from the hub."""


class KernelSetting(StrEnum):
    """What `GPTOSS_KERNELS` asks for."""

    AUTO = "auto"
    """The kernels that are right and faster here."""
    OFF = "off"
    """MLX's own operations only."""
    ON = "on"
    """Every kernel, unchecked."""


def kernel_setting() -> KernelSetting:
    """What `GPTOSS_KERNELS` asks for. Raises `UsageError` when it is none of the three."""
    value = os.environ.get("GPTOSS_KERNELS") or KernelSetting.AUTO
    try:
        return KernelSetting(value)
    except ValueError:
        raise UsageError(
            f"GPTOSS_KERNELS is {value!r}; expected auto (the kernels that are right and faster here), "
            "off (none of them) or on (all of them, unchecked)"
        ) from None


def home_folder() -> Path:
    """The folder for everything that gptoss keeps; not made by this call."""
    override = os.environ.get("GPTOSS_HOME")
    if override:
        return Path(override).expanduser()
    return platformdirs.user_data_path("gptoss-mlx", appauthor=False)


def models_folder() -> Path:
    """Where converted models lie, each in a folder of its name; not made by this call."""
    return home_folder() / "models"


def used_folder() -> Path:
    """When each model was used last: an empty file of its name each, by its time; not made by this call."""
    return home_folder() / "used"


def kernels_folder() -> Path:
    """What was found about the kernels on this machine, a file for each shape of model; not made by this call."""
    return home_folder() / "kernels"


def kv_folder() -> Path:
    """What models have read of conversations, a file each; not made by this call."""
    return home_folder() / "kv"


def mcp_folder() -> Path:
    """What servers of tools (MCP) say on standard error, a file each; not made by this call."""
    return home_folder() / "mcp"


def history_file() -> Path:
    """What was typed at the prompt of the line mode, one entry a line."""
    return home_folder() / "history"
