"""`gptoss compare`'s figures: equal to a computation of their own, exact for equal models, and nothing left behind."""

import gc
import json
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gptoss_mlx import GptOss, comparison
from gptoss_mlx.comparison import (
    Comparison,
    LogitsFile,
    compare_models,
    held_out_passages,
    open_version,
    text_passages,
)
from gptoss_mlx.errors import NotEnoughDisk, UsageError, WeightsError
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.pocket.conversations import plain
from gptoss_mlx.pocket.evaluate import CATEGORIES, DATE, EFFORTS, is_right, make_questions
from gptoss_mlx.tokenizer import Tokenizer
from tests.random_checkpoint import Tensors, bfloat16_bits, float32_of, random_tensors, tiny_config, write_checkpoint
from tests.reference import ReferenceModel

TEXT = "What is an attention sink? It is a learned logit per head. The answer is 42, and 17 + 25 = 42.\n" * 3


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def tiny(folder: Path, tensors: Tensors | None = None, **changes: Any) -> str:
    """A random model with the pocket model's tokenizer."""
    config = tiny_config(num_hidden_layers=2, **{"vocab_size": 3021, **changes})
    write_checkpoint(folder, config, tensors or random_tensors(config, seed=3))
    shutil.copy(POCKET_FOLDER / "tokenizer.json", folder)
    return str(folder)


def give_other_ids(folder: str) -> None:
    """Two words of the tokenizer change places."""
    path = Path(folder) / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    vocab = data["model"]["vocab"]
    longest = sorted((word for word in vocab if not word.startswith("<|")), key=len)[-2:]
    vocab[longest[0]], vocab[longest[1]] = vocab[longest[1]], vocab[longest[0]]
    path.write_text(json.dumps(data), encoding="utf-8")


# Figures


def test_a_model_is_no_distance_from_itself_in_whatever_layout(conversions: Callable[[int | None], str], text: Path):
    result = compare_models("pocket", ["pocket", conversions(None)], text=text)
    assert result.rows[0].distance is None
    for row in result.rows[1:]:
        assert row.distance is not None
        assert abs(row.distance.kl_mean) < 1e-9
        assert (row.distance.agreement, row.distance.perplexity_ratio) == (1.0, 1.0)
        assert row.perplexity == result.rows[0].perplexity


class Expected(NamedTuple):
    kl_mean: float
    kl_p99: float
    agreement: float
    perplexities: tuple[float, float]


def computed(config: dict[str, Any], models: tuple[Tensors, Tensors], windows: list[list[int]]) -> Expected:
    """The figures of two models in float64, position by position, by another implementation of the model."""
    kl, same, losses = [], [], ([], [])
    for window in windows:
        logits = [ReferenceModel(config, tensors).logits(np.array(window)) for tensors in models]
        for place in range(len(window) - 1):
            p, q = (np.exp(each[place]) / np.exp(each[place]).sum() for each in logits)
            kl.append(float((p * np.log(p / q)).sum()))
            same.append(p.argmax() == q.argmax())
            for values, share in zip(losses, (p, q), strict=True):
                values.append(-math.log(share[window[place + 1]]))
    kl.sort()
    # Between the two values around 0.99 of the way from the least to the most.
    place = 0.99 * (len(kl) - 1)
    low = math.floor(place)
    p99 = kl[low] + (place - low) * (kl[min(low + 1, len(kl) - 1)] - kl[low])
    first, second = (math.exp(sum(values) / len(values)) for values in losses)
    return Expected(sum(kl) / len(kl), p99, sum(same) / len(same), (first, second))


@pytest.mark.parametrize("window", [40, 150])
def test_figures_equal_a_float64_computation(
    tmp_path: Path, text: Path, pocket_tokenizer: Tokenizer, window: int, monkeypatch: pytest.MonkeyPatch
):
    # So that a window takes several chunks, and a chunk several blocks.
    monkeypatch.setattr(comparison, "CHUNK_TOKENS", 33)
    monkeypatch.setattr(comparison, "BLOCK_VALUES", 3021 * 7)
    config = tiny_config(num_hidden_layers=2, vocab_size=3021)
    tensors = random_tensors(config, seed=5)
    noise = np.random.default_rng(6).standard_normal(tensors["lm_head.weight"].shape)
    changed = tensors | {"lm_head.weight": bfloat16_bits(float32_of(tensors["lm_head.weight"]) + 0.05 * noise)}
    folders = [tiny(tmp_path / "one", tensors), tiny(tmp_path / "two", changed)]
    ids = pocket_tokenizer.encode(TEXT)
    windows = [ids[start : start + window] for start in range(0, len(ids), window)]
    expected = computed(config, (tensors, changed), windows)

    result = compare_models(folders[0], folders[1:], text=text, window=window)
    assert result.positions == len(ids) - len(windows)
    reference, other = result.rows
    assert other.distance is not None
    assert expected.kl_mean > 0.01
    assert other.distance.kl_mean == pytest.approx(expected.kl_mean, rel=1e-4)
    assert other.distance.kl_p99 == pytest.approx(expected.kl_p99, rel=1e-4)
    assert other.distance.agreement == expected.agreement
    assert (reference.perplexity, other.perplexity) == pytest.approx(expected.perplexities, rel=1e-5)
    assert other.distance.perplexity_ratio == pytest.approx(expected.perplexities[1] / expected.perplexities[0])


def test_four_bits_are_farther_than_eight(
    conversions: Callable[[int | None], str], monkeypatch: pytest.MonkeyPatch, pocket: GptOss
):
    monkeypatch.setattr(comparison, "CATEGORIES", ("addition", "tool"))
    monkeypatch.setattr(comparison, "EFFORTS", ("high",))
    calls: list[tuple[int, int]] = []
    versions = [conversions(8), conversions(4)]
    result = compare_models("pocket", versions, questions=1, progress=lambda done, total: calls.append((done, total)))
    eight, four = (row.distance for row in result.rows[1:])
    assert eight is not None
    assert four is not None
    assert 0 < eight.kl_mean < four.kl_mean
    assert eight.kl_p99 < four.kl_p99
    assert eight.agreement >= four.agreement
    assert [row.version.dense_bits for row in result.rows] == [None, 8, 4]
    # Read piece by piece behind a shared context, a conversation has the probabilities that it has when read at once.
    passages = held_out_passages(result.rows[0].version, 1, 0)
    losses: list[float] = []
    for passage in passages:
        logprobs = pocket.logprobs(passage.context + passage.tokens)[-len(passage.tokens) :]
        losses += [-float(value) for value, scored in zip(logprobs, passage.scored, strict=True) if scored]
    assert len(losses) == result.positions
    assert result.rows[0].perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


# Passages


def test_what_is_scored_begins_where_the_product_lets_the_model_begin(pocket: GptOss):
    passages = iter(held_out_passages(open_version("pocket"), 1, 7))
    for effort in EFFORTS:
        for category in CATEGORIES:
            (question,) = make_questions(category, effort, 1, 7)
            passage = next(passages)
            first = passage.scored.index(True)
            prompt = pocket.prompt_tokens(question.messages, effort=effort, date=DATE, tools=question.tools)
            assert list(passage.context + passage.tokens[:first]) == prompt
            assert passage.scored[-1]
            assert passage.tokens[-1] == pocket.tokenizer.special.return_
            solution = [part.message for part in question.solution]
            assert is_right(question.expected, plain(solution[-1].text))
            assert all(message.role in ("assistant", "tool") for message in solution)
            result = [part.learned for part in question.solution]
            assert result == [message.role == "assistant" for message in solution]
    assert next(passages, None) is None


def test_a_text_is_cut_in_windows_whose_first_token_is_not_scored(text: Path, pocket_tokenizer: Tokenizer):
    version, ids = open_version("pocket"), pocket_tokenizer.encode(TEXT)
    window = len(ids) // 2 - 1
    passages = text_passages(version, text, window)
    assert [len(passage.tokens) for passage in passages] == [window, window, len(ids) - 2 * window]
    assert [token for passage in passages for token in passage.tokens] == ids
    assert all(passage.scored == (False,) + (True,) * (len(passage.tokens) - 1) for passage in passages)
    # A last token alone has nothing that it could be predicted from.
    assert len(text_passages(version, text, len(ids) - 1)) == 1


@pytest.mark.parametrize(
    ("content", "window", "message"),
    [
        (b"", 8, "0 token.*at least 2"),
        (b"\xff\xfe", 8, "not UTF-8"),
        (b"some text", 1, "window is 1"),
        (b"some text", 10**6, "window is 1000000"),
        (None, 8, "cannot be read"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes | None, window: int, message: str):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        text_passages(open_version("pocket"), path, window)


# Models that cannot be compared


def test_another_vocabulary_is_refused(tmp_path: Path, text: Path):
    larger = tiny(tmp_path / "larger", vocab_size=3100)
    with pytest.raises(UsageError, match="larger has a vocabulary of 3100 tokens and pocket one of 3021"):
        compare_models("pocket", [larger], text=text)
    other = tiny(tmp_path / "other")
    give_other_ids(other)
    with pytest.raises(UsageError, match=r"tokenizer\.json of other gives other ids than that of pocket"):
        compare_models("pocket", [other], text=text)


def test_a_model_that_is_not_the_pocket_s_needs_a_text(tmp_path: Path):
    other = tiny(tmp_path / "other")
    give_other_ids(other)
    with pytest.raises(UsageError, match="--text FILE"):
        compare_models(other, [other])
    with pytest.raises(UsageError, match="questions is 0"):
        compare_models("pocket", ["pocket"], questions=0)


# Memory and disk


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class Watch(LogitsFile):
    """Remembers the files that were made."""

    made: list[Any]

    def __init__(self, positions: int, vocab_size: int) -> None:
        super().__init__(positions, vocab_size)
        self.made.append(self._file)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(Watch, "made", [], raising=False)
    monkeypatch.setattr(comparison, "LogitsFile", Watch)
    return Watch.made


def test_the_temporary_file_is_gone_after_the_work_and_after_an_error(
    tmp_path: Path, temporary: Path, files: list[Any], text: Path
):
    good = tiny(tmp_path / "good")
    config = tiny_config(num_hidden_layers=2, vocab_size=3021)
    tensors = random_tensors(config, seed=3)
    tensors["model.layers.1.mlp.experts.down_proj_scales"][0, 0, 0] = 255
    broken = tiny(tmp_path / "broken", tensors)
    compare_models(good, [good], text=text)
    with pytest.raises(WeightsError, match="NaN"):
        compare_models(good, [broken], text=text)

    def interrupt(done: int, total: int) -> None:
        # Nothing has a name even while it is written, so a killed process leaves nothing either.
        assert list(temporary.iterdir()) == []
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_models(good, [good], text=text, progress=interrupt)
    assert len(files) == 3
    assert all(file.closed for file in files)
    assert list(temporary.iterdir()) == []


def test_a_disk_that_is_too_small_is_seen_before_a_model_is_loaded(
    text: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
):
    usage = shutil.disk_usage(temporary)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1 << 20))
    monkeypatch.setattr(comparison, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(NotEnoughDisk, match=r"positions take .* TMPDIR"):
        compare_models("pocket", ["pocket"], text=text)


def test_logits_come_back_bit_for_bit():
    rows = np.random.default_rng(1).standard_normal((5, 7)).astype(np.float32)
    with LogitsFile(5, 7) as kept:
        kept.append(rows[:2])
        kept.append(rows[2:])
        for _ in range(2):
            kept.rewind()
            np.testing.assert_array_equal(np.concatenate([kept.read(4), kept.read(1)]), rows)


def test_one_model_is_in_memory_at_a_time(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch):
    load, loaded = comparison.load_model, []

    def watched(*arguments: Any, **options: Any):
        gc.collect()
        assert all(model() is None for model in loaded)
        model = load(*arguments, **options)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(comparison, "load_model", watched)
    folder = tiny(tmp_path / "tiny")
    compare_models(folder, [folder, folder], text=text)
    assert len(loaded) == 3


def test_a_comparison_says_what_it_is_of(text: Path):
    result: Comparison = compare_models("pocket", ["pocket"], text=text, window=32)
    assert result.text["window_tokens"] == 32
    assert result.text["file"] == "text.txt"
    assert result.dtype in ("float32", "bfloat16")
