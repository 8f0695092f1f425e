"""The order in which shards come, what can be finished after each, and how full the disk gets on the way."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.convert.homes import HELD_SUFFIX, Homes
from gptoss_mlx.convert.plan import PlannedFile
from gptoss_mlx.convert.remote_shards import Shard
from gptoss_mlx.convert.writer import UNFINISHED_SUFFIX


@dataclass(frozen=True, slots=True)
class Step:
    """A shard, and what can be finished once it is there."""

    shard: Shard
    writes: tuple[PlannedFile, ...]


def make_steps(
    files: Sequence[PlannedFile],
    done: Collection[str],
    homes: Homes,
    shards: Sequence[Shard],
    whole: Collection[Path],
) -> tuple[Step, ...]:
    """In the order in which shards are fetched; those that only files in `done` were made of are left out.

    `whole` are those that are here, which come first: they finish the most, the earliest.
    """
    pending = [file for file in files if file.name not in done]
    wanted = {path for file in pending for path in homes.last_bytes[file.name]}
    order = sorted((shard for shard in shards if shard.path in wanted), key=lambda shard: shard.path not in whole)
    seen: set[Path] = set()
    steps = []
    for shard in order:
        seen.add(shard.path)
        writes = tuple(file for file in pending if homes.last_bytes[file.name].keys() <= seen)
        pending = [file for file in pending if file not in writes]
        steps.append(Step(shard, writes))
    return tuple(steps)


def disk_peak(
    steps: Sequence[Step],
    files: Sequence[PlannedFile],
    done: Collection[str],
    homes: Homes,
    begun: Collection[Path],
    *,
    overlap: bool,
    kept_elsewhere: bool,
) -> int:
    """Bytes of tensors on the disk at the fullest moment, what is there already included.

    `overlap`: whether the next shard comes while what a shard finishes is not finished yet. `begun` are shards of which
    a part is here, whatever their turn. `kept_elsewhere`: whether the hub's cache, where shards may be kept, is on
    another disk, to which they go when they are whole.
    """
    sizes = {file.name: file.nbytes for file in files}
    finished = set(done)
    peak = sum(sizes[name] for name in finished)
    for number, step in enumerate(steps):
        coming = steps[: number + (2 if overlap else 1)]
        landed = {other.shard.path for other in coming} | set(begun)
        # A file is as good as written once a byte of it is, for a disk that knows no holes.
        written = finished | {file.name for other in coming for file in other.writes}
        held = 0
        for run in (run for path in landed for run in homes.runs.get(path, ())):
            name = run.path.name
            if not name.endswith(HELD_SUFFIX):
                written.add(name.removesuffix(UNFINISHED_SUFFIX))
            elif name.removesuffix(HELD_SUFFIX) not in finished:
                held += run.end - run.start
        kept = sum(
            other.shard.file.size for other in (coming[number:] if kept_elsewhere else coming) if other.shard.kept
        )
        peak = max(peak, sum(sizes[name] for name in written) + held + kept)
        finished |= {file.name for file in step.writes}
    return peak


def largest_shard(steps: Sequence[Step], homes: Homes) -> int:
    """Bytes of the largest shard that has to come."""
    return max((step.shard.file.size for step in steps if step.shard.path in homes.runs), default=0)
