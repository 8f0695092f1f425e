"""Brings a converted model to a host: what is missing there, file by file, over ssh, each compared with its checksum.

The other side is `receive`. What was stopped goes on: a file that has arrived is not sent again. Owns: the sending.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gptoss_mlx.errors import HostsError, UsageError
from gptoss_mlx.hosts.addresses import Host
from gptoss_mlx.hosts.frames import BrokenLine, FrameReader, FrameWriter
from gptoss_mlx.hosts.process import remote_python, ssh_command
from gptoss_mlx.manifest import MANIFEST_NAME, Manifest, read_manifest

PIECE_BYTES: Final = 4 << 20
"""Bytes in a message."""

PATIENCE_SECONDS: Final = 60.0
"""Without a byte that is taken for so long, it is given up."""

RECEIVER: Final = "gptoss_mlx.hosts.receive"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of it."""

    host: str
    folder: str
    """Where the model lies there."""
    sent_files: int
    sent_bytes: int


def deliver_model(folder: Path, host: Host, *, progress: Progress = lambda done, total: None) -> Delivery:
    """Makes `host` have the converted model in `folder` here, whole and verified, among its own models.

    `progress` hears of bytes. Raises UsageError for a model that was never converted, HostsError when the host cannot
    be reached or refuses, and for a damaged file here.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UsageError(
            f"{folder} is a checkpoint as published, without checksums of its own; convert it first: gptoss convert"
        )
    if host.local:
        raise UsageError(f"{host.name} is this machine, and the model is here already")
    try:
        process = subprocess.Popen(
            ssh_command(host, remote_python(RECEIVER)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
    except OSError as error:
        raise HostsError(f"{host.name} is reached with ssh, which cannot be started: {error}") from error
    with process:
        try:
            return _send(process, folder, manifest, host, progress)
        except BrokenLine as error:
            process.kill()
            raise HostsError(f"the line to {host.name} is broken: {error}; the same command goes on") from error
        except BaseException:
            process.kill()
            raise


def _send(
    process: "subprocess.Popen[bytes]", folder: Path, manifest: Manifest, host: Host, progress: Progress
) -> Delivery:
    assert process.stdin is not None
    assert process.stdout is not None
    writer = FrameWriter(_taken(process.stdin), patience_seconds=PATIENCE_SECONDS)
    reader = FrameReader(_taken(process.stdout))
    try:
        with contextlib.suppress(BrokenLine):
            # A host that has no such program says so on its other line.
            writer.write({"name": folder.absolute().name, "manifest": (folder / MANIFEST_NAME).read_text("utf-8")})
        if not reader.skip_to_mark():
            raise HostsError(_why_not(process, host))
        wanted = _heard(reader, process, host, progress)["want"]
        total, done = sum(manifest.files[name].bytes for name in wanted), 0
        for name in wanted:
            with (folder / name).open("rb", buffering=0) as file:
                while piece := file.read(PIECE_BYTES):
                    writer.write({"piece": name}, np.frombuffer(piece, dtype=np.uint8))
                    done += len(piece)
                    progress(done, total)
            writer.write({"end": name})
        writer.write({"done": True})
        folder_there = str(_heard(reader, process, host, progress)["folder"])
        return Delivery(host.name, folder_there, len(wanted), total)
    finally:
        writer.close()
        reader.close()


def _taken(stream: Any) -> int:
    """The stream's descriptor, which belongs to the caller now."""
    descriptor = os.dup(stream.fileno())
    stream.close()
    return descriptor


def _heard(
    reader: FrameReader, process: "subprocess.Popen[bytes]", host: Host, progress: Progress
) -> Mapping[str, Any]:
    """The host's next word that is no report. Raises HostsError for a complaint, and the end of the line."""
    while (message := reader.read()) is not None:
        values, _ = message
        if "error" in values:
            raise HostsError(f"{host.name}: {values['error']}")
        if "checking" in values:
            progress(*values["checking"])
            continue
        return values
    raise HostsError(_why_not(process, host))


def _why_not(process: "subprocess.Popen[bytes]", host: Host) -> str:
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace").strip().splitlines()
    return f"{host.name} does not take the model: {said[-1] if said else 'its line ended'}"
