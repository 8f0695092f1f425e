"""Random sessions: whatever people do with their chats, a model that goes on from a pool says what a cold one says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_mlx import cache as cache_module
from gptoss_mlx import kv_places, kv_pool
from gptoss_mlx.kv_pool import KVPool
from gptoss_mlx.model import Model
from gptoss_mlx.ops import CpuOps, Ops, Projection, Recording, ReferenceOps, use_ops
from gptoss_mlx.weights import load_model
from tests.model.recorded_ops import RecordedOps
from tests.random_checkpoint import random_checkpoint
from tests.reuse.sessions import FINAL, SYSTEM, TOOL, USER, WORDS, Session, Turn, said

WINDOW = 8


class NotApartOps(ReferenceOps):
    """Reads a token when the next one is asked for."""

    def runs_apart(self, lm_head: Projection) -> bool:
        return False


OPS: list[Ops] = [
    ReferenceOps(),
    NotApartOps(),
    CpuOps(),
    *(RecordedOps(Recording(ring=ring, full=full)) for ring, full in ((True, True), (True, False), (False, True))),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Model]:
    """A small random model by its window."""
    folder: Path = tmp_path_factory.mktemp("sessions")
    small = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    small |= {"num_key_value_heads": 1, "num_local_experts": 4}
    loaded = {
        window: load_model(
            random_checkpoint(folder / str(window), seed=window, sliding_window=window, **small), dtype=mx.float32
        )
        for window in (WINDOW, 128)
    }
    return lambda window: loaded[window]


@contextmanager
def small_numbers() -> Iterator[None]:
    """Makes places dense, forks cheap and recent rows few, so that short sessions meet all there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "RECENT_TOKENS", 5)
        patch.setattr(kv_pool, "FORK_FROM_TOKENS", 6)
        patch.setattr(kv_pool, "ANSWER_INTERVAL", 7)
        patch.setattr(kv_places, "PROMPT_INTERVAL", 9)
        patch.setattr(kv_places, "LEAST_GAP", 4)
        patch.setattr(kv_places, "RECENT_ENDS", 3)
        yield


TURNS = st.builds(
    Turn,
    thought=st.integers(0, 20),
    answered=st.integers(0, 12),
    calls=st.booleans(),
    stop=st.none() | st.integers(1, 30),
    chunk=st.sampled_from([3, 16, 512]),
    cancel_after=st.sampled_from([None, None, None, None, 0, 1, 3]),
)

ACTIONS = st.sampled_from(["say", "say", "say", "again", "edit", "undo", "fork", "tool", "new", "restart"])

STEPS = st.lists(st.tuples(ACTIONS, st.integers(0, 3), st.integers(0, 30), TURNS), min_size=2, max_size=8)


def play(session: Session, steps: list[tuple[str, int, int, Turn]], words: Callable[[int], list[int]]) -> None:
    """Plays `steps`: what is done, with which conversation, a length, how the answer goes."""
    chats = session.chats
    for action, number, length, turn in steps:
        index = number % len(chats)
        chat = chats[index]
        asked = [position for position, message in enumerate(chat) if message.kind == USER]
        if action == "restart":
            session.restart()
        elif action == "new":
            chats.append((said(SYSTEM, words(length)),) if number % 2 else chats[0][:1])
        elif action == "fork":
            chats.append(chat)
        elif action == "undo" and asked:
            chats[index] = chat[: asked[-1]]
        elif action == "again" and asked:
            chats[index] = session.ask(chat[: asked[-1] + 1], turn)
        elif action == "edit" and asked:
            at = asked[length % len(asked)]
            chats[index] = session.ask((*chat[:at], said(USER, words(length))), turn)
        elif action == "tool" and asked and chat[-1].kind != FINAL:
            chats[index] = session.ask((*chat, said(TOOL, words(length))), turn)
        elif action == "say":
            chats[index] = session.ask((*chat, said(USER, words(length))), turn)


@st.composite
def word_lists(draw: st.DrawFn) -> Callable[[int], list[int]]:
    """Words that are often the same, so that messages have beginnings in common."""
    rng = draw(st.randoms(use_true_random=False))
    return lambda count: [rng.choice((1, 1, 2, rng.randrange(WORDS))) for _ in range(count)]


def assert_a_session_is_exact(models: Callable[[int], Model], data: st.DataObject, *, system: Any, window: int) -> None:
    ops = data.draw(st.sampled_from(OPS))
    words = data.draw(word_lists())
    # Room for everything, for a conversation or two, for none.
    pool = KVPool(data.draw(st.sampled_from([1 << 40, 1 << 40, 400_000, 1])))
    session = Session(models(window), pool, [(said(SYSTEM, words(data.draw(system))),)])
    with use_ops(ops):
        play(session, data.draw(STEPS), words)
    assert session.pool.nbytes <= pool.limit_bytes


SLOW_TO_DRAW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=SLOW_TO_DRAW)
def test_fifty_random_sessions_say_what_a_cold_model_says(models: Callable[[int], Model], data: st.DataObject) -> None:
    with small_numbers():
        assert_a_session_is_exact(models, data, system=st.integers(0, 40), window=WINDOW)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@given(data=st.data())
@settings(max_examples=500, deadline=None, suppress_health_check=SLOW_TO_DRAW)
def test_five_hundred_random_sessions_say_what_a_cold_model_says(
    models: Callable[[int], Model], data: st.DataObject
) -> None:
    with small_numbers():
        assert_a_session_is_exact(models, data, system=st.integers(0, 40), window=WINDOW)


LENGTHS = st.sampled_from([100, 126, 130, 255, 383, 385, 500, 770]) | st.integers(0, 600)
"""Around the window, twice and three times that, and chunks."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=SLOW_TO_DRAW)
def test_so_they_do_with_the_models_own_window_and_long_prompts(
    models: Callable[[int], Model], data: st.DataObject
) -> None:
    assert_a_session_is_exact(models, data, system=LENGTHS | st.sampled_from([4080, 4095, 4200]), window=128)
