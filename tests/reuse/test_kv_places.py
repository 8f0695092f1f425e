"""Which places are kept: few, the useful ones, and never far from where one wants to go back to."""

from bisect import bisect_right
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.kv_places import (
    ANSWER_INTERVAL,
    FIRST_ENDS,
    LEAST_GAP,
    PROMPT_INTERVAL,
    RECENT_ENDS,
    SPACING,
    kept_places,
    prompt_ends,
    prompt_places,
)

END = 7
MESSAGES = st.lists(st.integers(1, 3000), min_size=1, max_size=120)


@given(messages=MESSAGES)
def test_few_places_are_kept_and_the_ends_of_recent_messages_are_among_them(messages: list[int]):
    ends = list(accumulate(messages))
    length = ends[-1]
    kept = kept_places(ends, range(PROMPT_INTERVAL, length, PROMPT_INTERVAL), length)
    assert kept == sorted(set(kept))
    assert {*ends[:FIRST_ENDS], *ends[-RECENT_ENDS:]} <= set(kept)
    assert len(kept) < 50


def test_at_the_full_context_under_forty_are_kept():
    ends = range(300, 131_073, 300)
    assert len(kept_places(ends, range(512, 131_072, 512), 131_072)) < 40


@given(messages=MESSAGES, data=st.data())
def test_going_back_reads_again_in_proportion_to_how_far_one_goes(messages: list[int], data: st.DataObject):
    # As a conversation grows: what was let go earlier is gone.
    kept: list[int] = []
    ends: list[int] = []
    length = 0
    for message in messages:
        between = range(length, length + message, ANSWER_INTERVAL)
        length += message
        ends.append(length)
        known = {*kept, *between, length}
        kept = kept_places([end for end in ends if end in known], known.difference(ends), length)
    target = data.draw(st.integers(0, length))
    nearest = kept[bisect_right(kept, target) - 1] if kept[0] <= target else 0
    distance = length - target
    # Places stand at whole tokens.
    assert target - nearest <= ANSWER_INTERVAL + LEAST_GAP + 2 * distance / SPACING + 1


def test_a_cold_prompt_is_kept_at_its_end_where_answers_begin_and_between_long_messages():
    prompt = [1] * 40 + [END] + [1] * 30 + [END] + [1] * 1200 + [END] + [2, 3]
    ends = prompt_ends(prompt, {END}, len(prompt))
    # The last user message's end is two tokens before the start of the answers, which serves for both.
    assert ends == [41, 72, 1275]
    assert prompt_places(prompt, ends, 0) == [41, 72, 512, 1024, 1275]
    assert prompt_places(prompt, ends, 600) == [1024, 1275]


def test_messages_that_end_after_the_answers_began_are_places_too():
    prompt = [1] * 40 + [END, 2, 3] + [4] * 20 + [END] + [5] * 9 + [END, 2, 3]
    assert prompt_ends(prompt, {END}, 43) == [43, 64, 74]


def test_a_question_of_a_word_does_not_cost_the_place_before_it():
    prompt = [1] * 40 + [END] + [9, END] + [2, 3]
    assert prompt_ends(prompt, {END}, len(prompt)) == [41, 45]
