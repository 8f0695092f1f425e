"""The pocket model on two ranks of this machine answers as on one, and outlives the loss of ranks."""

import os
import signal
import time
from collections import deque
from collections.abc import Callable

import pytest

from gptoss_mlx import GptOss, HostLost, load
from gptoss_mlx.events import PromptProgress, TextDelta
from gptoss_mlx.options import OptionArguments
from tests.hosts.processes import marked_processes

QUESTION = "What is 17 plus 25?"
PATIENCE_SECONDS = 4.0


def pids(model: GptOss) -> list[int]:
    hosted = model._hosted
    assert hosted is not None
    return [pid for pid in hosted.pids if pid]


def test_answers_are_those_of_one_machine(two: GptOss, pocket: GptOss) -> None:
    choices: list[OptionArguments] = [
        {"temperature": 0.0, "max_tokens": 16},
        {"seed": 8, "top_p": 0.9, "repetition_penalty": 1.1, "max_tokens": 16},
    ]
    for options in choices:
        one, other = (model.ask(QUESTION, **options) for model in (two, pocket))
        assert one.tokens == other.tokens
    assert [share.rank for share in two.hosts] == [0, 1]
    assert two.memory().active_bytes >= sum(share.weights_bytes for share in two.hosts) // 2


def test_a_chat_reads_nothing_twice(two: GptOss, pocket: GptOss) -> None:
    chats = [model.chat(temperature=0.0, max_tokens=40) for model in (two, pocket)]
    for question in (QUESTION, "And 3 plus 4?"):
        one, other = (chat.send(question) for chat in chats)
        assert one.text == other.text
        assert one.stats.cached_tokens == other.stats.cached_tokens
    assert one.stats.cached_tokens > 40
    one, other = (chat.regenerate() for chat in chats)
    assert (one.text, one.stats.cached_tokens) == (other.text, other.stats.cached_tokens)


def test_answers_are_held_to_a_form(two: GptOss, pocket: GptOss) -> None:
    one, other = (model.ask(QUESTION, choices=["forty", "42", "none"], seed=3) for model in (two, pocket))
    assert one.text in ("forty", "42", "none")
    assert one.text == other.text


def test_prompts_are_answered_together(two: GptOss, pocket: GptOss) -> None:
    prompts = [QUESTION, "What is 1 plus 1?", "What is the capital of France?"]
    one, other = (model.generate_batch(prompts, temperature=0.0, max_tokens=6) for model in (two, pocket))
    assert [reply.text for reply in one] == [reply.text for reply in other]


def test_an_answer_stops_when_told_and_the_next_one_goes_on(two: GptOss) -> None:
    chat = two.chat(temperature=0.0)
    stream = chat.stream("Count from 1 to 50.", max_tokens=500)
    for event in stream.events():
        if isinstance(event, TextDelta):
            break
    stream.cancel()
    assert stream.reply.finish_reason == "cancelled"
    assert chat.send(QUESTION, max_tokens=8).stats.cached_tokens > 0


def test_a_prompt_stops_between_two_chunks(two: GptOss) -> None:
    stream = two.stream("word " * 400, max_tokens=4, prefill_chunk=32)
    for event in stream.events():
        if isinstance(event, PromptProgress) and event.done >= 64:
            break
    stream.cancel()
    assert stream.reply.finish_reason == "cancelled"
    assert stream.reply.stats.generated_tokens == 0


def test_what_was_read_is_not_kept_in_files(two: GptOss, tmp_path) -> None:
    chat = two.chat(temperature=0.0, max_tokens=4)
    chat.send(QUESTION)
    saved = two.save_kv(chat, tmp_path / "kept")
    assert (saved.tokens, saved.file_bytes) == (0, 0)
    assert not (tmp_path / "kept").exists()
    assert two.load_kv(tmp_path / "kept") == 0


def lose(model: GptOss, harm: Callable[[], None]) -> HostLost:
    """Does `harm` in the midst of an answer; the error that comes of it. All else is as it was."""
    chat = model.chat(temperature=0.0)
    chat.send(QUESTION, max_tokens=8)
    before, ranks = chat.turns, pids(model)
    events = chat.stream("Count from 1 to 90.", max_tokens=4000).events()
    next(event for event in events if isinstance(event, TextDelta))
    harm()
    began = time.monotonic()
    with pytest.raises(HostLost, match="the next message starts the hosts again") as caught:
        deque(events)
    assert time.monotonic() - began < PATIENCE_SECONDS + 5
    assert chat.turns == before
    assert not any(alive(pid) for pid in ranks)
    return caught.value


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_turn_and_the_next_message_starts_it_again(
    two: GptOss, pocket: GptOss, mark: str
) -> None:
    error = lose(two, lambda: os.kill(pids(two)[1], signal.SIGKILL))
    assert "127.0.0.1 (rank 1) is lost: its process was ended by SIGKILL" in str(error)
    one, other = (model.ask(QUESTION, temperature=0.0, max_tokens=12) for model in (two, pocket))
    assert one.tokens == other.tokens
    if os.path.isdir("/proc/1"):
        assert len(marked_processes(mark)) == 2


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_turn(two: GptOss) -> None:
    error = lose(two, lambda: os.kill(pids(two)[0], signal.SIGSTOP))
    assert "127.0.0.1 (rank 0) has said nothing for" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGKILL), (1, signal.SIGSTOP), (1, signal.SIGSEGV)])
def test_any_rank_may_be_lost_in_any_way(two: GptOss, pocket: GptOss, rank: int, number: signal.Signals) -> None:
    error = lose(two, lambda: os.kill(pids(two)[rank], number))
    assert f"127.0.0.1 (rank {rank})" in str(error)
    one, other = (model.ask(QUESTION, temperature=0.0, max_tokens=12) for model in (two, pocket))
    assert one.tokens == other.tokens


@pytest.mark.slow
def test_a_model_can_be_closed_while_a_rank_hangs(mark: str) -> None:
    model = load("pocket", hosts=["127.0.0.1"] * 2, host_timeout_seconds=60.0)
    ranks = pids(model)
    stream = model.stream("Count from 1 to 90.", max_tokens=4000)
    next(iter(stream.events()))
    os.kill(ranks[1], signal.SIGSTOP)
    began = time.monotonic()
    model.close()
    assert time.monotonic() - began < 20
    assert not any(alive(pid) for pid in ranks)


@pytest.mark.slow
def test_ranks_that_were_lost_while_nobody_asked_are_started_again_unnoticed(two: GptOss, pocket: GptOss) -> None:
    two.ask(QUESTION, max_tokens=2)
    os.kill(pids(two)[0], signal.SIGKILL)
    time.sleep(1)
    one, other = (model.ask(QUESTION, temperature=0.0, max_tokens=12) for model in (two, pocket))
    assert one.tokens == other.tokens
