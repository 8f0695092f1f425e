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
