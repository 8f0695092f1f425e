"""The pool of KV caches: what a prompt goes on from, what is copied, and what is let go."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.device import this_device
from gptoss_mlx.kv_pool import (
    FORK_FROM_TOKENS,
    LEAST_LIMIT_BYTES,
    HeldCache,
    KVPool,
    common_prefix,
    default_limit_bytes,
)
from gptoss_mlx.model import Model
from gptoss_mlx.weights import load_model
from tests.random_checkpoint import random_checkpoint
from tests.reuse.sessions import CALL, END, FINAL, SYSTEM, TOOL, USER, Conversation, Session, Turn, counted, said

WINDOW = 8
NO_LIMIT = 1 << 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("pool")
    return load_model(
        random_checkpoint(
            folder,
            seed=5,
            sliding_window=WINDOW,
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
        ),
        dtype=mx.float32,
    )


@pytest.fixture
def session(model: Model) -> Session:
    return make_session(model)


def make_session(model: Model, limit_bytes: int = NO_LIMIT) -> Session:
    return Session(model, KVPool(limit_bytes))


def words(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 50, count).tolist()


def opened(system: int = 20, question: int = 15, seed: int = 0) -> Conversation:
    return said(SYSTEM, words(system)), said(USER, words(question, seed))


def test_a_prompt_that_nobody_has_seen_is_read_from_its_beginning(session: Session):
    session.ask(opened(), Turn())
    assert session.log[-1][1] == 0


def test_the_next_turn_reads_the_last_answer_and_the_question_and_nothing_else(session: Session):
    first = session.ask(opened(), Turn(thought=40, answered=12))
    prompt = session.log[-1][0]
    session.ask((*first, said(USER, words(9, 1))), Turn())
    total, cached, _ = session.log[-1]
    assert cached >= prompt
    assert total - cached <= len(first[-1].tokens) + 9 + 3


def test_a_tools_result_is_all_that_is_read_of_a_running_turn(session: Session):
    calling = session.ask(opened(), Turn(thought=30, answered=10, calls=True))
    session.ask((*calling, said(TOOL, words(25, 2))), Turn())
    total, cached, _ = session.log[-1]
    assert total - cached <= 25 + 3 + 2 + 1


def test_after_tools_the_next_turn_goes_back_to_where_the_answers_began(session: Session):
    chat, prompts = opened(), []
    for result in range(3):
        chat = session.ask(chat, Turn(thought=60, answered=10, calls=True))
        prompts.append(session.log[-1][0])
        chat = (*chat, said(TOOL, words(100, result)))
    chat = session.ask(chat, Turn(thought=60, answered=10))
    session.ask((*chat, said(USER, words(5, 9))), Turn())
    assert session.log[-1][1] >= prompts[0]
    assert len(session.pool) == 1


def test_another_answer_reads_one_token(session: Session):
    session.ask(opened(), Turn(thought=40))
    session.ask(opened(), Turn(thought=3))
    total, cached, _ = session.log[-1]
    assert total - cached == 1


def test_an_edited_question_is_read_from_where_it_differs(session: Session):
    chat = opened()
    for seed in range(1, 4):
        chat = (*session.ask(chat, Turn()), said(USER, words(10, seed)))
    session.ask(chat, Turn())
    edited = (*chat[:-1], said(USER, words(10, 7)))
    session.ask(edited, Turn())
    total, cached, _ = session.log[-1]
    assert total - cached <= 10 + 3 + 2


def test_an_answer_that_was_stopped_is_gone_on_from_to_its_last_token(session: Session):
    stopped = session.ask(opened(), Turn(thought=50, stop=20))
    session.ask((*stopped, said(USER, words(6, 3))), Turn())
    total, cached, _ = session.log[-1]
    # The end of the reasoning, the question and the start of the answer; the last token of the answer may be unread.
    assert total - cached <= 1 + 1 + (6 + 3) + 2


def test_a_prompt_whose_reading_was_cancelled_is_taken_up_where_it_stopped(session: Session):
    session.ask(opened(100), Turn(chunk=10, cancel_after=6))
    session.ask(opened(100), Turn())
    assert session.log[-1][1] == 60


def test_branches_go_on_side_by_side(session: Session):
    trunk = session.ask(opened(30, 20), Turn())
    branches = [(*trunk, said(USER, words(FORK_FROM_TOKENS + 50, seed))) for seed in (1, 2)]
    branches = [session.ask(branch, Turn()) for branch in branches]
    assert len(session.pool) == 2
    for turn in range(3):
        for index, branch in enumerate(branches):
            branches[index] = session.ask((*branch, said(USER, words(8, 10 + turn))), Turn())
            total, cached, _ = session.log[-1]
            assert total - cached < 60
    assert len(session.pool) == 2


def test_conversations_share_their_system_message_and_no_other_is_lost_for_it(session: Session):
    system = said(SYSTEM, words(90))
    chats = [(system, said(USER, words(FORK_FROM_TOKENS + 40, seed))) for seed in range(3)]
    chats = [session.ask(chat, Turn()) for chat in chats]
    assert [cached >= len(system.tokens) for _, cached, _ in session.log] == [False, True, True]
    assert len(session.pool) == 3
    for chat in chats:
        session.ask((*chat, said(USER, words(5, 8))), Turn())
        total, cached, _ = session.log[-1]
        assert total - cached < 40


def test_a_short_tail_is_written_over_and_not_copied(session: Session):
    system = said(SYSTEM, words(90))
    for seed in range(3):
        session.ask((system, said(USER, words(20, seed))), Turn())
    assert len(session.pool) == 1


def test_the_least_recently_used_go_when_the_limit_is_reached(model: Model):
    probe = make_session(model)
    probe.ask(opened(20, 300), Turn())
    session = make_session(model, int(2.5 * probe.pool.nbytes))
    chats = [(said(SYSTEM, words(20, seed)), said(USER, words(300, seed))) for seed in (1, 2, 3)]
    for chat in (chats[0], chats[1], chats[0], chats[2]):
        session.ask(chat, Turn())
        assert session.pool.nbytes <= session.pool.limit_bytes
    assert len(session.pool) == 2
    cached = []
    for chat in (chats[2], chats[0], chats[1]):
        session.ask(chat, Turn())
        cached.append(session.log[-1][1] > 0)
    assert cached == [True, True, False]


def test_a_branch_is_not_copied_where_it_does_not_fit(model: Model):
    probe = make_session(model)
    probe.ask(opened(200, 400), Turn())
    session = make_session(model, int(1.2 * probe.pool.nbytes))
    for seed in range(3):
        session.ask(opened(200, 400, seed), Turn())
        assert session.pool.nbytes <= session.pool.limit_bytes
    assert len(session.pool) == 1
    assert [cached > 0 for _, cached, _ in session.log] == [False, True, True]


@pytest.mark.parametrize("limit_bytes", [0, 1000])
def test_without_room_nothing_is_kept(model: Model, limit_bytes: int):
    session = make_session(model, limit_bytes)
    for _ in range(2):
        session.ask(opened(), Turn())
    assert [cached for _, cached, _ in session.log] == [0, 0]
    assert (len(session.pool), session.pool.nbytes) == (0, 0)


def test_without_reuse_no_places_are_made(model: Model):
    held = KVPool(0).take(model.make_cache, words(100), start=100, end_ids={END})
    mx.eval(model.read(mx.array([words(100)]), held.cache))
    held.collect()
    held.heard(END, 100)
    assert held.places == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_is_flat_over_a_thousand_turns(model: Model):
    session = make_session(model, 600_000)
    chat, most, peaks = opened(), 0, []
    for turn in range(1000):
        if len(chat) > 16:
            chat = opened(seed=turn)
        chat = (*session.ask(chat, Turn(thought=turn % 4, answered=2, stop=4)), said(USER, words(3, turn)))
        most = max(most, session.pool.nbytes)
        if turn % 100 == 99:
            peaks.append(mx.get_active_memory())
    assert most <= 600_000
    assert max(peaks[5:]) <= max(peaks[:5]) + 200_000


def test_a_turn_that_fails_gives_nothing_back_and_the_next_begins_anew(model: Model, monkeypatch: pytest.MonkeyPatch):
    session = make_session(model)
    chat = (*session.ask(opened(), Turn()), said(USER, words(9, 4)))

    def fail(*arguments: object) -> mx.array:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(model, "_read", fail)
        with pytest.raises(MemoryError):
            session.ask(chat, Turn())
    assert len(session.pool) == 0
    session.ask(chat, Turn())
    assert session.log[-1][1] == 0


def test_what_is_said_to_be_read_is_what_the_model_reads(model: Model, monkeypatch: pytest.MonkeyPatch):
    session = make_session(model)

    def count(tokens: int) -> None:
        session.read += tokens

    monkeypatch.setattr(model, "_read", model._read)
    counted(model, count)
    chat = opened()
    for seed in range(5):
        chat = (*session.ask(chat, Turn(thought=12)), said(USER, words(7, seed)))
    for total, cached, read in session.log:
        assert read == total - cached
    assert sum(cached for _, cached, _ in session.log) > 0


def test_a_cache_does_not_go_back_to_places_that_were_written_over(model: Model):
    held = HeldCache(model.make_cache())
    held.begin(words(60), 60, {END})
    mx.eval(model.read(mx.array([words(60)]), held.cache))
    held.collect()
    held.tokens = words(60)
    middle = held.cache.snapshot()
    held.heard(END, 60)
    assert [place.offset for place in held.places] == [60]
    held.go_to(59)
    assert held.places == []
    assert held.usable(words(60)) == 59
    assert held.cache.can_restore(middle)


def test_the_first_token_that_differs_is_found_anywhere():
    one = words(5000)
    for at in (0, 1, 1023, 1024, 1025, 4999):
        other = [*one[:at], 99, *one[at + 1 :]]
        assert common_prefix(one, other) == common_prefix(other, one) == at
    assert common_prefix(one, one[:2000]) == 2000
    assert common_prefix([], one) == 0


def test_the_default_limit_leaves_room_for_the_weights_and_everything_else():
    gib = 1 << 30
    machine = replace(this_device(), memory_bytes=64 * gib, working_set_bytes=48 * gib)
    assert default_limit_bytes(machine, 13 * gib) == pytest.approx((64 * 0.65 - 13) / 2 * gib, abs=2)
    small = replace(machine, memory_bytes=16 * gib, working_set_bytes=11 * gib)
    assert default_limit_bytes(small, 13 * gib) == LEAST_LIMIT_BYTES


def test_calls_end_messages_too(model: Model):
    session = make_session(model)
    calling = session.ask(opened(), Turn(thought=20, answered=5, calls=True))
    assert calling[-1].tokens[-1] == CALL
    assert FINAL not in {message.kind for message in calling}
    assert any(place.offset > session.log[-1][0] for place in session.pool._held[0].places)
