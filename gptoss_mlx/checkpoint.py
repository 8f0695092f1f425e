"""A checkpoint's folder, opened: its config, its layout, and what lies where, checked against the headers alone.

    open_checkpoint(folder) -> Checkpoint      milliseconds, reads no tensor

Whoever has a `Checkpoint` can rely on every stored tensor being there, with its shape and dtype, in a file of the right
size; values are checked by whoever reads them. Loading (`weights`) and converting (`convert`) both begin here. Knows no
MLX.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import ModelNotFound, WeightsError
from gptoss_mlx.layouts import Affine, LayoutName, Part, Recipe, detect_layout, make_recipes
from gptoss_mlx.manifest import Manifest, read_manifest
from gptoss_mlx.safetensors_file import TensorEntry, read_headers, read_tensor_entries

TOKENIZER_NAME = "tokenizer.json"
"""The tokenizer's file in every layout."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose headers were found to fit its config."""

    folder: Path
    config: ModelConfig
    layout: LayoutName
    entries: Mapping[str, TensorEntry]
    """Every stored tensor by its name in the files."""
    recipes: Mapping[str, Recipe]
    """How each of our tensors is made of them, in the order in which a model is put together."""
    quantised: Mapping[str, Affine]
    """The dense projections among ours that are stored quantised."""
    manifest: Manifest | None
    """Of a folder in our own format; None otherwise."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def dtype_of(self, name: str) -> str:
        """The safetensors dtype of our tensor `name`'s parts."""
        return self.entries[self.recipes[name].parts[0].name].dtype

    def affine_of(self, name: str) -> Affine | None:
        """How our projection `name` is quantised; None when it is not."""
        return self.quantised.get(name)


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """The checkpoint in `folder`, in any of the four layouts.

    Raises `ConfigError` for config.json, `ModelNotFound` when there are no weights, and `WeightsError` that names file,
    tensor, found and expected for a header, an index, a manifest or a tensor that is not as it must be.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelNotFound(f"{folder} is not a folder; expected one with config.json and safetensors files")
    config = ModelConfig.from_file(folder / "config.json")
    manifest = read_manifest(folder)
    entries = read_tensor_entries(folder) if manifest is None else _read_listed(folder, manifest)
    return checkpoint_of(folder, config, entries, manifest)


def checkpoint_of(
    folder: Path, config: ModelConfig, entries: Mapping[str, TensorEntry], manifest: Manifest | None = None
) -> Checkpoint:
    """The checkpoint of this config whose stored tensors are `entries`, whether their files are there yet or not.

    Raises `WeightsError` as `open_checkpoint` does for tensors.
    """
    layout = detect_layout(entries)
    recipes, quantised = make_recipes(layout, config, entries)
    _check_tensors(entries, recipes, folder)
    return Checkpoint(folder, config, layout, entries, recipes, quantised, manifest)


def find_tokenizer(folder: Path) -> Path:
    """The tokenizer.json that belongs to the checkpoint in `folder`: in it, or beside it as OpenAI's original/ has it.

    Where there is none, the path where it was expected.
    """
    inside = folder / TOKENIZER_NAME
    beside = folder.resolve().parent / TOKENIZER_NAME
    return beside if folder.resolve().name == "original" and not inside.is_file() and beside.is_file() else inside


def _read_listed(folder: Path, manifest: Manifest) -> dict[str, TensorEntry]:
    """The tensors of a folder in our format: of the files that its manifest lists, each of the size that it says."""
    for name in manifest.weights:
        path, expected = folder / name, manifest.files[name].bytes
        if not path.is_file():
            raise WeightsError(f"{path} is missing; expected it by gptoss.json; convert the model again")
        size = path.stat().st_size
        if size != expected:
            raise WeightsError(
                f"{path} has {size} bytes; expected {expected} by gptoss.json: the file is "
                f"{'cut off' if size < expected else 'too long'}; convert the model again"
            )
    return read_headers(folder / name for name in manifest.weights)


def _check_tensors(entries: Mapping[str, TensorEntry], recipes: Mapping[str, Recipe], folder: Path) -> None:
    """Raises `WeightsError` unless `entries` are exactly the parts of `recipes`, each of its shape and dtype."""
    expected = {part.name: part for recipe in recipes.values() for part in recipe.parts}
    if missing := [name for name in expected if name not in entries]:
        raise WeightsError(
            f"{folder} lacks tensor {_first_of(missing)}; expected {len(expected)} tensors by its config.json; "
            "download the model again, or check that config.json belongs to it"
        )
    if extra := [name for name in entries if name not in expected]:
        raise WeightsError(
            f"{entries[extra[0]].file} holds tensor {_first_of(extra)}, which a gpt-oss of this config.json does not "
            "have; check that config.json belongs to these weights"
        )
    for name, part in expected.items():
        _check_part(entries[name], part)
    for recipe in recipes.values():
        first = entries[recipe.parts[0].name]
        for other in (entries[part.name] for part in recipe.parts[1:]):
            if other.dtype != first.dtype:
                raise WeightsError(
                    f"{other.file}: tensor {other.name} has dtype {other.dtype}; expected {first.dtype}, as "
                    f"{first.name} has, because the two become one"
                )


def _check_part(entry: TensorEntry, part: Part) -> None:
    if entry.shape != part.shape:
        raise WeightsError(
            f"{entry.file}: tensor {part.name} has shape {list(entry.shape)}; expected {list(part.shape)} by "
            "config.json; check that it belongs to these weights"
        )
    if entry.dtype not in part.dtypes:
        raise WeightsError(
            f"{entry.file}: tensor {part.name} has dtype {entry.dtype}; expected {' or '.join(part.dtypes)}"
        )


def _first_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
