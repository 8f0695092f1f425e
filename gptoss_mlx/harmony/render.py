"""A conversation to the token ids that the model reads.

Two stages: pieces first (special tokens, texts, and messages as they were sampled), ids second. The pieces need no
vocabulary. Every text is encoded on its own and never becomes a special token, whatever it says.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, assert_never

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony.messages import (
    ANALYSIS,
    FINAL,
    FUNCTIONS,
    DeveloperContent,
    Message,
    Role,
    SystemContent,
    TextContent,
)
from gptoss_mlx.harmony.parse import StreamParser
from gptoss_mlx.harmony.system_text import developer_text, system_text
from gptoss_mlx.special_tokens import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, START
from gptoss_mlx.tokenizer import Tokenizer

DropAnalysis: TypeAlias = Literal["finished", "upstream", "keep"]
"""Which reasoning of the past is left out.

finished: all that lies before the last final answer; what follows it (a running tool loop) stays. This is what
OpenAI's documentation describes. Calls of a developer's tools stay even if the model made them on the analysis
channel, since their results stay. upstream: what openai-harmony 0.0.8 does: only when the last assistant message is
final, and only what lies before the *first* final. keep: nothing.
"""


@dataclass(frozen=True, slots=True)
class Special:
    """One special token."""

    name: str


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is encoded on its own."""

    text: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """A whole message as the model sampled it: `message.tokens`."""

    message: Message
    fields: tuple[Special | Text, ...]
    """The same message from its fields: used where there is no tokenizer, and where the ids do not fit."""


Piece: TypeAlias = Special | Text | Sampled


def render_pieces(messages: Sequence[Message], *, drop_analysis: DropAnalysis = "finished") -> list[Piece]:
    """The conversation as pieces, each message closed. Raises HarmonyError for what harmony cannot say."""
    with_functions = _offers_functions(messages)
    pieces: list[Piece] = []
    for message in _without_old_analysis(messages, drop_analysis):
        pieces += message_pieces(message, with_functions=with_functions)
    return pieces


def message_pieces(message: Message, *, with_functions: bool = False) -> list[Piece]:
    """One message as pieces; with_functions as in `system_text`. Raises HarmonyError."""
    fields = tuple(_field_pieces(message, with_functions))
    return list(fields) if message.tokens is None else [Sampled(message, fields)]


def render_conversation(
    messages: Sequence[Message], tokenizer: Tokenizer, *, drop_analysis: DropAnalysis = "finished"
) -> list[int]:
    """Token ids of the conversation, each message closed. Raises HarmonyError."""
    return encode_pieces(render_pieces(messages, drop_analysis=drop_analysis), tokenizer)


def render_for_completion(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    next_role: Role = "assistant",
    drop_analysis: DropAnalysis = "finished",
) -> list[int]:
    """Token ids of the conversation and of the start of the next message; the model writes on from there.

    Raises HarmonyError.
    """
    pieces = render_pieces(messages, drop_analysis=drop_analysis)
    return encode_pieces([*pieces, Special(START), Text(next_role)], tokenizer)


def render_for_training(
    messages: Sequence[Message], tokenizer: Tokenizer, *, drop_analysis: DropAnalysis = "finished"
) -> list[int]:
    """Token ids of a conversation to learn from: a final answer at its end closes with `<|return|>`.

    Raises HarmonyError.
    """
    ids = render_conversation(messages, tokenizer, drop_analysis=drop_analysis)
    if messages and messages[-1].role == "assistant" and messages[-1].channel == FINAL:
        ids[-1] = tokenizer.special.return_
    return ids


def render_message(message: Message, tokenizer: Tokenizer, *, with_functions: bool = False) -> list[int]:
    """Token ids of one message. Raises HarmonyError."""
    return encode_pieces(message_pieces(message, with_functions=with_functions), tokenizer)


def render_text(
    messages: Sequence[Message],
    *,
    drop_analysis: DropAnalysis = "finished",
    next_role: Role | None = None,
) -> str:
    """The conversation as text, for people: special tokens by their names, sampled messages from their fields.

    next_role: whose message starts at the end, as in `render_for_completion`. Raises HarmonyError.
    """
    pieces = render_pieces(messages, drop_analysis=drop_analysis)
    if next_role is not None:
        pieces += [Special(START), Text(next_role)]
    return "".join(_piece_text(piece) for piece in pieces)


def encode_pieces(pieces: Iterable[Piece], tokenizer: Tokenizer) -> list[int]:
    """Token ids of pieces."""
    ids: list[int] = []
    for piece in pieces:
        match piece:
            case Special(name):
                ids.append(tokenizer.special.id_of(name))
            case Text(text):
                ids += tokenizer.encode(text)
            case Sampled(message, fields):
                sampled = sampled_ids(message, tokenizer)
                ids += encode_pieces(fields, tokenizer) if sampled is None else sampled
            case _:
                assert_never(piece)
    return ids


def sampled_ids(message: Message, tokenizer: Tokenizer) -> list[int] | None:
    """The ids that the model sampled for `message`, with the end that a history has, or None if they do not fit.

    A `<|return|>` or `<|endoftext|>` at the end becomes `<|end|>`, in a tool call `<|call|>`; where the answer was cut,
    the same is added. The ids fit if they are one well-formed message that says what the fields say. So what the model
    wrote wrongly does not stand in its history as an example, and ids of another vocabulary, or of a message that was
    edited later, are not used.
    """
    special = tokenizer.special
    ids = list(message.tokens or ())
    if not ids or ids[0] != special.start or not all(0 <= token < tokenizer.vocab_size for token in ids):
        return None
    end = special.end if message.tool_name is None else special.call
    if ids[-1] in (special.return_, special.endoftext):
        ids[-1] = end
    elif ids[-1] not in special.message_end_ids:
        ids.append(end)
    parser = StreamParser(tokenizer, role=None)
    for token in ids:
        parser.feed(token)
    if parser.warnings or len(parser.messages) != 1:
        return None
    return ids if replace(parser.messages[0], tokens=message.tokens) == message else None


def _offers_functions(messages: Iterable[Message]) -> bool:
    return any(isinstance(item, DeveloperContent) and item.has_functions for m in messages for item in m.content)


def _without_old_analysis(messages: Sequence[Message], drop: DropAnalysis) -> list[Message]:
    finals = [index for index, message in enumerate(messages) if message.channel == FINAL]
    if drop == "upstream":
        last_channel = next((m.channel for m in reversed(messages) if m.role == "assistant"), None)
        before = finals[0] if finals and last_channel == FINAL else 0
        return [m for index, m in enumerate(messages) if index >= before or m.channel != ANALYSIS]
    if drop == "finished":
        before = finals[-1] if finals else 0
        # Results of the tools that gpt-oss was trained with are on the analysis channel, too, and go with their calls.
        staying = {m.name for m in messages if m.role == "tool" and m.channel != ANALYSIS}
        return [m for i, m in enumerate(messages) if i >= before or m.channel != ANALYSIS or _stays(m, staying)]
    return list(messages)


def _stays(message: Message, staying: Set[str | None]) -> bool:
    """Whether a message of the analysis channel is a call that stays: of a function, or of a tool whose results do."""
    name = message.tool_name
    return name is not None and (name.startswith(FUNCTIONS + ".") or name in staying)


def _field_pieces(message: Message, with_functions: bool) -> list[Special | Text]:
    pieces: list[Special | Text] = [Special(START)]
    if message.role == "tool":
        if message.name is None:
            raise HarmonyError(
                "A message of role tool has no name; expected the tool's name, such as 'functions.get_weather'. "
                "Make it with Message.tool(name, text)."
            )
        pieces.append(Text(message.name))
    else:
        pieces.append(Text(message.role))
        if message.name is not None:
            pieces.append(Text(f":{message.name}"))
    if message.recipient is not None and message.recipient != "all":
        pieces.append(Text(f" to={message.recipient}"))
    if message.channel is not None:
        pieces += [Special(CHANNEL), Text(message.channel)]
    if message.content_type is not None:
        if message.content_type.startswith(CONSTRAIN):
            pieces += [Text(" "), Special(CONSTRAIN), Text(message.content_type.removeprefix(CONSTRAIN))]
        else:
            pieces.append(Text(f" {message.content_type}"))
    pieces.append(Special(MESSAGE))
    for item in message.content:
        match item:
            case TextContent(text):
                pieces.append(Text(text))
            case SystemContent():
                _refuse_elsewhere("System settings", "system", message.role)
                pieces.append(Text(system_text(item, with_functions=with_functions)))
            case DeveloperContent():
                _refuse_elsewhere("Developer content", "developer", message.role)
                pieces.append(Text(developer_text(item)))
    calls = message.role == "assistant" and message.recipient is not None
    return [*pieces, Special(CALL if calls else END)]


def _refuse_elsewhere(what: str, belongs: Role, role: Role) -> None:
    if role != belongs:
        raise HarmonyError(
            f"{what} stand in a message of role {role!r}; expected role {belongs!r}. Use Message.{belongs}(...)."
        )


def _piece_text(piece: Piece) -> str:
    match piece:
        case Special(name):
            return name
        case Text(text):
            return text
        case Sampled(_, fields):
            return "".join(_piece_text(field) for field in fields)
    assert_never(piece)


__all__ = [
    "DropAnalysis",
    "Piece",
    "Sampled",
    "Special",
    "Text",
    "encode_pieces",
    "message_pieces",
    "render_conversation",
    "render_for_completion",
    "render_for_training",
    "render_message",
    "render_pieces",
    "render_text",
    "sampled_ids",
]
