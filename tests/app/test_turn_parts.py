"""What a turn consists of for the reader."""

from gptoss_mlx.app.turn_parts import Part, turn_parts
from gptoss_mlx.harmony import ANALYSIS, COMMENTARY, Message


def test_channels_become_reasoning_calls_and_text_in_their_order() -> None:
    call = Message.assistant('{"a": 1}', channel=COMMENTARY, recipient="functions.f")
    messages = [
        Message.assistant("Hm.", channel=ANALYSIS),
        Message.assistant("I look.", channel=COMMENTARY),
        call,
        Message.tool("functions.f", "2"),
        call,
        Message.assistant("Done.", channel="final"),
        Message.assistant("Odd.", channel="finale"),
    ]
    assert turn_parts(messages) == [
        Part("reasoning", "Hm."),
        Part("text", "I look."),
        Part("tool", '{"a": 1}', "functions.f", "2"),
        Part("tool", '{"a": 1}', "functions.f"),
        Part("text", "Done."),
        Part("text", "Odd."),
    ]


def test_a_call_on_the_analysis_channel_is_a_call() -> None:
    message = Message.assistant("{}", channel=ANALYSIS, recipient="functions.f")
    assert turn_parts([message]) == [Part("tool", "{}", "functions.f")]


def test_a_message_without_text_is_not_shown_and_a_stray_result_changes_nothing() -> None:
    assert turn_parts([Message.assistant("", channel=ANALYSIS), Message.tool("functions.f", "2")]) == []


def test_two_calls_of_one_tool_get_their_results_in_order() -> None:
    def call(number: int) -> Message:
        return Message.assistant(str(number), channel=COMMENTARY, recipient="functions.f")

    results = [Message.tool("functions.f", text) for text in ("first", "second")]
    parts = turn_parts([call(1), call(2), *results])
    assert [(part.text, part.result) for part in parts] == [("1", "first"), ("2", "second")]


def test_times_are_those_of_the_last_results() -> None:
    call = Message.assistant("{}", channel=COMMENTARY, recipient="functions.f")
    result = Message.tool("functions.f", "2")
    parts = turn_parts([call, result, call, result, call], [0.5])
    assert [part.seconds for part in parts] == [None, 0.5, None]
