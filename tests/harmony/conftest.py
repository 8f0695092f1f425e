"""What the harmony tests share: gpt-oss's tokenizer, and openai-harmony as an oracle."""

import openai_harmony
import pytest

from gptoss_mlx.tokenizer import Tokenizer
from tests import o200k


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return o200k.o200k_tokenizer()


@pytest.fixture(scope="session")
def oracle() -> openai_harmony.HarmonyEncoding:
    return o200k.oracle()
