"""Stop strings against `str.find` on the whole text."""

from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.stop_strings import StopStrings

letters = st.text("ab\n", max_size=30)


@given(letters, st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.lists(st.integers(1, 5), max_size=30))
def test_however_the_text_is_cut_it_ends_before_the_first_stop(text: str, stops: list[str], cuts: list[int]):
    machine = StopStrings(stops)
    shown = ""
    position = 0
    for size in [*cuts, len(text) + 1]:
        piece, position = text[position : position + size], position + size
        shown += machine.feed(piece)
        assert not any(stop in shown for stop in stops)
    shown += machine.flush()
    first = min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
    if not machine.stopped:
        assert (first, shown) == (None, text)
    else:
        # A short stop that completes earlier wins over a long one that began before it.
        assert first is not None
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)


def test_text_without_stops_is_not_held_back():
    machine = StopStrings([])
    assert machine.feed("abc") == "abc"


def test_only_the_beginning_of_a_stop_is_held_back():
    machine = StopStrings(["###"])
    assert machine.feed("one #") == "one "
    assert machine.feed("two") == "#two"
    assert machine.feed(" ##") == " "
    assert machine.feed("#more") == ""
    assert machine.stopped
    assert machine.feed("never") == ""
