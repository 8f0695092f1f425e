"""The pocket model's vocabulary: a subset of o200k that any text survives."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.pocket.vocabulary import (
    close_under_merges,
    is_allowed,
    last_merge,
    load_o200k_ranks,
    make_tokenizer,
    write_tokenizer,
)
from gptoss_mlx.special_tokens import GPT_OSS_IDS
from gptoss_mlx.tokenizer import Tokenizer
from tests.o200k import RANK_FILE

FILE = POCKET_FOLDER / "tokenizer.json"


@pytest.fixture(scope="module")
def ranks() -> Mapping[bytes, int]:
    return load_o200k_ranks(RANK_FILE)


@pytest.fixture(scope="module")
def tokens(pocket_tokenizer: Tokenizer) -> list[bytes]:
    ordinary = (token for token in range(pocket_tokenizer.vocab_size) if not pocket_tokenizer.is_special(token))
    return [pocket_tokenizer.token_bytes(token) for token in ordinary]


def test_every_token_is_one_of_o200k_and_they_keep_its_order(tokens, ranks):
    order = [ranks[token] for token in tokens]
    assert order == sorted(order)
    assert 2000 <= len(order) <= 4000


def test_all_bytes_are_tokens_and_every_token_is_merged_from_two_others(tokens, ranks):
    known = set(tokens)
    assert {bytes((byte,)) for byte in range(256)} <= known
    for token in tokens:
        if len(token) > 1:
            assert set(last_merge(token, ranks)) <= known


def test_closing_the_tokens_again_adds_nothing(tokens, ranks):
    assert close_under_merges(tokens, ranks) == set(tokens)


def test_a_digit_is_always_a_token_of_its_own(tokens, pocket_tokenizer):
    assert all(is_allowed(token) for token in tokens)
    assert [pocket_tokenizer.decode([token]) for token in pocket_tokenizer.encode("a1234b")] == list("a1234b")


def test_special_tokens_follow_the_ordinary_ones_in_the_order_of_gpt_oss(tokens, pocket_tokenizer):
    offset = len(tokens) - 199998
    for name, number in GPT_OSS_IDS.items():
        assert pocket_tokenizer.special.id_of(name) == number + offset
    assert pocket_tokenizer.vocab_size == len(tokens) + 21


def test_the_file_can_be_made_again_from_its_tokens(tokens, ranks, tmp_path):
    write_tokenizer(make_tokenizer(tokens, ranks), tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == FILE.read_bytes()


def test_every_merge_of_the_file_joins_two_tokens_into_a_third():
    model = json.loads(FILE.read_text(encoding="utf-8"))["model"]
    for left, right in model["merges"]:
        assert {left, right, left + right} <= model["vocab"].keys()


@given(text=st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_survives_the_round_trip(text):
    tokenizer = _tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _tokenizer(cache: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006 (one tokenizer for all examples)
    if not cache:
        cache.append(Tokenizer.from_file(FILE))
    return cache[0]
