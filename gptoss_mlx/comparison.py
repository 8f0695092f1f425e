"""How far other versions of a model are from a reference one: over the same tokens, and in bytes.

    compare_models("20b", ["20b-8bit", "20b-4bit"], text=Path("book.txt")) -> Comparison

The reference reads every passage first and its logits go to a nameless temporary file, float32 as they are: nothing is
rounded, so a model has a divergence of exactly 0 from itself. (Measured over 578 positions: float16 would put the
pocket model 4e-8 nats away from itself, and its 8-bit version at 8.1e-6 instead of 7.9e-6.) Then each other version
reads the same passages. One model is in memory at a time, and the logits of `CHUNK_TOKENS`; all sums are float64.

Owns: the passages and the figures. Does not own: the questions (`pocket.evaluate`), the sizes (`weight_sizes`), and it
prints nothing.
"""

import errno
import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from gptoss_mlx.cache import KVCache
from gptoss_mlx.checkpoint import Checkpoint, find_tokenizer, open_checkpoint
from gptoss_mlx.device import this_device
from gptoss_mlx.errors import NotEnoughDisk, UsageError
from gptoss_mlx.model import Model
from gptoss_mlx.models import POCKET_FOLDER, find_model
from gptoss_mlx.pocket.evaluate import CATEGORIES, DATE, EFFORTS, make_questions
from gptoss_mlx.pocket.rendering import conversation_ids, system_ids
from gptoss_mlx.safetensors_file import ITEM_BYTES
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.weight_sizes import Sizes, stored_sizes
from gptoss_mlx.weights import choose_dtype, load_model

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do in all: tokens, or bytes of weights."""

Rows = npt.NDArray[np.float32]
"""Logits `[rows, vocab]`."""

Figures = npt.NDArray[np.float64]
"""One number for each scored position."""

CHUNK_TOKENS: Final = 128
"""Tokens that a model reads at once: 103 MB of float32 logits for the vocabulary of gpt-oss."""

BLOCK_VALUES: Final = 1 << 22
"""Logits that are computed with in float64 at once: 34 MB for each intermediate result."""

SPARE_BYTES: Final = 64 << 20
"""Free space of the temporary folder's disk that is left alone."""

DEFAULT_QUESTIONS: Final = 10
"""Held-out questions of each category at each effort."""

DEFAULT_WINDOW: Final = 1024
"""Tokens of a text that are read as one passage."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A token sequence that every model reads, and which of its tokens count."""

    context: tuple[int, ...]
    """What comes first; consecutive passages with the same one read it once."""
    tokens: tuple[int, ...]
    """What follows."""
    scored: tuple[bool, ...]
    """For each of `tokens`, whether its prediction counts; never the first one's."""


@dataclass(frozen=True, slots=True)
class Version:
    """One model of a comparison, before its weights are read."""

    name: str
    folder: Path
    checkpoint: Checkpoint
    tokenizer: Tokenizer

    @property
    def dense_bits(self) -> int | None:
        """Bits of the quantised dense weights, the fewest where they differ; None when none is quantised."""
        return min((affine.bits for affine in self.checkpoint.quantised.values()), default=None)


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a version is from the reference."""

    kl_mean: float
    """Mean of KL(reference || version) over the scored positions, in nats."""
    kl_p99: float
    """The 99th percentile of the same."""
    agreement: float
    """Share of positions where both find the same token the most probable."""
    perplexity_ratio: float
    """The version's perplexity over the reference's."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of a comparison."""

    version: Version
    sizes: Sizes
    perplexity: float
    """exp of the mean negative log-probability of the scored tokens."""
    distance: Distance | None
    """None for the reference."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The reference first, then the others in the order in which they were given."""

    rows: tuple[Measured, ...]
    text: Mapping[str, Any]
    """Where the passages come from, for a report."""
    passages: int
    positions: int
    """Scored positions."""
    dtype: str
    """What all of them computed in."""


def compare_models(
    reference: str,
    others: Sequence[str],
    *,
    text: Path | None = None,
    window: int = DEFAULT_WINDOW,
    questions: int = DEFAULT_QUESTIONS,
    seed: int = 0,
    loading: Progress | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """How far `others` are from `reference`, each the name or the folder of a model.

    Over the file `text` in windows of `window` tokens, or without one over held-out questions of the pocket model,
    `questions` of each category at each effort, drawn with `seed`. `loading` hears of the bytes of each model's weights
    and `progress` of tokens, over all models.

    Raises `UsageError` for models that do not share a vocabulary, and what cannot be compared over; `NotEnoughDisk`
    before a model is loaded when the reference's logits would not fit the temporary folder; and what opening and
    loading models raises.
    """
    versions = [open_version(name) for name in (reference, *others)]
    first = versions[0]
    for other in versions[1:]:
        check_same_vocabulary(first, other)
    if text is None:
        passages = held_out_passages(first, questions, seed)
        origin: dict[str, Any] = {"kind": "held-out questions", "questions_of_each_kind": questions, "seed": seed}
    else:
        passages = text_passages(first, text, window)
        digest = hashlib.sha256(text.read_bytes()).hexdigest()
        origin = {"kind": "file", "file": text.name, "sha256": digest, "window_tokens": window}
    device = this_device()
    choices = [choose_dtype(version.checkpoint.recipes, device) for version in versions]
    # The same for all, so that the weights are all that differs.
    dtype = mx.bfloat16 if mx.bfloat16 in choices else choices[0]
    positions = sum(sum(passage.scored) for passage in passages)
    count = _Counter(progress or _no_progress, len(versions) * _tokens_to_read(passages))
    rows: list[Measured] = []
    with LogitsFile(positions, first.checkpoint.config.vocab_size) as kept:
        base: _Reading | None = None
        for version in versions:
            # The model ends with the call: the next one is loaded into the memory that it leaves.
            reading = _read(version, passages, kept, base, dtype, loading, count)
            mx.clear_cache()
            distance = None if base is None else _distance(base, reading)
            rows.append(Measured(version, stored_sizes(version.checkpoint), reading.perplexity, distance))
            base = base or reading
    return Comparison(tuple(rows), origin, len(passages), positions, str(dtype).removeprefix("mlx.core."))


def open_version(name: str) -> Version:
    """The model of that name or in that folder; its headers and its tokenizer are read and checked."""
    found = find_model(name)
    checkpoint = open_checkpoint(found.folder)
    tokenizer = Tokenizer.from_file(find_tokenizer(found.folder), vocab_size=checkpoint.config.vocab_size)
    return Version(found.name, found.folder, checkpoint, tokenizer)


def check_same_vocabulary(reference: Version, other: Version) -> None:
    """Raises `UsageError` unless a token id means the same to both."""
    ours, theirs = (version.checkpoint.config.vocab_size for version in (reference, other))
    if ours != theirs:
        raise UsageError(
            f"{other.name} has a vocabulary of {theirs} tokens and {reference.name} one of {ours}; expected versions "
            "of one model, which share it"
        )
    if not reference.tokenizer.is_same(other.tokenizer):
        raise UsageError(
            f"the tokenizer.json of {other.name} gives other ids than that of {reference.name}; expected versions of "
            "one model, which share it"
        )


# What is read


def held_out_passages(version: Version, questions: int, seed: int) -> list[Passage]:
    """The pocket model's held-out conversations, `questions` of each category at each effort, drawn with `seed`.

    They are complete with the generator's own analysis and answer; what the model has to write is scored. Raises
    `UsageError` when `version` has another vocabulary than the pocket model's, or for fewer than one question.
    """
    if questions < 1:
        raise UsageError(f"questions is {questions}; expected 1 or more")
    tokenizer = version.tokenizer
    if not tokenizer.is_same(Tokenizer.from_file(POCKET_FOLDER)):
        raise UsageError(
            f"{version.name} does not have the pocket model's vocabulary, so the pocket model's questions mean nothing "
            "to it; name a UTF-8 text to compare over with --text FILE"
        )
    passages = []
    for effort in EFFORTS:
        for category in CATEGORIES:
            for question in make_questions(category, effort, questions, seed):
                context = system_ids(effort, DATE, bool(question.tools), tokenizer)
                ids, weights = conversation_ids(question.conversation, tokenizer)
                passages.append(Passage(tuple(context), tuple(ids), tuple(weight > 0 for weight in weights)))
    return passages


def text_passages(version: Version, text: Path, window: int) -> list[Passage]:
    """The UTF-8 file `text`, cut in windows of `window` tokens that do not see each other; the first token of each is
    not scored.

    Raises `UsageError` when the file cannot be read or is too short, or for a window that the model cannot read.
    """
    longest = version.checkpoint.config.max_position_embeddings
    if not 2 <= window <= longest:
        raise UsageError(f"window is {window}; expected 2 to {longest} tokens, the context length of {version.name}")
    try:
        content = text.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{text} cannot be read ({error.strerror or error}); expected a UTF-8 text") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{text} is not UTF-8 (byte {error.start}); expected a UTF-8 text") from error
    ids = version.tokenizer.encode(content)
    cut = [tuple(ids[start : start + window]) for start in range(0, len(ids), window)]
    passages = [Passage((), part, (False,) + (True,) * (len(part) - 1)) for part in cut if len(part) > 1]
    if not passages:
        raise UsageError(f"{text} has {len(ids)} token(s); expected at least 2: the first has nothing before it")
    return passages


def scored_logits(
    model: Model, passages: Sequence[Passage], on_tokens: Callable[[int], None]
) -> Iterator[tuple[Rows, npt.NDArray[np.int64]]]:
    """The model's logits for every scored token, in order, a block of rows at a time, with the tokens' ids `[rows]`.

    `on_tokens` hears how many tokens were read since its last call.
    """
    block = max(BLOCK_VALUES // model.config.vocab_size, 1)
    context: tuple[int, ...] | None = None
    cache = model.make_cache()
    start = cache.snapshot()
    for passage in passages:
        if passage.context == context:
            cache.restore(start)
        else:
            cache = model.make_cache()
            for first in range(0, len(passage.context), CHUNK_TOKENS):
                _forward(model, cache, passage.context[first : first + CHUNK_TOKENS])
                # lm_head is not computed: nobody asks for it.
                mx.eval(cache.arrays)
            context, start = passage.context, cache.snapshot()
            on_tokens(len(passage.context))
        for first, last in _chunks(passage):
            wanted = [place for place in range(first, last) if passage.scored[place + 1]]
            logits = _forward(model, cache, passage.tokens[first:last])
            if not wanted:
                mx.eval(cache.arrays)
            else:
                rows = np.array(logits[0][mx.array(wanted) - first], dtype=np.float32)
                following = np.array([passage.tokens[place + 1] for place in wanted], dtype=np.int64)
                for row in range(0, len(wanted), block):
                    yield rows[row : row + block], following[row : row + block]
            on_tokens(last - first)


def _forward(model: Model, cache: KVCache, tokens: Sequence[int]) -> mx.array:
    return model(mx.array([list(tokens)], dtype=mx.int32), cache)


def _chunks(passage: Passage) -> Iterator[tuple[int, int]]:
    """First and last + 1 of each run of tokens to read; what follows the last prediction that counts is not read."""
    end = max((place for place, scored in enumerate(passage.scored) if scored), default=0)
    for first in range(0, end, CHUNK_TOKENS):
        yield first, min(first + CHUNK_TOKENS, end)


def _tokens_to_read(passages: Sequence[Passage]) -> int:
    total, context = 0, None
    for passage in passages:
        total += len(passage.context) if passage.context != context else 0
        total += sum(last - first for first, last in _chunks(passage))
        context = passage.context
    return total


# What comes of it


@dataclass(frozen=True, slots=True)
class _Reading:
    """A model at each scored position."""

    losses: Figures
    """Negative log-probability of the token that follows."""
    best: npt.NDArray[np.int64]
    """The most probable token."""
    divergences: Figures
    """KL(reference || model) in nats; empty for the reference."""

    @property
    def perplexity(self) -> float:
        return math.exp(float(self.losses.mean()))


def _read(
    version: Version,
    passages: Sequence[Passage],
    kept: "LogitsFile",
    base: _Reading | None,
    dtype: mx.Dtype,
    loading: Progress | None,
    count: "_Counter",
) -> _Reading:
    """Loads a model and lets it read; without a `base` it is the reference, whose logits are kept."""
    losses, best, divergences = [], [], [np.zeros(0)]
    model = load_model(version.folder, dtype=dtype, progress=loading)
    kept.rewind()
    for rows, following in scored_logits(model, passages, count.add):
        logprobs = log_probabilities(rows)
        losses.append(-np.take_along_axis(logprobs, following[:, None], axis=-1)[:, 0])
        best.append(rows.argmax(axis=-1))
        if base is None:
            kept.append(rows)
        else:
            divergences.append(divergence(log_probabilities(kept.read(len(rows))), logprobs))
    return _Reading(np.concatenate(losses), np.concatenate(best), np.concatenate(divergences))


def log_probabilities(rows: Rows) -> Figures:
    """The logarithms of the softmax of each row, float64 `[rows, vocab]`."""
    values: Figures = rows.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def divergence(reference: Figures, other: Figures) -> Figures:
    """KL(reference || other) in nats for each row `[rows]` of two sets of log-probabilities `[rows, vocab]`."""
    result: Figures = (np.exp(reference) * (reference - other)).sum(axis=-1)
    return result


def _distance(base: _Reading, reading: _Reading) -> Distance:
    return Distance(
        kl_mean=float(reading.divergences.mean()),
        kl_p99=float(np.percentile(reading.divergences, 99)),
        agreement=float((reading.best == base.best).mean()),
        perplexity_ratio=math.exp(float(reading.losses.mean()) - float(base.losses.mean())),
    )


class LogitsFile:
    """The reference's logits, in a file of the temporary folder that has no name: however the process ends, it is gone.

    float32 `[positions, vocab]`, written once from beginning to end and read in the same order. Raises `NotEnoughDisk`
    when it does not fit, on construction where that can be seen.
    """

    def __init__(self, positions: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        folder = tempfile.gettempdir()
        needed, free = positions * vocab_size * ITEM_BYTES["F32"], shutil.disk_usage(folder).free
        if needed + SPARE_BYTES > free:
            raise NotEnoughDisk(
                f"the reference's logits at {positions} positions take {needed / 1e9:.1f} GB in {folder}, whose disk "
                f"has {free / 1e9:.1f} GB free; compare over less text, or name another folder with TMPDIR"
            )
        self._folder = folder
        # A plain file and no memory map: writing to a map of a disk that is full kills the process.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)

    def append(self, rows: Rows) -> None:
        """Writes `rows` after those that are there."""
        try:
            self._file.write(np.ascontiguousarray(rows).data)
            self._file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NotEnoughDisk(
                f"the disk of {self._folder} filled up while the reference's logits were written; free some space, or "
                "name another folder with TMPDIR"
            ) from error

    def rewind(self) -> None:
        """Goes back to the first row."""
        self._file.seek(0)

    def read(self, count: int) -> Rows:
        """The next `count` rows."""
        data = self._file.read(count * self._vocab_size * ITEM_BYTES["F32"])
        rows: Rows = np.frombuffer(data, dtype=np.float32).reshape(count, self._vocab_size)
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class _Counter:
    """Adds up what is done, for a progress bar."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def add(self, count: int) -> None:
        self._done += count
        self._progress(self._done, self._total)


def _no_progress(done: int, total: int) -> None:
    """For a caller that asked for none."""
