"""Masks over the whole vocabulary of gpt-oss: what may follow may follow, and nothing special ever does."""

import numpy as np
import pytest

from gptoss_mlx.structured.grammar import Matcher, choices_grammar, regex_grammar, schema_grammar
from tests.o200k import o200k_tokenizer
from tests.structured.example_schemas import EXAMPLES, NUMBER, TEXT, many, record

TOKENIZER = o200k_tokenizer()
RETURN = TOKENIZER.special.return_

PERSON = schema_grammar(record(name=TEXT, tags=many(TEXT), size=NUMBER), "schema")
ADA = '{"name": "Ada \\"Countess\\" Löveläce 🧮", "tags": [],\n  "size": -1.5e3}'


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (PERSON, ADA),
        (PERSON, ADA.replace(" ", "").replace("\n", "")),
        (regex_grammar("[a-z]+ 🧮 [0-9]{2}"), "grüne 🧮 42".replace("ü", "u")),
        (choices_grammar(["red wine", 'a "quoted" one', "grün 🧮", "re"]), 'a "quoted" one'),
        (choices_grammar(["red wine", 'a "quoted" one', "grün 🧮", "re"]), "grün 🧮"),
        (choices_grammar(["red wine", "re"]), "re"),
    ],
)
def test_the_tokens_of_a_text_that_fits_are_allowed_one_after_the_other(grammar: str, text: str):
    matcher = Matcher(grammar, TOKENIZER, RETURN)
    special = np.array([TOKENIZER.is_special(token) for token in range(TOKENIZER.vocab_size)])
    for token in TOKENIZER.encode(text):
        allowed = matcher.allowed()
        assert allowed.shape == (TOKENIZER.vocab_size,)
        assert allowed[token]
        assert set(np.flatnonzero(allowed & special)) <= {RETURN}
        assert matcher.accept(token)
    assert matcher.complete
    assert matcher.allowed()[RETURN]


def test_an_end_may_be_another_token_than_return():
    matcher = Matcher(choices_grammar(["a"]), TOKENIZER, TOKENIZER.special.call)
    assert not matcher.allowed()[TOKENIZER.special.call]
    assert matcher.accept(TOKENIZER.encode("a")[0])
    assert list(np.flatnonzero(matcher.allowed())) == [TOKENIZER.special.call]


def test_a_token_that_does_not_fit_is_refused_and_changes_nothing():
    matcher = Matcher(PERSON, TOKENIZER, RETURN)
    before = matcher.allowed()
    assert not matcher.accept(TOKENIZER.encode("x")[0])
    assert np.array_equal(before, matcher.allowed())


def test_white_space_has_a_bound():
    matcher = Matcher(PERSON, TOKENIZER, RETURN)
    for token in TOKENIZER.encode('{"name": "a"'):
        assert matcher.accept(token)
    assert matcher.accept(TOKENIZER.encode("\n")[0])
    blank = TOKENIZER.encode(" ")[0]
    assert sum(matcher.accept(blank) for _ in range(100)) == 40


def test_the_way_to_the_end_of_a_text_is_found_where_a_character_is_missing():
    matcher = Matcher(schema_grammar(EXAMPLES["username"], "schema"), TOKENIZER, RETURN)
    for token in TOKENIZER.encode('{"username":"@ada","email":"ada'):
        assert matcher.accept(token)
    quote = TOKENIZER.encode('"')[0]
    path = matcher.path_to(quote)
    assert TOKENIZER.decode(path).startswith("@")
    for token in path:
        assert matcher.accept(token)
    assert matcher.accept(quote)
