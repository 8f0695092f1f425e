"""Which folder a model's name means: the pocket model that comes with the package, a converted one, or any folder.

Also: which models are listed, which are in use, and removing one. Reads no weights and downloads nothing.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.checkpoint import open_checkpoint
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import GptOssError, ModelNotFound, UsageError
from gptoss_mlx.manifest import MANIFEST_NAME, Source
from gptoss_mlx.settings import DOWNLOAD_NAME, PARTIAL_SUFFIX, models_folder, used_folder

POCKET = "pocket"
"""The name of the small model inside the package."""

POCKET_FOLDER = Path(__file__).parent / "pocket" / "checkpoint"

PUBLISHED = {"20b": "openai/gpt-oss-20b", "120b": "openai/gpt-oss-120b"}
"""Short name -> repository of OpenAI's checkpoint."""

PUBLISHED_GB = {"20b": "13.8", "120b": "65.2"}
"""Short name -> size of the files that are needed, in GB (10^9 bytes)."""


REMOVED_SUFFIX = ".removed"
"""What a model's folder ends in, before `PARTIAL_SUFFIX`, while it is being removed."""


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
    source: str | None = None
    """REPOSITORY@COMMIT that it was made from, or the name of a folder; None for the pocket model."""
    last_used: float | None = None
    """When it was loaded last, in seconds since 1970; None when it never was."""


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
            f"{name} is not on this machine: get {repository} ({PUBLISHED_GB[name]} GB) with `gptoss pull {name}`, or "
            f"name a folder that holds it: `gptoss chat ./gpt-oss-{name}`"
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
            faults.append(f"{folder.name}: {_unfinished(folder)}")
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
        models.append(
            ListedModel(
                folder.name,
                folder,
                checkpoint.config,
                manifest.total_bytes,
                manifest.dense_bits,
                _described(manifest.source),
                _last_used(folder.name),
            )
        )
    return models, faults


def _described(source: Source) -> str:
    if source.repository is None:
        return source.name
    return source.repository if source.revision is None else f"{source.repository}@{source.revision}"


def _last_used(name: str) -> float | None:
    try:
        return (used_folder() / name).stat().st_mtime
    except OSError:
        return None


def _unfinished(partial: Path) -> str:
    name = partial.name.removesuffix(PARTIAL_SUFFIX)
    if name.endswith(REMOVED_SUFFIX):
        return f"was being removed; gptoss rm {name.removesuffix(REMOVED_SUFFIX)} goes on with it"
    if (partial / DOWNLOAD_NAME).is_dir():
        return f"a download that runs or was stopped; the same gptoss pull goes on with it, gptoss rm {name} removes it"
    return "a conversion that runs or was stopped; the same command goes on with it"


class HeldModel:
    """A model that is in use: nobody removes it meanwhile. `release` it."""

    def __init__(self, folder: Path) -> None:
        """Never fails: without a lock, the model is only not protected."""
        self._folder: int | None = None
        with contextlib.suppress(OSError):
            self._folder = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if folder.parent == models_folder():
            # A home that cannot be written to does not know, and that is all.
            with contextlib.suppress(OSError):
                used_folder().mkdir(parents=True, exist_ok=True)
                (used_folder() / folder.name).touch()

    def release(self) -> None:
        """The model is not in use any more."""
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None


@dataclass(frozen=True, slots=True)
class RemovableModel:
    """What `remove_model` would remove."""

    name: str
    folder: Path
    total_bytes: int


def find_removable(name: str) -> RemovableModel:
    """The model of that name among the user's models, or what a stopped download or conversion left of it.

    Raises `ModelNotFound`, and `UsageError` for the pocket model.
    """
    known, folders = _removable(name)
    total = sum(path.stat().st_blocks * 512 for folder in folders for path in folder.rglob("*") if path.is_file())
    return RemovableModel(known, folders[0], total)


def remove_model(name: str) -> None:
    """Removes the model of that name, and what was left of attempts to make it, from the user's models.

    It is gone from the list at once, whatever stops the rest. Raises as `find_removable` does, and `UsageError` while
    the model is in use or being made.
    """
    known, folders = _removable(name)
    with contextlib.ExitStack() as stack:
        for folder in folders:
            lock = folder / "lock" if folder.name.endswith(PARTIAL_SUFFIX) and (folder / "lock").exists() else folder
            opened = os.open(lock, os.O_RDONLY)
            stack.callback(os.close, opened)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                doing = "is being made" if lock != folder else "is in use"
                raise UsageError(
                    f"{known} {doing} by another process; end that first (a chat with it, or a gptoss pull)"
                ) from error
        for folder in folders:
            gone = folder
            if not folder.name.endswith(PARTIAL_SUFFIX):
                gone = folder.with_name(f"{known}{REMOVED_SUFFIX}{PARTIAL_SUFFIX}")
                if gone.exists():
                    shutil.rmtree(gone)
                folder.rename(gone)
            shutil.rmtree(gone)
    (used_folder() / known).unlink(missing_ok=True)


def _removable(name: str) -> tuple[str, list[Path]]:
    """The model's own name and every folder that belongs to it, the whole one first."""
    if name == POCKET:
        raise UsageError("the pocket model comes with the package; only models that `gptoss list` shows can be removed")
    for known in (name, f"gpt-oss-{name}"):
        if Path(known).name != known or known.endswith(PARTIAL_SUFFIX):
            continue
        folder = models_folder() / known
        rests = [folder.with_name(known + middle + PARTIAL_SUFFIX) for middle in ("", REMOVED_SUFFIX)]
        folders = [path for path in rests if path.is_dir()]
        if (folder / MANIFEST_NAME).is_file():
            folders.insert(0, folder)
        if folders:
            return known, folders
    raise ModelNotFound(f"there is no model {name!r} to remove; expected a name that `gptoss list` shows")


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_dir())
