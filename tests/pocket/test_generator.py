"""The training conversations: the same for one seed, well formed, and apart from the questions of the evaluation."""

import itertools
from random import Random

import pytest

from gptoss_mlx.harmony import Message, TextContent, render_for_training, render_text
from gptoss_mlx.pocket.conversations import LETTERWISE, Conversation, Exchange, is_held_out, plain, words_key
from gptoss_mlx.pocket.evaluate import CATEGORIES, make_questions
from gptoss_mlx.pocket.mixture import (
    TASKS,
    make_conversation,
    make_date,
    make_exchange,
    make_tool_conversation,
    make_use,
)
from gptoss_mlx.pocket.packing import make_rows, sample_texts
from gptoss_mlx.pocket.rendering import conversation_ids, developer_message, system_ids, system_message
from gptoss_mlx.pocket.tasks_numbers import addition_columns, subtraction_columns

EFFORTS = ("low", "medium", "high")


def conversations(seed: int, count: int) -> list[tuple[Conversation, str | None]]:
    rng = Random(seed)
    made = []
    for index in range(count):
        date, effort = make_date(rng), EFFORTS[index % 3]
        tool = index % 4 == 0
        made.append((make_tool_conversation(rng, effort) if tool else make_conversation(rng, effort, date), date))
    return made


def whole(conversation: Conversation, date: str | None) -> list[Message]:
    developer = developer_message(conversation)
    messages = [part.message for part in conversation.parts]
    return [system_message(conversation.effort, date), *([developer] if developer else []), *messages]


def without_marks(message: Message) -> Message:
    return Message(
        message.role,
        tuple(type(item)(plain(item.text)) if isinstance(item, TextContent) else item for item in message.content),
        message.name,
        message.recipient,
        message.channel,
        message.content_type,
    )


def test_one_seed_gives_one_stream():
    assert list(sample_texts(5, 300)) == list(sample_texts(5, 300))
    assert list(sample_texts(5, 300)) != list(sample_texts(6, 300))


def test_tokens_equal_what_the_product_renders(pocket_tokenizer):
    for conversation, date in conversations(1, 400):
        if any(LETTERWISE in part.message.text for part in conversation.parts):
            continue
        ids, weights = conversation_ids(conversation, pocket_tokenizer)
        system = system_ids(conversation.effort, date, bool(conversation.tools), pocket_tokenizer)
        assert system + ids == render_for_training(whole(conversation, date), pocket_tokenizer, drop_analysis="keep")
        assert len(ids) == len(weights)


def test_the_text_of_letterwise_answers_equals_what_the_product_renders(pocket_tokenizer):
    for conversation, date in conversations(2, 400):
        ids, _ = conversation_ids(conversation, pocket_tokenizer)
        system = system_ids(conversation.effort, date, bool(conversation.tools), pocket_tokenizer)
        text = pocket_tokenizer.decode(system + ids)
        expected = render_text([without_marks(each) for each in whole(conversation, date)], drop_analysis="keep")
        assert text.removesuffix("<|return|>") == expected.removesuffix("<|end|>")


def test_analysis_of_finished_turns_is_never_in_the_text():
    for conversation, _ in conversations(3, 400):
        messages = [part.message for part in conversation.parts]
        finals = [index for index, message in enumerate(messages) if message.channel == "final"]
        for index, message in enumerate(messages):
            if message.channel == "analysis":
                assert len(finals) == 1 or index > finals[-2]


def test_only_what_the_assistant_writes_is_learned(pocket_tokenizer):
    for conversation, _ in conversations(4, 200):
        ids, weights = conversation_ids(conversation, pocket_tokenizer)
        text = pocket_tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight])
        assert text.endswith("<|return|>")
        assert "user" not in [part.split("<|message|>")[0] for part in text.split("<|start|>")]


def test_rows_hold_whole_conversations_behind_one_system_message(pocket_tokenizer):
    rows = make_rows(Random(9), pocket_tokenizer, 384, 4)
    for ids, positions, documents, targets in rows:
        assert len(ids) == len(positions) == len(documents) == len(targets) == 384
        system = documents.count(0)
        for number in range(1, max(documents) + 1):
            places = [place for place, document in enumerate(documents) if document == number]
            assert [positions[place] for place in places] == list(range(system, system + len(places)))
            assert targets[places[-1]] == -1
            learned = [place for place in places if targets[place] >= 0]
            assert learned
            assert all(targets[place] == ids[place + 1] for place in learned)
        assert all(target == -1 for target, document in zip(targets, documents, strict=True) if document <= 0)


@pytest.mark.parametrize("task", TASKS)
def test_questions_of_the_evaluation_are_never_trained(task):
    rng = Random(11)
    trained = {make_exchange(rng, "high", task=task).key for _ in range(300)}
    held_out = {make_exchange(rng, "high", held_out=True, task=task).key for _ in range(60)}
    assert held_out
    assert all(is_held_out(key) for key in held_out)
    assert not trained & held_out


def test_uses_of_functions_are_held_out_by_their_arguments():
    rng = Random(12)
    assert not any(is_held_out(make_use(rng).key) for _ in range(200))
    assert all(is_held_out(make_use(rng, held_out=True).key) for _ in range(50))


def test_no_held_out_sum_is_stated_in_training():
    rng = Random(13)
    for _ in range(2000):
        a, b = map(int, make_exchange(rng, "medium", task="addition").key.removeprefix("add:").split(","))
        assert not is_held_out(f"add:{a},{b}")


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_effort_is_asked_the_same_questions(category):
    asked = [[q.messages[-1].text for q in make_questions(category, effort, 5, seed=3)] for effort in EFFORTS]
    assert asked[0] == asked[1] == asked[2]


@pytest.mark.parametrize("task", TASKS)
def test_a_higher_effort_thinks_longer(task, pocket_tokenizer):
    lengths = []
    for effort in EFFORTS:
        exchanges = [make_exchange(Random(seed), effort, task=task) for seed in range(40)]
        lengths.append(sum(len(pocket_tokenizer.encode(each.analysis)) for each in exchanges))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[2]


def test_column_addition_ends_in_the_sum():
    for a, b in itertools.product((0, 7, 19, 99, 345, 999), repeat=2):
        digits = [step.split(": ")[1].split(" ")[0].rstrip(".") for step in addition_columns(a, b).split(". ")]
        assert int("".join(reversed(digits))) == a + b


def test_column_subtraction_ends_in_the_difference():
    for a, b in itertools.combinations((999, 345, 99, 19, 7, 0), 2):
        digits = [step.split("=")[1].split(" ")[0] for step in subtraction_columns(a, b).split(". ")]
        assert int("".join(reversed(digits))) == a - b


def test_a_key_is_free_of_case_and_punctuation():
    assert words_key("fact", "What is MXFP4?") == words_key("fact", "what is mxfp4")


def test_an_exchange_says_what_makes_it_right():
    for task in TASKS:
        exchange: Exchange = make_exchange(Random(5), "high", task=task)
        assert exchange.expected
        assert exchange.expected in plain(exchange.answer)
