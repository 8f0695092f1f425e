"""Messages come out as they went in, and what is no message is refused."""

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.hosts.frames import MARK, PREFIX, BrokenLine, FrameReader, FrameWriter

VALUES = st.dictionaries(
    st.text(max_size=5), st.integers() | st.text(max_size=20) | st.lists(st.integers()), max_size=4
)
ARRAYS = st.none() | st.lists(st.integers(0, 3), min_size=0, max_size=3).flatmap(
    lambda shape: st.sampled_from(("float32", "int32", "uint32", "uint8")).map(
        lambda dtype: np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    )
)


@pytest.fixture
def line() -> Iterator[tuple[FrameWriter, FrameReader]]:
    incoming, outgoing = os.pipe()
    writer, reader = FrameWriter(outgoing), FrameReader(incoming)
    yield writer, reader
    writer.close()
    reader.close()


@given(st.lists(st.tuples(VALUES.filter(lambda values: "array" not in values), ARRAYS), max_size=3))
@settings(deadline=None, max_examples=30)
def test_messages_come_as_they_went(messages) -> None:
    incoming, outgoing = os.pipe()
    writer, reader = FrameWriter(outgoing), FrameReader(incoming)
    for values, array in messages:
        writer.write(values, array)
    writer.close()
    for values, array in messages:
        found = reader.read()
        assert found is not None
        assert found[0] == values
        if array is None:
            assert found[1] is None
        else:
            np.testing.assert_array_equal(found[1], array, strict=True)
    assert reader.read() is None
    reader.close()


def test_a_message_larger_than_a_pipe_arrives(line) -> None:
    writer, reader = line
    array = np.arange(1_000_000, dtype=np.float32).reshape(1, -1)
    writing = threading.Thread(target=writer.write, args=({"id": 1}, array))
    writing.start()
    found = reader.read()
    writing.join()
    np.testing.assert_array_equal(found[1], array)


def test_what_a_shell_says_first_is_skipped(line) -> None:
    writer, reader = line
    os.write(writer._descriptor, b"Last login: Monday\n\ngptoss-ran\n")
    writer.write_mark()
    writer.write({"id": 7})
    assert reader.skip_to_mark()
    assert reader.read() == ({"id": 7}, None)


def test_a_line_that_ends_before_the_mark_is_none() -> None:
    incoming, outgoing = os.pipe()
    os.write(outgoing, b"command not found" + MARK[:-1])
    os.close(outgoing)
    reader = FrameReader(incoming)
    assert not reader.skip_to_mark()
    reader.close()


@pytest.mark.parametrize(
    "sent",
    [
        PREFIX.pack(1 << 31, 0),
        PREFIX.pack(2, 1 << 60) + b"{}",
        PREFIX.pack(3, 0) + b"[1]",
        PREFIX.pack(2, 0) + b"{]",
        PREFIX.pack(44, 8) + b'{"array": {"dtype": "object", "shape": [1]}}' + b"x" * 8,
        PREFIX.pack(45, 8) + b'{"array": {"dtype": "float32", "shape": [3]}}' + b"x" * 8,
    ],
)
def test_what_is_no_message_is_refused(line, sent: bytes) -> None:
    writer, reader = line
    os.write(writer._descriptor, sent)
    with pytest.raises(BrokenLine):
        reader.read()


def test_a_message_that_is_cut_off_is_the_end(line) -> None:
    writer, reader = line
    os.write(writer._descriptor, PREFIX.pack(44, 8) + b'{"array": {"dtype":')
    writer.close()
    assert reader.read() is None


def test_a_side_that_takes_nothing_is_given_up() -> None:
    incoming, outgoing = os.pipe()
    writer = FrameWriter(outgoing, patience_seconds=0.2)
    with pytest.raises(BrokenLine, match="takes nothing"):
        writer.write({}, np.zeros(1_000_000, dtype=np.float32))
    writer.close()
    os.close(incoming)


def test_a_side_that_is_gone_is_told() -> None:
    incoming, outgoing = os.pipe()
    writer = FrameWriter(outgoing)
    os.close(incoming)
    with pytest.raises(BrokenLine, match="pipe"):
        writer.write({"id": 1})
    writer.close()
    with pytest.raises(BrokenLine):
        writer.write({"id": 1})
