"""Token streams for the parser tests: well-formed, nearly so, and noise."""

from random import Random

from gptoss_mlx.tokenizer import Tokenizer

PIECES = (
    "assistant", "user", "tool", "system", "analysis", "commentary", "final", "comment", "ary", " to", "=", "to=",
    " to=functions.x", " to=a", "functions", ".x", " json", "json", " code", "{", "}", '{"a":1}', " ", "\n", "<", "<|",
    "|>", "Hello", " world", "?", "\u202f", "\x0b", "\x1c", "\x85", "\r", "\t", "2?", "é", "😀", "鵺", "<|channel|>",
    "<|message|>", "<|end|>", "<|start|>",
)  # fmt: skip
ROLE_PARTS = ("assistant", "assistant", "user", "functions.x", "to=foo", "tool", "system", "zzz x", " assistant", "")
RECIPIENT_PARTS = ("", "", " to=functions.b", " to=a", " b", "\u202f", "\x0bto=q")
CHANNEL_PARTS = (
    "", "<|channel|>analysis", "<|channel|>final ", "<|channel|>commentary\u202f", "<|channel|>",
    " <|channel|>x<|constrain|>json", "<|channel|>final",
)  # fmt: skip
TAIL_PARTS = ("", "", " to=z", " json", "<|constrain|>json", " <|constrain|>json", "<|channel|>q", " a b c")


def alphabet(tokenizer: Tokenizer) -> list[int]:
    """Token ids that matter: specials, pieces of headers, bytes that are no UTF-8 on their own."""
    special = tokenizer.special
    ids = [
        special.start,
        special.end,
        special.message,
        special.channel,
        special.constrain,
        special.return_,
        special.call,
    ]
    ids += [special.endoftext, special.startoftext, 200013]
    for piece in PIECES:
        ids += tokenizer.encode(piece)
    ids += [tokenizer.encode("\x00")[0] + step for step in (0, 1)]
    ids += [
        token
        for token in range(256)
        if len(tokenizer.token_bytes(token)) == 1 and tokenizer.token_bytes(token)[0] > 127
    ]
    ids.append(9552)  # " \xf0\x9f"
    return ids


def noise(random: Random, ids: list[int], longest: int = 25) -> list[int]:
    return [random.choice(ids) for _ in range(random.randrange(longest))]


def messages(random: Random, tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """One to three messages whose headers are made of sound and odd parts."""
    special = tokenizer.special
    out: list[int] = []
    for _ in range(random.randrange(1, 4)):
        parts = (random.choice(part) for part in (ROLE_PARTS, RECIPIENT_PARTS, CHANNEL_PARTS, TAIL_PARTS))
        out += [special.start, *tokenizer.encode_with_special("".join(parts)), special.message]
        out += [token for token in noise(random, ids, 14) if token not in special.message_end_ids]
        out.append(random.choice((special.end, special.return_, special.call)))
    return out


def damaged(random: Random, stream: list[int], ids: list[int]) -> list[int]:
    """The stream with one token lost, doubled, changed or moved, or cut short."""
    if not stream:
        return stream
    out = list(stream)
    at = random.randrange(len(out))
    match random.randrange(5):
        case 0:
            del out[at]
        case 1:
            out.insert(at, out[at])
        case 2:
            out[at] = random.choice(ids)
        case 3:
            out.insert(random.randrange(len(out)), out.pop(at))
        case _:
            del out[at:]
    return out
