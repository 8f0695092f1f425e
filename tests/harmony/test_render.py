"""What the renderer writes: pieces, dropping of old analysis, sampled tokens, and what it refuses."""

from dataclasses import replace

import pytest

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony import (
    ChannelConfig,
    DeveloperContent,
    DropAnalysis,
    Message,
    Sampled,
    Special,
    SystemContent,
    Text,
    ToolDescription,
    ToolNamespace,
    message_pieces,
    parse_tokens,
    render_conversation,
    render_for_training,
    render_message,
    render_pieces,
    render_text,
)
from gptoss_mlx.special_tokens import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, START
from gptoss_mlx.tokenizer import Tokenizer

FUNCTION = ToolNamespace.functions([ToolDescription("f", "Does f.")])


def thought(text: str) -> Message:
    return Message.assistant(text, channel="analysis")


def call(text: str, *, channel: str = "commentary", recipient: str = "functions.f") -> Message:
    return Message.assistant(text, channel=channel, recipient=recipient, content_type="<|constrain|>json")


USER = Message.user("u")
FINAL = Message.assistant("f")
RESULT = Message.tool("functions.f", "r")


def kept(messages: list[Message], drop_analysis: DropAnalysis = "finished") -> list[str]:
    """The texts that are still there."""
    text = render_text(messages, drop_analysis=drop_analysis)
    return [part.split("<|end|>")[0].split("<|call|>")[0] for part in text.split("<|message|>")[1:]]


def test_a_message_is_made_of_pieces_that_are_encoded_on_their_own() -> None:
    assert message_pieces(call("{}")) == [
        Special(START), Text("assistant"), Text(" to=functions.f"), Special(CHANNEL), Text("commentary"),
        Text(" "), Special(CONSTRAIN), Text("json"), Special(MESSAGE), Text("{}"), Special(CALL),
    ]  # fmt: skip
    assert message_pieces(Message.user("hi", name="ann")) == [
        Special(START), Text("user"), Text(":ann"), Special(MESSAGE), Text("hi"), Special(END),
    ]  # fmt: skip


def test_a_message_to_all_names_no_recipient_and_still_closes_as_a_call() -> None:
    message = Message.assistant("hi", recipient="all")
    assert render_text([message]) == "<|start|>assistant<|channel|>final<|message|>hi<|call|>"


def test_the_text_form_needs_no_vocabulary() -> None:
    system = SystemContent(
        None, None, None, None, ChannelConfig(("final",), False), (ToolNamespace("python", "Runs."),)
    )
    messages = [
        Message.system(system),
        Message.developer(DeveloperContent("Be brief.", (FUNCTION,))),
        USER,
        call("{}"),
        RESULT,
        FINAL,
    ]
    assert render_text(messages, next_role="assistant") == (
        "<|start|>system<|message|># Tools\n\n## python\n\nRuns.\n\n# Valid channels: final.\n"
        "Calls to these tools must go to the commentary channel: 'functions'.<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe brief.\n\n# Tools\n\n## functions\n\n"
        "namespace functions {\n\n"
        "// Does f.\ntype f = () => any;\n\n} // namespace functions<|end|>"
        "<|start|>user<|message|>u<|end|>"
        "<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
        "<|start|>functions.f to=assistant<|channel|>commentary<|message|>r<|end|>"
        "<|start|>assistant<|channel|>final<|message|>f<|end|>"
        "<|start|>assistant"
    )


def test_thoughts_before_the_last_answer_are_dropped() -> None:
    first = [USER, thought("t1"), FINAL, USER, thought("t2"), FINAL]
    assert kept(first) == ["u", "f", "u", "f"]
    assert kept([*first, USER]) == ["u", "f", "u", "f", "u"]


def test_thoughts_of_a_running_tool_loop_stay() -> None:
    loop = [USER, thought("t2"), call("{}"), RESULT]
    assert kept([USER, thought("t1"), FINAL, *loop]) == ["u", "f", "u", "t2", "{}", "r"]
    assert kept(loop) == ["u", "t2", "{}", "r"]


def test_thoughts_of_a_finished_tool_loop_are_dropped_and_its_calls_stay() -> None:
    loop = [USER, thought("t"), call("{}"), RESULT, thought("t"), FINAL]
    assert kept(loop) == ["u", "{}", "r", "f"]


def test_calls_of_builtin_tools_on_the_analysis_channel_are_dropped_with_their_results() -> None:
    search = call("{q}", channel="analysis", recipient="browser.search")
    found = Message.tool("browser.search", "page", channel="analysis")
    assert kept([USER, thought("t"), search, found, FINAL]) == ["u", "f"]


def test_a_functions_call_on_the_analysis_channel_stays_as_its_result_does() -> None:
    assert kept([USER, call("{}", channel="analysis"), RESULT, FINAL]) == ["u", "{}", "r", "f"]


def test_keep_drops_nothing() -> None:
    assert kept([USER, thought("t1"), FINAL, USER, thought("t2"), FINAL], "keep") == ["u", "t1", "f", "u", "t2", "f"]


def test_upstream_drops_only_before_the_first_answer_and_only_after_an_answer() -> None:
    assert kept([USER, thought("t1"), FINAL, USER, thought("t2"), FINAL], "upstream") == ["u", "f", "u", "t2", "f"]
    pending = [USER, thought("t1"), FINAL, USER, call("{}")]
    assert kept(pending, "upstream") == ["u", "t1", "f", "u", "{}"]


def test_the_line_on_functions_depends_on_the_whole_conversation() -> None:
    line = "Calls to these tools must go to the commentary channel: 'functions'."
    developer = Message.developer(DeveloperContent(tools=(FUNCTION,)))
    assert line in render_text([Message.system(), developer])
    assert line not in render_text([Message.system()])
    assert line not in render_text([Message.system(), Message.developer(DeveloperContent(tools=(ToolNamespace("x"),)))])
    assert line not in render_text(
        [Message.system(), Message.developer(DeveloperContent(tools=(ToolNamespace.functions([]),)))]
    )


def sampled(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode_with_special(text))


def test_sampled_tokens_are_rendered_as_they_are(tokenizer: Tokenizer) -> None:
    # "hi" in two tokens, as a model may sample it.
    header = sampled(tokenizer, "<|start|>assistant<|channel|>final<|message|>")
    odd = (*header, *tokenizer.encode("h"), *tokenizer.encode("i"), tokenizer.special.end)
    message = Message.assistant("hi", tokens=odd)
    assert render_message(message, tokenizer) == list(odd)
    assert render_message(Message.assistant("hi"), tokenizer) != list(odd)
    assert render_text([message]) == "<|start|>assistant<|channel|>final<|message|>hi<|end|>"


@pytest.mark.parametrize("end", ["<|return|>", "<|endoftext|>", "", "<|end|>"])
def test_a_sampled_answer_is_closed_with_end(end: str, tokenizer: Tokenizer) -> None:
    header = "<|start|>assistant<|channel|>final<|message|>hi"
    message = Message.assistant("hi", tokens=sampled(tokenizer, header + end))
    assert render_message(message, tokenizer) == list(sampled(tokenizer, header + "<|end|>"))
    assert render_for_training([message], tokenizer)[-1] == tokenizer.special.return_


@pytest.mark.parametrize("end", ["<|return|>", "<|endoftext|>", "", "<|call|>"])
def test_a_sampled_call_is_closed_with_call(end: str, tokenizer: Tokenizer) -> None:
    header = "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}"
    message = replace(call("{}"), tokens=sampled(tokenizer, header + end))
    assert render_message(message, tokenizer) == list(sampled(tokenizer, header + "<|call|>"))


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>final<|message|>hi<|end|>",
        "<|start|><|start|>assistant<|channel|>final<|message|>hi<|end|>",
        "<|start|>assistant<|channel|>final<|channel|>final<|message|>hi<|end|>",
        "<|start|>assistant<|channel|>final hi<|end|>",
        "<|start|>assistant<|channel|>final to=a to=b<|message|>hi<|end|>",
        "<|start|>assistant<|message|>hi<|end|>",
        "<|start|>assistant<|message|>hi<|channel|>final<|end|>",
        "<|start|>assistant<|channel|>final<|message|>hi<|message|>hi<|end|>",
        "<|start|>assistant<|channel|>final<|message|>hi<|end|><|return|>",
        "<|start|>assistant<|channel|>final<|message|>hi<|reserved_200013|><|end|>",
        "\n<|start|>assistant<|channel|>final<|message|>hi<|end|>",
        "",
    ],
)
def test_sampled_tokens_that_are_malformed_give_way_to_the_fields(text: str, tokenizer: Tokenizer) -> None:
    message = Message.assistant("hi", tokens=sampled(tokenizer, text))
    assert render_message(message, tokenizer) == render_message(Message.assistant("hi"), tokenizer)


@pytest.mark.parametrize("token", [-1, 201088])
def test_sampled_tokens_of_another_vocabulary_give_way_to_the_fields(token: int, tokenizer: Tokenizer) -> None:
    message = Message.assistant("hi", tokens=(*sampled(tokenizer, "<|start|>assistant<|message|>"), token))
    assert render_message(message, tokenizer) == render_message(Message.assistant("hi"), tokenizer)


@pytest.mark.parametrize(
    "other",
    [
        Message.assistant("ho"),
        Message.assistant("hi", channel="analysis"),
        Message.assistant("hi", recipient="functions.f"),
        Message.assistant("hi", content_type="json"),
        Message.user("hi"),
    ],
)
def test_sampled_tokens_of_a_message_that_was_edited_give_way_to_the_fields(
    other: Message, tokenizer: Tokenizer
) -> None:
    tokens = sampled(tokenizer, "<|start|>assistant<|channel|>final<|message|>hi<|end|>")
    assert render_message(replace(other, tokens=tokens), tokenizer) == render_message(other, tokenizer)


def test_a_mended_call_is_rendered_with_the_right_name(tokenizer: Tokenizer) -> None:
    stream = sampled(tokenizer, "<|channel|>commentary to=functions.fjson<|message|>{}<|call|>")
    (message,) = parse_tokens(stream, tokenizer, tool_names=frozenset(("functions.f",)))
    assert "to=functions.f<" in tokenizer.decode(render_message(message, tokenizer))


def test_what_was_parsed_renders_to_what_the_cache_holds(tokenizer: Tokenizer) -> None:
    stream = sampled(
        tokenizer,
        "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final json<|message|>hi<|return|>",
    )
    ids = render_conversation(parse_tokens(stream, tokenizer), tokenizer, drop_analysis="keep")
    assert ids == [*sampled(tokenizer, "<|start|>assistant"), *stream[:-1], tokenizer.special.end]


def test_pieces_of_a_sampled_message_carry_its_fields() -> None:
    message = Message.assistant("hi", tokens=(1, 2))
    (piece,) = render_pieces([message])
    assert isinstance(piece, Sampled)
    assert piece.message is message
    assert list(piece.fields) == message_pieces(Message.assistant("hi"))


def test_a_tool_message_needs_a_name(tokenizer: Tokenizer) -> None:
    with pytest.raises(HarmonyError, match=r"role tool has no name; expected .*Message\.tool"):
        render_message(Message("tool"), tokenizer)


def test_system_settings_belong_into_a_system_message(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        HarmonyError, match=r"System settings stand in a message of role 'user'; expected role 'system'"
    ):
        render_message(Message("user", (SystemContent(),)), tokenizer)


def test_developer_content_belongs_into_a_developer_message(tokenizer: Tokenizer) -> None:
    with pytest.raises(HarmonyError, match=r"Developer content stand.* role 'system'; expected role 'developer'"):
        render_message(Message("system", (DeveloperContent(),)), tokenizer)


def test_an_empty_conversation_renders_to_nothing(tokenizer: Tokenizer) -> None:
    assert render_conversation([], tokenizer) == []
    assert render_for_training([], tokenizer) == []
    assert render_text([]) == ""
