"""The renderer against openai-harmony, token by token, over conversations of every kind."""

from random import Random
from typing import Any

import openai_harmony
import pytest

from gptoss_mlx.harmony import (
    ROLES,
    Message,
    render_conversation,
    render_for_completion,
    render_for_training,
    render_message,
    render_text,
)
from gptoss_mlx.tokenizer import Tokenizer
from tests.harmony.conversations import conversation, message, oracle_json

SEEDS = range(12)
CONVERSATIONS_PER_SEED = 250


class Oracle:
    """openai-harmony's own renderer by its JSON interface: its Python classes drop nulls from schemas."""

    def __init__(self, encoding: openai_harmony.HarmonyEncoding) -> None:
        self.inner: Any = encoding._inner

    def conversation(self, messages: list[Message], *, drop: bool) -> list[int]:
        config = {"auto_drop_analysis": drop}
        return self.inner.render_conversation(conversation_json=oracle_json(messages), config=config)

    def completion(self, messages: list[Message], role: str, *, drop: bool) -> list[int]:
        return self.inner.render_conversation_for_completion(
            conversation_json=oracle_json(messages), next_turn_role=role, config={"auto_drop_analysis": drop}
        )

    def training(self, messages: list[Message], *, drop: bool) -> list[int]:
        config = {"auto_drop_analysis": drop}
        return self.inner.render_conversation_for_training(conversation_json=oracle_json(messages), config=config)

    def message(self, item: Message, *, with_functions: bool) -> list[int]:
        json_text = oracle_json([item]).removeprefix('{"messages": [').removesuffix("]}")
        options = {"conversation_has_function_tools": with_functions}
        return self.inner.render(message_json=json_text, render_options=options)


@pytest.mark.parametrize("seed", SEEDS)
def test_conversations_get_the_tokens_of_openai_harmony(
    seed: int, tokenizer: Tokenizer, oracle: openai_harmony.HarmonyEncoding
) -> None:
    random = Random(f"render {seed}")
    reference = Oracle(oracle)
    for number in range(CONVERSATIONS_PER_SEED):
        messages = conversation(random)
        drop = number % 2 == 0
        drop_analysis = "upstream" if drop else "keep"
        match number % 3:
            case 0:
                ours = render_conversation(messages, tokenizer, drop_analysis=drop_analysis)
                theirs = reference.conversation(messages, drop=drop)
            case 1:
                role = random.choice(ROLES)
                ours = render_for_completion(messages, tokenizer, next_role=role, drop_analysis=drop_analysis)
                theirs = reference.completion(messages, role, drop=drop)
            case _:
                # openai-harmony replaces the last token even where the last message was dropped; none is here.
                ours = render_for_training(messages, tokenizer, drop_analysis=drop_analysis)
                theirs = reference.training(messages, drop=drop)
        assert ours == theirs, (tokenizer.decode(ours), tokenizer.decode(theirs), messages)


@pytest.mark.parametrize("seed", range(2))
def test_single_messages_get_the_tokens_of_openai_harmony(
    seed: int, tokenizer: Tokenizer, oracle: openai_harmony.HarmonyEncoding
) -> None:
    random = Random(f"message {seed}")
    reference = Oracle(oracle)
    for number in range(200):
        item = message(random)
        with_functions = number % 2 == 0
        ours = render_message(item, tokenizer, with_functions=with_functions)
        assert ours == reference.message(item, with_functions=with_functions), item


def test_the_text_form_is_what_the_tokens_decode_to(tokenizer: Tokenizer) -> None:
    random = Random("text form")
    for _ in range(200):
        messages = conversation(random)
        assert render_text(messages) == tokenizer.decode(render_conversation(messages, tokenizer))
        completion = render_for_completion(messages, tokenizer)
        assert render_text(messages, next_role="assistant") == tokenizer.decode(completion)
