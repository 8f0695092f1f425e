"""Several answers at once against one after the other: tokens a second in all, of the same model and prompts.

Both run in this process, in turn, on the model as it is loaded; weights are what both are bound by. Prompts share no
beginning. Below text and channels: token ids in, the most probable tokens out.

Owns: the measurement and its report. Does not own: how a batch runs (`batch`).
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

import mlx.core as mx

from gptoss_mlx.batch import step_together
from gptoss_mlx.bench.machine import describe_versions
from gptoss_mlx.bench.plan import Settings
from gptoss_mlx.config import PRESETS
from gptoss_mlx.device import this_device
from gptoss_mlx.engine import Engine
from gptoss_mlx.errors import UsageError
from gptoss_mlx.generate import Generation
from gptoss_mlx.kernel_check.choice import load_ready_model
from gptoss_mlx.kernel_check.shapes import random_model
from gptoss_mlx.model import Model
from gptoss_mlx.models import find_model
from gptoss_mlx.sampling import Sampling

FORMAT: Final = 1
"""Raised when a field of the report changes its meaning."""

SHAPE_LAYERS: Final = 2
"""Decoder layers of a model that stands for a shape: a sliding and a full one."""

GREEDY: Final = Sampling(temperature=0.0)


def make_throughput_report(
    model: str,
    *,
    shape: str | None,
    batch: int,
    settings: Settings,
    command: str,
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything about the measurement, as one JSON object. `shape` stands in for `model`: random weights."""
    if batch < 2:
        raise UsageError(f"--batch is {batch}; expected 2 or more")
    if shape is None:
        found = find_model(model)
        engine = Engine(lambda: load_ready_model(found.folder))
        name = found.name
    else:
        config = PRESETS[shape]
        dtype_here = mx.bfloat16 if this_device().gpu else mx.float32
        engine = Engine(lambda: random_model(config, dtype_here, layers=SHAPE_LAYERS))
        name = f"{shape}, {SHAPE_LAYERS} of {config.num_hidden_layers} decoder layers, random weights"
    try:
        limit = engine.call(lambda loaded, ticket: loaded.config.max_position_embeddings)
        if settings.prompt_tokens + settings.decode_tokens > limit:
            raise UsageError(
                f"--prompt-tokens and --decode-tokens add up to {settings.prompt_tokens + settings.decode_tokens}; "
                f"expected at most {limit}, the context length of the model"
            )
        runs = engine.call(lambda loaded, ticket: _measure(loaded, batch, settings))
        dtype = engine.call(lambda loaded, ticket: str(loaded.dtype).removeprefix("mlx.core."))
    finally:
        engine.close()
    medians = {key: median(run[key] for run in runs) for key in runs[0] if key != "same_tokens"}
    return {
        "format": FORMAT,
        "command": command,
        "machine": dict(machine),
        "versions": describe_versions(),
        "model": name,
        "dtype": dtype,
        "batch": batch,
        "prompt_tokens": settings.prompt_tokens,
        "decode_tokens": settings.decode_tokens,
        "runs": runs,
        "medians": medians,
        "decode_ratio": median(run["together_decode_tps"] / run["in_turn_decode_tps"] for run in runs),
        "ratio": median(run["together_tps"] / run["in_turn_tps"] for run in runs),
        "same_tokens": all(run["same_tokens"] for run in runs),
    }


def throughput_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report as a table for people."""
    machine, medians = report["machine"], report["medians"]
    yield f"model     {report['model']}, {report['dtype']}"
    yield f"machine   {machine['processor']}, {machine['cores']} cores; load average {machine['load_average']:.2f}"
    yield (
        f"settings  {report['batch']} prompts of {report['prompt_tokens']} tokens, {report['decode_tokens']} decoded "
        f"each; median of {len(report['runs'])} run(s)"
    )
    yield ""
    yield f"{'':<34}{'in turn':>12}{'together':>12}{'ratio':>9}"
    rows = (("decode, all (tok/s)", "decode_tps", "decode_ratio"), ("prompts included (tok/s)", "tps", "ratio"))
    for label, key, ratio in rows:
        cells = f"{medians[f'in_turn_{key}']:>12.1f}{medians[f'together_{key}']:>12.1f}"
        yield f"{label:<34}{cells}{report[ratio]:>9.2f}"
    yield ""
    yield "the same tokens both ways" if report["same_tokens"] else "a near tie went another way: tokens differ"


def _measure(model: Model, batch: int, settings: Settings) -> list[dict[str, Any]]:
    """Figures of each run."""
    prompts = [_prompt(model, settings.prompt_tokens, settings.seed + number) for number in range(batch)]
    if settings.warm_up:
        _together(model, prompts, min(4, settings.decode_tokens))
        _in_turn(model, prompts[:1], min(4, settings.decode_tokens))
    runs = []
    for _ in range(settings.runs):
        alone, alone_decode, alone_whole = _in_turn(model, prompts, settings.decode_tokens)
        tokens, decode, whole = _together(model, prompts, settings.decode_tokens)
        count = batch * settings.decode_tokens
        # The first token of each comes of reading the prompt.
        decoded = batch * (settings.decode_tokens - 1)
        runs.append(
            {
                "in_turn_decode_tps": decoded / alone_decode,
                "together_decode_tps": decoded / decode,
                "in_turn_tps": count / alone_whole,
                "together_tps": count / whole,
                "same_tokens": tokens == alone,
            }
        )
    return runs


def _prompt(model: Model, count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [int(generator.random() * model.config.vocab_size) for _ in range(count)]


def _begin(model: Model, prompt: Sequence[int], count: int) -> Generation:
    generation = Generation(model, model.make_cache(), GREEDY, context_limit=len(prompt) + count)
    for _ in generation.prefill(prompt):
        pass
    return generation


def _in_turn(model: Model, prompts: Sequence[Sequence[int]], count: int) -> tuple[list[list[int]], float, float]:
    """The tokens of each prompt, seconds of decoding, seconds in all."""
    tokens: list[list[int]] = []
    decoding = 0.0
    begin = time.perf_counter()
    for prompt in prompts:
        generation = _begin(model, prompt, count)
        said = [generation.next_step().token]
        first = time.perf_counter()
        said += [generation.next_step().token for _ in range(count - 1)]
        decoding += time.perf_counter() - first
        tokens.append(said)
    return tokens, decoding, time.perf_counter() - begin


def _together(model: Model, prompts: Sequence[Sequence[int]], count: int) -> tuple[list[list[int]], float, float]:
    begin = time.perf_counter()
    generations = [_begin(model, prompt, count) for prompt in prompts]
    steps = [step_together(model, generations)]
    first = time.perf_counter()
    steps += [step_together(model, generations) for _ in range(count - 1)]
    end = time.perf_counter()
    return [[step.token for step in column] for column in zip(*steps, strict=True)], end - first, end - begin
