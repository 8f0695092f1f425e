"""Where each tensor of a download lies until the result is whole, so that the disk holds as little as it can.

    taken as it is, or one after another     in the result's own file, LAYER.safetensors.tmp, at its final place
    quantised, or dealt out row by row       in download/LAYER.safetensors.held, until that file is finished
    of a shard that stays whole              in the shard: a file of the hub's cache

So what OpenAI publishes is written once, to where it stays. Owns: which place. Does not own: reading and writing there
(`places`), when what is done (`landing`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gptoss_mlx.checkpoint import Checkpoint
from gptoss_mlx.convert.part import PART_SUFFIX
from gptoss_mlx.convert.places import Run
from gptoss_mlx.convert.plan import PlannedFile, PlannedTensor
from gptoss_mlx.convert.writer import UNFINISHED_SUFFIX
from gptoss_mlx.safetensors_file import TensorEntry
from gptoss_mlx.settings import DOWNLOAD_NAME

HELD_SUFFIX: Final = ".held"
"""In the download folder: tensors that a file of the result is made of and cannot hold as they are."""


@dataclass(frozen=True, slots=True)
class Homes:
    """Where everything is, or will be."""

    entries: Mapping[str, TensorEntry]
    """Every stored tensor, where it can be read once it is there."""
    runs: Mapping[Path, tuple[Run, ...]]
    """Where the bytes of each shard that does not stay whole go, without its header's."""
    in_place: frozenset[str]
    """Our tensors whose every byte the download itself puts to its place in the result."""
    last_bytes: Mapping[str, Mapping[Path, int]]
    """For each file of the result, which shards it needs, and how far each of them."""


def make_homes(
    partial: Path,
    files: Sequence[PlannedFile],
    done: Mapping[str, object],
    checkpoint: Checkpoint,
    staying: frozenset[Path],
) -> Homes:
    """The homes of a download to `partial`; files of the result in `done` are finished, shards in `staying` stay whole.

    `checkpoint` has every tensor in its shard.
    """
    entries = dict(checkpoint.entries)
    runs: dict[Path, list[Run]] = {}
    in_place: set[str] = set()
    last_bytes: dict[str, dict[Path, int]] = {}
    for file in files:
        finished = file.name in done
        result = partial / (file.name if finished else file.name + UNFINISHED_SUFFIX)
        held, held_bytes = partial / DOWNLOAD_NAME / (file.name + HELD_SUFFIX), 0
        last = last_bytes.setdefault(file.name, {})
        seen: set[str] = set()
        offset = len(file.header)
        for tensor in file.tensors:
            parts = [checkpoint.entries[part.name] for part in checkpoint.recipes[tensor.source.name].parts]
            direct = _is_direct(tensor, checkpoint)
            position = offset
            for entry in parts:
                last[entry.file] = max(last.get(entry.file, 0), entry.offset + entry.nbytes)
                if entry.file not in staying and entry.name not in seen and entry.nbytes > 0:
                    end = entry.offset + entry.nbytes
                    if direct:
                        run = Run(entry.offset, end, result, position, given=finished)
                    else:
                        run = Run(entry.offset, end, held, held_bytes, spent=finished)
                        held_bytes += entry.nbytes
                    runs.setdefault(entry.file, []).append(run)
                    entries[entry.name] = replace(entry, file=run.path, offset=run.offset)
                seen.add(entry.name)
                position += entry.nbytes
            if direct and staying.isdisjoint(entry.file for entry in parts):
                in_place.add(tensor.name)
            offset += tensor.nbytes
    return Homes(entries, {path: tuple(of) for path, of in runs.items()}, frozenset(in_place), last_bytes)


def header_run(shard: Path, length: int) -> Run:
    """Where the header of `shard`, of so many bytes, goes."""
    return Run(0, length, shard.with_name(shard.name + PART_SUFFIX), 0)


def _is_direct(tensor: PlannedTensor, checkpoint: Checkpoint) -> bool:
    """Whether the stored tensors lie in the result one after the other, byte for byte."""
    return tensor.affine is None and checkpoint.recipes[tensor.source.name].combine != "interleave"
