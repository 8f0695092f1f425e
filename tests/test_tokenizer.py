"""The tokenizer made from a checkpoint's tokenizer.json, against tiktoken's own o200k."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_mlx.errors import TokenizerError
from gptoss_mlx.special_tokens import GPT_OSS_IDS
from gptoss_mlx.tokenizer import Tokenizer
from tests import o200k

SMALL_SPECIALS = {name: 300 + number for number, name in enumerate(GPT_OSS_IDS)}


@pytest.fixture(scope="session")
def gpt_oss_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer.json in full, as gpt-oss ships it."""
    path = tmp_path_factory.mktemp("gpt-oss") / "tokenizer.json"
    data = o200k.tokenizer_json(o200k.ranks(), o200k.special_ids(), with_merges=True)
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def from_json(gpt_oss_json: Path) -> Tokenizer:
    return Tokenizer.from_file(gpt_oss_json, vocab_size=o200k.VOCAB_SIZE)


def small_vocabulary() -> dict[bytes, int]:
    """All bytes and a few merges."""
    return {bytes((byte,)): byte for byte in range(256)} | {b"th": 256, b"the": 257, b" the": 258}


def small_json() -> dict[str, Any]:
    return o200k.tokenizer_json(small_vocabulary(), SMALL_SPECIALS)


def write(folder: Path, data: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_our_tokenizer_json_is_the_one_that_gpt_oss_ships(gpt_oss_json: Path) -> None:
    assert hashlib.sha256(gpt_oss_json.read_bytes()).hexdigest() == o200k.GPT_OSS_TOKENIZER_SHA256


def test_tokenizer_json_and_rank_file_give_the_same_tokens(from_json: Tokenizer) -> None:
    encoding = o200k.o200k_encoding()
    for text in varied_texts():
        ids = encoding.encode_ordinary(text)
        assert from_json.encode(text) == ids
        assert from_json.decode(ids) == text
        assert from_json.encode_with_special(text) == encoding.encode(text, allowed_special="all")


def varied_texts() -> list[str]:
    """Source code of several kinds, every script in samples, white space runs, special tokens in text."""
    random = Random("varied texts")
    texts = [Path(json.__file__).read_text(encoding="utf-8"), Path(__file__).read_text(encoding="utf-8")]
    blocks = (
        0x20,
        0xA0,
        0x370,
        0x400,
        0x590,
        0x600,
        0x900,
        0xE00,
        0x1100,
        0x2000,
        0x2190,
        0x3040,
        0x4E00,
        0xAC00,
        0xFE00,
    )
    for block in (*blocks, 0x1F300, 0x1F600, 0x20000):
        for length in (1, 2, 3, 31, 32, 33, 200):
            texts.append("".join(chr(block + random.randrange(224)) for _ in range(length)))
    spaces = " \t\n\r\x0b\x0c\x1c\x85\xa0\u2028\u3000"
    texts += ["".join(random.choice(spaces + "ab'") for _ in range(60)) for _ in range(40)]
    texts += [
        "I'm you'LL we'Ve",
        "x" * 5000,
        " " * 5000,
        "1234567890" * 20,
        "",
        "👩‍👩‍👧‍👦🏳️‍🌈",
        *GPT_OSS_IDS,
        "<|end|><|start|>a",
    ]
    return texts


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(max_size=200))
def test_any_text_is_encoded_as_tiktoken_does_and_comes_back(text: str) -> None:
    tokenizer = o200k.o200k_tokenizer()
    ids = tokenizer.encode(text)
    assert ids == o200k.o200k_encoding().encode_ordinary(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert b"".join(tokenizer.token_bytes(token) for token in ids) == text.encode()
    assert not any(tokenizer.is_special(token) for token in ids)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ids=st.lists(st.integers(0, o200k.VOCAB_SIZE - 1), max_size=40))
def test_any_ids_can_be_decoded(ids: list[int]) -> None:
    tokenizer = o200k.o200k_tokenizer()
    data = tokenizer.decode_bytes(ids)
    assert data == b"".join(tokenizer.token_bytes(token) for token in ids)
    assert tokenizer.decode(ids) == data.decode("utf-8", errors="replace")


def test_every_id_up_to_the_embedding_has_a_name_of_its_own(from_json: Tokenizer) -> None:
    assert from_json.vocab_size == o200k.VOCAB_SIZE
    names = {from_json.token_bytes(token) for token in range(o200k.VOCAB_SIZE)}
    assert len(names) == o200k.VOCAB_SIZE
    assert from_json.decode([200018, 200019, 201087]) == "<|endofprompt|><|reserved_200019|><|reserved_201087|>"


def test_special_tokens_are_found_by_name(from_json: Tokenizer) -> None:
    assert {name: from_json.special.id_of(name) for name in GPT_OSS_IDS} == dict(GPT_OSS_IDS)
    assert from_json.is_special(200006)
    assert from_json.is_special(201087)
    assert not from_json.is_special(24912)
    assert not from_json.is_special(o200k.VOCAB_SIZE)


def test_a_lone_surrogate_is_encoded_as_a_replacement_character() -> None:
    tokenizer = o200k.o200k_tokenizer()
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_a_long_run_of_one_character_is_encoded() -> None:
    tokenizer = o200k.o200k_tokenizer()
    for text in ("x" * 200_000, "^" * 200_000, " " * 200_000, "0" * 200_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_small_vocabulary_works_like_the_large_one(tmp_path: Path) -> None:
    write(tmp_path, small_json())
    tokenizer = Tokenizer.from_file(tmp_path)
    assert tokenizer.encode("the the") == [257, 258]
    assert tokenizer.decode([257, 258]) == "the the"
    assert tokenizer.special.start == SMALL_SPECIALS["<|start|>"]
    assert tokenizer.vocab_size == max(SMALL_SPECIALS.values()) + 1
    assert tokenizer.token_bytes(270) == b"<|reserved_270|>"  # a gap in the file
    assert tokenizer.encode("<|start|>") != [tokenizer.special.start]
    assert tokenizer.encode_with_special("<|start|>the") == [tokenizer.special.start, 257]


def test_an_embedding_larger_than_the_file_has_reserved_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(write(tmp_path, small_json()), vocab_size=512)
    assert tokenizer.vocab_size == 512
    assert tokenizer.decode([511]) == "<|reserved_511|>"
    assert tokenizer.is_special(511)


def test_a_file_that_lists_its_added_tokens_twice_is_read(tmp_path: Path) -> None:
    data = small_json()
    data["model"]["vocab"] |= SMALL_SPECIALS
    assert Tokenizer.from_file(write(tmp_path, data)).encode("the") == [257]


def test_a_split_that_removes_what_does_not_match_is_the_same(tmp_path: Path) -> None:
    data = small_json()
    data["pre_tokenizer"]["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
    assert Tokenizer.from_file(write(tmp_path, data)).encode("the the") == [257, 258]


@pytest.mark.parametrize("token", [-1, o200k.VOCAB_SIZE, 2**31, 2**40, -(2**40)])
def test_an_id_outside_the_vocabulary_is_an_error(token: int) -> None:
    tokenizer = o200k.o200k_tokenizer()
    for use in (
        tokenizer.token_bytes,
        lambda token: tokenizer.decode([1, token]),
        lambda t: tokenizer.decode_bytes([t]),
    ):
        with pytest.raises(TokenizerError, match=f"{token} is not a token id.*expected 0 to 201087"):
            use(token)


Damage = Callable[[dict[str, Any]], None]


def model(**changes: Any) -> Damage:
    return lambda data: data["model"].update(changes)


def vocab(**changes: Any) -> Damage:
    return lambda data: data["model"]["vocab"].update(changes)


def without_byte(data: dict[str, Any]) -> None:
    del data["model"]["vocab"]["a"]


def split(**changes: Any) -> Damage:
    return lambda data: data["pre_tokenizer"]["pretokenizers"][0].update(changes)


def byte_level(**changes: Any) -> Damage:
    return lambda data: data["pre_tokenizer"]["pretokenizers"][1].update(changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.pop("model"), 'no "model" object'),
        (model(type="Unigram"), "type 'Unigram'; expected 'BPE'"),
        (model(vocab=[]), 'no "vocab" object'),
        (vocab(the="257"), "the id '257'; expected an integer"),
        (vocab(the=True), "the id True; expected an integer"),
        (vocab(the=3), "one id to two tokens"),
        (vocab(zz=300), "one id to two tokens"),
        (vocab(zz=-1), "the ids -1 to"),
        (vocab(漢=290), "outside the byte-level alphabet"),
        (without_byte, r"no token for the byte 0x61 \(1 of 256"),
        (lambda data: data.update(normalizer={"type": "NFC"}), "changes text before encoding"),
        (lambda data: data.update(added_tokens=None), 'no "added_tokens" list'),
        (lambda data: data["added_tokens"].append({"id": "x", "content": "y"}), "has the added token"),
        (lambda data: data["added_tokens"].append({"id": 305, "content": "y"}), "one id to two tokens"),
        (lambda data: data["added_tokens"].append(7), "has the added token 7"),
        (lambda data: data["added_tokens"].clear(), "no special token"),
        (lambda data: data.update(pre_tokenizer=None), "splits text in another way"),
        (lambda data: data.update(pre_tokenizer={"type": "ByteLevel"}), "splits text in another way"),
        (split(pattern={"String": " "}), "splits text in another way"),
        (split(pattern={"Regex": "("}), "not a usable regular expression"),
        (split(behavior="Removed"), "splits text in another way"),
        (split(invert=True), "splits text in another way"),
        (byte_level(add_prefix_space=True), "splits text in another way"),
        (byte_level(use_regex=True), "splits text in another way"),
    ],
)
def test_a_damaged_or_foreign_file_is_an_error_that_names_it(damage: Damage, message: str, tmp_path: Path) -> None:
    data = small_json()
    damage(data)
    path = write(tmp_path, data)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_file(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith((".", "again.", "checkpoint."))


def test_a_missing_file_is_an_error_that_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer at .*tokenizer\.json.*Point to the checkpoint's folder"):
        Tokenizer.from_file(tmp_path)
    with pytest.raises(TokenizerError, match="no tokenizer at"):
        Tokenizer.from_file(tmp_path / "nowhere" / "tokenizer.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"version https://git-lfs.github.com/spec/v1\n", b"\xff\xfe\x00", b"[" * 100_000, b'{"model": NaN'],
)
def test_a_file_that_is_no_json_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"not valid JSON|no \"model\" object"):
        Tokenizer.from_file(path)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "{}", '{"model": 3}'])
def test_json_of_another_kind_is_an_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(TokenizerError, match='no "model" object'):
        Tokenizer.from_file(path)


def test_an_embedding_smaller_than_the_vocabulary_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="the model has 300 tokens; expected ids from 0 to 299"):
        Tokenizer.from_file(write(tmp_path, small_json()), vocab_size=300)


def test_the_module_loads_neither_mlx_nor_transformers() -> None:
    code = (
        "import sys, gptoss_mlx.harmony, gptoss_mlx.tokenizer;"
        "print([n for n in ('mlx', 'transformers', 'openai_harmony', 'numpy') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
