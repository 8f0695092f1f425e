"""`gptoss evaluate`: how good the pocket model's answers are, measured through the product."""

import argparse
import json
from typing import Any

from gptoss_mlx.cli.terminal import ProgressBar, load_with_progress
from gptoss_mlx.errors import UsageError
from gptoss_mlx.evaluation import KINDS, run_questions
from gptoss_mlx.pocket.evaluate import EFFORTS, Score


def run(arguments: argparse.Namespace) -> int:
    """Asks the questions; prints the table as it grows, then one JSON line; gives the exit code."""
    kinds = arguments.kind or list(KINDS)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UsageError(f"there are no questions of kind {unknown[0]!r}; expected one of {', '.join(KINDS)}")
    if arguments.questions < 1:
        raise UsageError(f"--questions is {arguments.questions}; expected 1 or more")
    efforts = arguments.effort or list(EFFORTS)
    total, done = len(kinds) * len(efforts), 0
    with load_with_progress(arguments.model, {}) as model, ProgressBar("Asking") as bar:

        def show(score: Score) -> None:
            nonlocal done
            bar.close()
            done += 1
            print(_row(score), flush=True)
            bar.update(done, total)

        print(f"{'kind':<16}{'effort':<9}{'right':>8}{'thinking':>14}{'well-formed':>14}", flush=True)
        bar.update(done, total)
        result = run_questions(
            model,
            kinds,
            efforts,
            count=arguments.questions,
            seed=arguments.seed,
            temperature=arguments.temperature,
            on_score=show,
        )
    _print_summary(result)
    print(json.dumps(result))
    return 0


def _row(score: Score) -> str:
    thinking = f"{score.analysis_tokens:.0f} tokens"
    return f"{score.category:<16}{score.effort:<9}{score.right:>8.1%}{thinking:>14}{score.well_formed:>14.1%}"


def _print_summary(result: dict[str, Any]) -> None:
    print()
    for effort, mean in result["scaling"].items():
        print(f"effort {effort}: {mean['right']:.1%} right after {mean['analysis_tokens']:.0f} tokens of thinking")
    entropies = ", ".join(f"{entropy:.3f}" for entropy in result["expert_load_entropy"])
    print(f"well-formed turns: {result['well_formed']:.2%}")
    print(f"expert load, layer by layer (1 is even): {entropies}")
    prefill, decode = result["prefill_tokens_per_second"], result["decode_tokens_per_second"]
    print(f"prefill {prefill:.0f} tok/s, decode {decode:.0f} tok/s")
