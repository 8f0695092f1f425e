"""`gptoss pull`: a model from the hub, verified, converted, ready to run."""

import argparse
import json
import shlex
import sys
from dataclasses import asdict, replace

from gptoss_mlx.cli.download_display import display_for, fault_lines, plan_facts
from gptoss_mlx.convert.download import download
from gptoss_mlx.convert.fetch import FetchOptions
from gptoss_mlx.convert.request import disk_sentences, make_request
from gptoss_mlx.errors import GptOssError, UsageError
from gptoss_mlx.manifest import Manifest
from gptoss_mlx.memory import gigabytes

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def run(arguments: argparse.Namespace) -> int:
    """Pulls; gives the exit code."""
    try:
        if arguments.dry_run:
            return _dry_run(arguments)
        return pull(
            arguments.model,
            path=arguments.path,
            dense_bits=arguments.dense_bits,
            context=arguments.context,
            force=arguments.force,
            keep_download=arguments.keep_download,
            options=fetch_options(arguments),
            as_json=arguments.json,
        )
    except KeyboardInterrupt:
        if arguments.json:
            print(json.dumps({"type": "stopped"}), flush=True)
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except GptOssError as error:
        if arguments.json:
            print(json.dumps({"type": "error", "error": type(error).__name__, "message": str(error)}), flush=True)
        raise


def pull(
    model: str,
    *,
    path: str | None = None,
    dense_bits: int | None = None,
    context: int = 8192,
    force: bool = False,
    keep_download: bool = False,
    options: FetchOptions | None = None,
    as_json: bool = False,
) -> int:
    """Downloads `model` and shows how far it is; gives the exit code."""
    with display_for(as_json=as_json) as display:
        report = download(
            model,
            path=path,
            dense_bits=dense_bits,
            context=context,
            force=force,
            keep_download=keep_download,
            verify=True,
            options=options,
            planned=display.planned,
            progress=display.update,
        )
    if as_json:
        print(json.dumps({"type": "done", **asdict(report), "folder": str(report.folder)}), flush=True)
    elif report.already_there:
        print(f"{report.folder} is here already ({gigabytes(report.total_bytes)}), every byte of it; nothing to do")
    else:
        name = report.folder.name if path is None else shlex.quote(str(report.folder))
        done = "mended" if report.mended else gigabytes(report.total_bytes)
        print(f"{report.folder}: {done} in {report.seconds:.0f} s; next: gptoss chat {name}")
    return 0


def fetch_options(arguments: argparse.Namespace) -> FetchOptions:
    """What the command line says about the network. Raises `UsageError`."""
    options = FetchOptions()
    if not 1 <= arguments.connections <= 32:
        raise UsageError(f"--connections is {arguments.connections}; expected 1 to 32")
    options = replace(options, connections=arguments.connections)
    if arguments.limit is not None:
        options = replace(options, bytes_per_second=read_rate(arguments.limit))
    if arguments.patience is not None:
        if not arguments.patience > 0:
            raise UsageError(f"--patience is {arguments.patience:g}; expected seconds above 0")
        patience = arguments.patience
        options = replace(
            options, give_up_seconds=patience, stall_seconds=min(options.stall_seconds, max(patience / 2, 0.1))
        )
    return options


def read_rate(text: str) -> float:
    """Bytes a second from `500K`, `2.5M` or `1G`. Raises `UsageError`."""
    word = text.strip().upper().removesuffix("/S").removesuffix("B")
    number, unit = (word[:-1], word[-1]) if word[-1:] in ("K", "M", "G") else (word, "")
    try:
        rate = float(number) * _UNITS[unit]
    except ValueError:
        rate = 0.0
    if not rate > 0:
        raise UsageError(f"--limit is {text!r}; expected bytes a second, such as 500K or 2.5M")
    return rate


def _dry_run(arguments: argparse.Namespace) -> int:
    request = make_request(
        arguments.model,
        path=arguments.path,
        dense_bits=arguments.dense_bits,
        context=arguments.context,
        options=fetch_options(arguments),
        keep_download=arguments.keep_download,
    )
    with disk_sentences(request.target, "read"):
        found = request.look(thorough=True, report=lambda progress: None)
    if isinstance(found, Manifest):
        if arguments.json:
            print(json.dumps({"type": "plan", "folder": str(request.target), "already_there": True}))
        else:
            print(f"{request.target} is here already ({gigabytes(found.total_bytes)}); there is nothing to do")
        return 0
    plan, _ = request.first_plan(found)
    if arguments.json:
        print(json.dumps(plan_facts(plan)))
    else:
        print(f"{plan.listing.repository} at {plan.listing.commit[:12]} -> {plan.target}")
        for line in fault_lines(plan):
            print(line)
        for shard in plan.shards:
            wanted = any(step.shard is shard for step in plan.steps)
            where = "in the hub's cache" if shard.cached else "here" if shard.path in plan.whole else "to download"
            print(f"  {shard.file.name}  {gigabytes(shard.file.size)}  {where if wanted else 'done'}")
        for line in plan.fit.lines():
            print(line)
    return 0 if plan.fit.disk_ok and plan.fit.memory_ok else 1
