"""Which folder a model's name means: the pocket model that comes with the package, a folder, or a published name.

Reads no weights and downloads nothing.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.errors import ModelNotFound

POCKET = "pocket"
"""The name of the small model inside the package."""

POCKET_FOLDER = Path(__file__).parent / "pocket" / "checkpoint"

PUBLISHED = {"20b": "openai/gpt-oss-20b", "120b": "openai/gpt-oss-120b"}
"""Short name -> repository of OpenAI's checkpoint."""

PUBLISHED_GB = {"20b": "13.8", "120b": "65.2"}
"""Short name -> size of the files that are needed, in GB (10^9 bytes)."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model on this machine."""

    name: str
    """What it is called: `pocket`, or the folder's name."""
    folder: Path
    """Where config.json, tokenizer.json and the weights are."""

    @property
    def is_pocket(self) -> bool:
        """True for the model inside the package."""
        return self.folder == POCKET_FOLDER


def find_model(model: str | os.PathLike[str]) -> FoundModel:
    """The folder for `model`: `"pocket"` or the path of a folder that holds config.json.

    Raises ModelNotFound, saying how to get it, for `"20b"`, `"120b"`, other names, and folders that hold no model.
    """
    name = os.fspath(model)
    if name == POCKET:
        return FoundModel(POCKET, POCKET_FOLDER)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFound(
                f"{name} holds no config.json; expected the folder of a checkpoint in Hugging Face's layout "
                "(config.json, tokenizer.json, model*.safetensors)"
            )
        return FoundModel(folder.resolve().name, folder)
    if folder.exists():
        raise ModelNotFound(
            f"{name} is a file; expected the folder that holds config.json, tokenizer.json and the weights"
        )
    if name in PUBLISHED:
        repository = PUBLISHED[name]
        raise ModelNotFound(
            f"{name} is not on this machine: get it ({PUBLISHED_GB[name]} GB) with `hf download {repository} "
            f"--local-dir gpt-oss-{name} --exclude 'original/*' --exclude 'metal/*'` and name that folder, "
            f"e.g. `gptoss chat gpt-oss-{name}`"
        )
    raise ModelNotFound(
        f"there is no model {name!r} here; expected 'pocket', or the path of a folder with a checkpoint"
    )
