"""Which folder a model's name means: the pocket model that comes with the package, a converted one, or any folder.

Reads no weights and downloads nothing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import GptOssError, ModelNotFound
from gptoss_mlx.manifest import MANIFEST_NAME
from gptoss_mlx.settings import PARTIAL_SUFFIX, models_folder

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
    """Where config.json, the tokenizer and the weights are."""

    @property
    def is_pocket(self) -> bool:
        """True for the model inside the package."""
        return self.folder == POCKET_FOLDER


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A whole model that can be named without its path."""

    name: str
    folder: Path
    config: ModelConfig
    total_bytes: int
    """Bytes of all its files."""
    dense_bits: int | None
    """Bits of the dense weights where conversion quantised them."""


def find_model(model: str | os.PathLike[str]) -> FoundModel:
    """The folder for `model`: `"pocket"`, the name of a converted model, or the path of a folder with a checkpoint.

    `"20b"` and `"120b"` stand for the converted gpt-oss-20b and gpt-oss-120b. A path that exists comes before a name.
    Raises ModelNotFound, saying how to get it, for names without a model and folders that hold none.
    """
    name = os.fspath(model)
    if name == POCKET:
        return FoundModel(POCKET, POCKET_FOLDER)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFound(
                f"{name} holds no config.json; expected the folder of a checkpoint in Hugging Face's layout "
                "(config.json, tokenizer.json, model*.safetensors), OpenAI's original/, mlx-community's, or a "
                "converted one"
            )
        return FoundModel(folder.resolve().name, folder)
    if folder.exists():
        raise ModelNotFound(
            f"{name} is a file; expected the folder that holds config.json, tokenizer.json and the weights"
        )
    for known in (name, f"gpt-oss-{name}"):
        converted = models_folder() / known
        # A name and not a path: nothing outside the folder of models can be meant by it.
        if Path(known).name == known and (converted / MANIFEST_NAME).is_file():
            return FoundModel(known, converted)
    if name in PUBLISHED:
        repository = PUBLISHED[name]
        raise ModelNotFound(
            f"{name} is not on this machine: get it ({PUBLISHED_GB[name]} GB) with `hf download {repository} "
            f"--local-dir gpt-oss-{name} --exclude 'original/*' --exclude 'metal/*'`, then "
            f"`gptoss convert gpt-oss-{name}` and `gptoss chat {name}`, or name the downloaded folder as it is: "
            f"`gptoss chat ./gpt-oss-{name}`"
        )
    raise ModelNotFound(
        f"there is no model {name!r} here; expected 'pocket', a name that `gptoss list` shows, or the path of a folder "
        "with a checkpoint"
    )


def list_models() -> tuple[list[ListedModel], list[str]]:
    """Every whole model that has a name here, the pocket model first; and a sentence about each folder among the
    models that holds none.
    """
    pocket = open_checkpoint(POCKET_FOLDER)
    size = sum(file.stat().st_size for file in POCKET_FOLDER.iterdir())
    models = [ListedModel(POCKET, POCKET_FOLDER, pocket.config, size, None)]
    faults: list[str] = []
    for folder in _folders(models_folder()):
        if folder.name.endswith(PARTIAL_SUFFIX):
            faults.append(f"{folder.name}: a conversion that runs or was stopped; the same command goes on with it")
            continue
        try:
            checkpoint = open_checkpoint(folder)
        except GptOssError as error:
            faults.append(f"{folder.name}: {error}")
            continue
        if checkpoint.manifest is None:
            faults.append(
                f"{folder.name}: {checkpoint.layout} layout, not converted; gptoss convert makes a copy that is"
            )
            continue
        manifest = checkpoint.manifest
        models.append(ListedModel(folder.name, folder, checkpoint.config, manifest.total_bytes, manifest.dense_bits))
    return models, faults


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_dir())
