"""Training conversations to token ids and loss weights, through the product's own harmony renderer."""

from gptoss_mlx.harmony import (
    DeveloperContent,
    Message,
    ReasoningEffort,
    Special,
    SystemContent,
    Text,
    ToolNamespace,
    message_pieces,
)
from gptoss_mlx.pocket.conversations import LETTERWISE, Conversation, Part
from gptoss_mlx.special_tokens import END, RETURN
from gptoss_mlx.tokenizer import Tokenizer


def system_message(effort: ReasoningEffort, date: str | None) -> Message:
    """The system message as the product writes it."""
    return Message.system(SystemContent(reasoning_effort=effort, conversation_start_date=date))


def system_ids(effort: ReasoningEffort, date: str | None, with_functions: bool, tokenizer: Tokenizer) -> list[int]:
    """Token ids of the system message, which many conversations of one row share."""
    pieces = message_pieces(system_message(effort, date), with_functions=with_functions)
    return [token for piece in pieces for token in piece_ids(piece, tokenizer)]


def piece_ids(piece: object, tokenizer: Tokenizer) -> list[int]:
    """Token ids of one piece; LETTERWISE marks part its text."""
    if isinstance(piece, Special):
        return [tokenizer.special.id_of(piece.name)]
    assert isinstance(piece, Text)
    return [token for text in piece.text.split(LETTERWISE) for token in tokenizer.encode(text)]


def developer_message(conversation: Conversation) -> Message | None:
    """The developer message, if there are instructions or functions."""
    if not conversation.tools and conversation.instructions is None:
        return None
    namespaces = (ToolNamespace.functions(conversation.tools),) if conversation.tools else ()
    return Message.developer(DeveloperContent(conversation.instructions, namespaces))


def conversation_ids(conversation: Conversation, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
    """Token ids after the system message and the loss weight of each.

    `<|start|>assistant` right after a user or tool message belongs to the prompt, so it has no weight; a learned final
    answer at the end closes with `<|return|>`.
    """
    ids: list[int] = []
    weights: list[float] = []
    developer = developer_message(conversation)
    parts = ((Part(developer),) if developer is not None else ()) + conversation.parts
    before = "system"
    for index, part in enumerate(parts):
        message = part.message
        pieces = message_pieces(message)
        last = index == len(parts) - 1
        for place, piece in enumerate(pieces):
            if last and place == len(pieces) - 1 and message.channel == "final" and piece == Special(END):
                piece = Special(RETURN)
            tokens = piece_ids(piece, tokenizer)
            learned = part.learned and not (place < 2 and before != "assistant")
            if place == len(pieces) - 1 and not part.end_learned:
                learned = False
            ids += tokens
            weights += [1.0 if learned else 0.0] * len(tokens)
        before = message.role
    return ids, weights
