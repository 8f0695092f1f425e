"""Going on from a model that is damaged: which of its files are good, and how a download takes them over.

    manifest readable      files with its sha256 are good (`there`)
    manifest damaged       a shard is read back out of the files that its tensors went to: with the hub's sha256 for
                           it, they are good

The model stays as it is until the mended one takes its place.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from gptoss_mlx.convert.download_plan import DownloadPlan
from gptoss_mlx.convert.homes import make_homes
from gptoss_mlx.convert.places import Places
from gptoss_mlx.convert.there import Damage
from gptoss_mlx.convert.verify import hash_files
from gptoss_mlx.convert.writer import UNFINISHED_SUFFIX, Notes
from gptoss_mlx.manifest import FileRecord

PIECE_BYTES: Final = 4 << 20
"""Of a shard that is read back, at a time."""


def prove(damage: Damage, plan: DownloadPlan, stopped: Callable[[], bool]) -> Damage:
    """`damage` with the files at the plan's target that the hub's own checksums show to be good."""
    candidates = {}
    for file in plan.files:
        path = plan.target / file.name
        if path.is_file() and path.stat().st_size == file.nbytes:
            with path.open("rb") as opened:
                if opened.read(len(file.header)) == file.header:
                    candidates[file.name] = file
    cached = frozenset(shard.path for shard in plan.shards if shard.stays)
    homes = make_homes(plan.target, plan.files, candidates, plan.checkpoint, cached)
    proven: set[Path] = set()
    for shard in plan.shards:
        runs = homes.runs.get(shard.path, ())
        if runs and all(run.given for run in runs):
            digest = shard.file.digest()
            digest.update(shard.header)
            places = Places(runs)
            for run in places.runs:
                buffer = memoryview(bytearray(min(PIECE_BYTES, run.end - run.start)))
                for start in range(run.start, run.end, PIECE_BYTES):
                    if stopped():
                        return damage
                    piece = buffer[: run.end - start]
                    places.read(start, piece)
                    digest.update(piece)
            places.close()
            if digest.hexdigest() == shard.file.checksum:
                proven.add(shard.path)
    good = [
        name
        for name, file in candidates.items()
        if homes.last_bytes[name].keys() <= proven and all(tensor.name in homes.in_place for tensor in file.tensors)
    ]
    found = hash_files(plan.target, good, lambda count: None)
    faults = [f"{file.name} is not known to be good" for file in plan.files if file.name not in good]
    records = {name: FileRecord(candidates[name].nbytes, found[name]) for name in good}
    return replace(damage, faults=(*damage.faults, *faults), good=records)


def take_over(good: Mapping[str, FileRecord], target: Path, partial: Path, notes: Notes) -> None:
    """Makes the `good` files at `target` finished files of the download in `partial`, which shares them."""
    there = notes.read()
    for name, record in good.items():
        if there.get(name) == record:
            continue
        # First the note: a file that has its name here and none is taken for an unfinished one, and written to.
        (partial / name).unlink(missing_ok=True)
        notes.add(name, record)
        try:
            os.link(target / name, partial / name)
        except OSError:
            # A disk without links.
            copied = partial / (name + UNFINISHED_SUFFIX)
            shutil.copyfile(target / name, copied)
            copied.rename(partial / name)
