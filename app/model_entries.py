"""What the models screen lists: models that are here, OpenAI's that can be had, and what was left half done.

Looked up on a thread: it reads the folders of models, and brings MLX in to know the machine. Knows no Textual.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from gptoss_mlx.settings import PARTIAL_SUFFIX

if TYPE_CHECKING:
    from gptoss_mlx.convert.fit import Fit
    from gptoss_mlx.models import ListedModel

EntryKind: TypeAlias = Literal["here", "published", "stopped", "leftover"]
"""`here`: ready to load; `published`: can be had; `stopped`: was begun, and can be gone on with; `leftover`: of another
command, can only be removed here."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A line of the list."""

    kind: EntryKind
    name: str
    """What `load`, `download` or `remove_model` takes."""
    title: str
    facts: tuple[str, ...]
    """Short words for the line: parameters, size, precision, source."""
    details: tuple[str, ...] = ()
    """Sentences for below the list."""
    fits: bool = True
    """Whether memory and disk have room for it; True where nobody asked."""
    download_bytes: int = 0
    """What getting it takes in all; 0 for what is here."""
    removable: bool = True
    """False for the pocket model, and for what is not here."""


def list_entries() -> list[ModelEntry]:
    """All of them: what is here first, then what can be had, then what was left over."""
    from gptoss_mlx.models import PUBLISHED, list_models

    models, faults = list_models()
    entries = [_here(model) for model in models]
    # A fault is a sentence about a folder, whose name it begins with.
    sentences = dict(fault.split(": ", 1) for fault in faults)
    for name, repository in PUBLISHED.items():
        folder = repository.rpartition("/")[2]
        sentence = sentences.pop(folder + PARTIAL_SUFFIX, None)
        if folder not in (model.name for model in models):
            entries.append(_published(name, repository, stopped=sentence is not None))
    for folder, sentence in sentences.items():
        if folder.endswith(PARTIAL_SUFFIX):
            name = folder.removesuffix(PARTIAL_SUFFIX)
            entries.append(ModelEntry("leftover", name, name, ("not finished",), (sentence,)))
    return entries


def _here(model: "ListedModel") -> ModelEntry:
    precision = "as published" if model.dense_bits is None else f"dense weights {model.dense_bits} bits"
    source = "comes with gptoss" if model.source is None else _short(model.source)
    facts = (_count(model.config.parameters), _gigabytes(model.total_bytes), precision, source)
    return ModelEntry("here", model.name, model.name, facts, (str(model.folder),), removable=model.source is not None)


def _published(name: str, repository: str, *, stopped: bool) -> ModelEntry:
    from gptoss_mlx.device import this_device
    from gptoss_mlx.models import find_removable
    from gptoss_mlx.published_fit import published_fit

    fit = published_fit(name)
    machine = "this Mac" if this_device().metal else "this machine"
    facts = [f"{_gigabytes(fit.download_bytes)} to get", f"{'fits' if fit.memory_ok else 'does not fit'} {machine}"]
    if not fit.disk_ok:
        facts.append("not enough disk")
    if stopped:
        facts.insert(0, f"stopped, {_gigabytes(find_removable(name).total_bytes)} are here")
    return ModelEntry(
        "stopped" if stopped else "published",
        name,
        repository.rpartition("/")[2],
        tuple(facts),
        (f"{repository} on the Hugging Face Hub", *_fit_sentences(fit)),
        fit.memory_ok and fit.disk_ok,
        fit.download_bytes,
        removable=stopped,
    )


def _fit_sentences(fit: "Fit") -> tuple[str, str]:
    limit = "Metal recommends to use" if fit.on_gpu else "this machine has"
    memory = (
        f"It takes {_gigabytes(fit.memory_needed_bytes)} of memory with {fit.context:,} tokens of context; "
        f"{limit} {_gigabytes(fit.memory_bytes)}."
    )
    disk = (
        f"Getting it takes {_gigabytes(fit.disk_needed_bytes)} of disk, {_gigabytes(fit.result_bytes)} in the end; "
        f"{_gigabytes(fit.disk_free_bytes)} are free."
    )
    return memory, disk


def _gigabytes(number: int) -> str:
    from gptoss_mlx.memory import gigabytes

    return gigabytes(number)


def _count(number: int) -> str:
    """Parameters, in powers of 1000."""
    return f"{number / 1e9:.1f} B" if number >= 10**9 else f"{number / 1e6:.1f} M"


def _short(source: str) -> str:
    """REPOSITORY@COMMIT with the commit cut short."""
    repository, at, commit = source.partition("@")
    return f"{repository}{at}{commit[:7]}"
