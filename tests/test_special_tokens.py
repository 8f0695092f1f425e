"""The special tokens of a vocabulary, found by name."""

import pytest

from gptoss_mlx.errors import TokenizerError
from gptoss_mlx.special_tokens import CALL, END, ENDOFTEXT, GPT_OSS_IDS, RETURN, START, SpecialTokens, reserved_name


def test_the_ids_of_gpt_oss_are_those_of_its_vocabulary() -> None:
    special = SpecialTokens.from_names(GPT_OSS_IDS)
    assert special.start == 200006
    assert special.end == 200007
    assert special.message == 200008
    assert special.channel == 200005
    assert special.constrain == 200003
    assert special.return_ == 200002
    assert special.call == 200012
    assert special.endoftext == 199999
    assert special.startoftext == 199998


def test_another_vocabulary_has_other_ids_under_the_same_names() -> None:
    ids = {name: 3000 + number for number, name in enumerate(GPT_OSS_IDS)}
    special = SpecialTokens.from_names({**ids, "<|more|>": 9})
    assert {name: special.id_of(name) for name in GPT_OSS_IDS} == ids


def test_generation_stops_at_return_call_and_endoftext() -> None:
    special = SpecialTokens.from_names(GPT_OSS_IDS)
    assert special.stop_ids == {GPT_OSS_IDS[RETURN], GPT_OSS_IDS[CALL], GPT_OSS_IDS[ENDOFTEXT]}


def test_a_message_ends_at_end_return_and_call() -> None:
    special = SpecialTokens.from_names(GPT_OSS_IDS)
    assert special.message_end_ids == {GPT_OSS_IDS[END], GPT_OSS_IDS[RETURN], GPT_OSS_IDS[CALL]}


def test_missing_special_tokens_are_named_with_the_file() -> None:
    ids = {name: number for name, number in GPT_OSS_IDS.items() if name not in (START, END)}
    with pytest.raises(TokenizerError, match=r"x\.json has no special token .*start.*end.*Use the tokenizer\.json"):
        SpecialTokens.from_names(ids, source="x.json")


def test_text_that_is_no_special_token_has_no_id() -> None:
    with pytest.raises(KeyError):
        SpecialTokens.from_names(GPT_OSS_IDS).id_of("start")


def test_an_unnamed_id_is_called_reserved() -> None:
    assert reserved_name(200_500) == "<|reserved_200500|>"
