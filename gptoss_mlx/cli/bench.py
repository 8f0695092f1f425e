"""`gptoss bench`: how fast a model runs here, and how much memory it takes; with --against, beside another engine.

With --batch: several answers at once against one after the other, in one process.
With --graph: what a decode step asks of a GPU, which needs neither the weights nor a GPU. With --turns: how much of a
conversation is read again in each of its turns.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from gptoss_mlx.bench.machine import describe_machine
from gptoss_mlx.bench.plan import Settings, make_plan
from gptoss_mlx.bench.race import Outcome, run_race
from gptoss_mlx.bench.report import make_report
from gptoss_mlx.bench.table import table_lines
from gptoss_mlx.errors import UsageError
from gptoss_mlx.hosts.addresses import read_hosts


def run(arguments: argparse.Namespace) -> int:
    """Measures; prints the table, then one JSON line; gives the exit code: 0, 1 if a run failed, 130 after Ctrl-C."""
    if arguments.hosts is not None:
        if arguments.graph or arguments.turns or arguments.batch is not None:
            raise UsageError("--hosts measures load, prefill and decode; leave out --graph, --turns and --batch")
        # What is wrong with them is told before the first run.
        read_hosts(arguments.hosts)
    if arguments.graph:
        return _run_graph(arguments)
    if arguments.shape is not None and arguments.batch is None:
        raise UsageError("--shape stands in for a model with --batch only")
    if arguments.turns:
        return _run_turns(arguments)
    settings = Settings(
        prompt_tokens=arguments.prompt_tokens,
        decode_tokens=arguments.decode_tokens,
        runs=3 if arguments.runs is None else arguments.runs,
        seed=arguments.seed,
        warm_up=not arguments.no_warm_up,
        timeout_seconds=arguments.timeout,
        hosts=arguments.hosts,
        host_mode=arguments.host_mode,
        host_timeout_seconds=arguments.host_timeout,
    )
    if arguments.batch is not None:
        return _run_batch(arguments, settings)
    plan = make_plan(arguments.model, settings, peer=arguments.against, peer_model=arguments.peer_model)
    machine = describe_machine()
    outcome = run_race(plan, on_line=lambda line: print(line, file=sys.stderr, flush=True))
    report = make_report(plan, outcome, command=shlex.join(["gptoss", *arguments.words]), machine=machine)
    return _print_outcome(outcome, report, table_lines(report), only_json=arguments.json)


def _run_turns(arguments: argparse.Namespace) -> int:
    """The same for a conversation."""
    from gptoss_mlx.bench.turns import TurnsSettings, make_turns_plan, run_turns
    from gptoss_mlx.bench.turns_report import make_turns_report, turns_table_lines

    settings = TurnsSettings(
        conversation_tokens=arguments.conversation_tokens,
        runs=1 if arguments.runs is None else arguments.runs,
        seed=arguments.seed,
        timeout_seconds=arguments.timeout,
    )
    plan = make_turns_plan(arguments.model, settings, peer=arguments.against, peer_model=arguments.peer_model)
    machine = describe_machine()
    outcome = run_turns(plan, on_line=lambda line: print(line, file=sys.stderr, flush=True))
    report = make_turns_report(plan, outcome, command=shlex.join(["gptoss", *arguments.words]), machine=machine)
    return _print_outcome(outcome, report, turns_table_lines(report), only_json=arguments.json)


def _print_outcome(outcome: Outcome, report: Mapping[str, Any], table: Iterable[str], *, only_json: bool) -> int:
    """Prints what came of the runs; gives the exit code."""
    if outcome.error is not None:
        print(f"error: {outcome.error}", file=sys.stderr, flush=True)
    if not only_json:
        for line in table:
            print(line)
        print()
    print(json.dumps(report), flush=True)
    if outcome.interrupted:
        return 130
    return 0 if outcome.error is None else 1


def _run_batch(arguments: argparse.Namespace, settings: Settings) -> int:
    """Prints the table, then one JSON line."""
    if arguments.against is not None or arguments.peer_model is not None:
        raise UsageError("--batch measures our own engine against itself; leave out --against and --peer-model")
    from gptoss_mlx.bench.throughput import make_throughput_report, throughput_lines

    report = make_throughput_report(
        arguments.model,
        shape=arguments.shape,
        batch=arguments.batch,
        settings=settings,
        command=shlex.join(["gptoss", *arguments.words]),
        machine=describe_machine(),
    )
    if not arguments.json:
        for line in throughput_lines(report):
            print(line)
        print()
    print(json.dumps(report), flush=True)
    return 0


def _run_graph(arguments: argparse.Namespace) -> int:
    """Prints the table, then one JSON line."""
    from gptoss_mlx.bench.graph_report import graph_table_lines, make_graph_report

    report = make_graph_report(
        arguments.model,
        position=arguments.prompt_tokens,
        peer=arguments.against,
        command=shlex.join(["gptoss", *arguments.words]),
        machine=describe_machine(),
    )
    if not arguments.json:
        for line in graph_table_lines(report):
            print(line)
        print()
    print(json.dumps(report), flush=True)
    return 0
