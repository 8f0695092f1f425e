"""Exchanges with a fixed answer: facts, small talk, and questions out of scope.

Owns how phrasings vary; the texts are in `facts.toml` and `small_talk.toml`.
"""

import tomllib
from pathlib import Path
from random import Random
from typing import Any

from gptoss_mlx.pocket.conversations import Exchange, words_key


def load_table(name: str) -> dict[str, Any]:
    """The content of a `.toml` file beside this module."""
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


FACTS: tuple[tuple[str, str, tuple[str, ...]], ...] = tuple(
    (fact["topic"], fact["answer"], tuple(fact["questions"])) for fact in load_table("facts.toml")["fact"]
)
"""Topic, answer and ways to ask."""

_TALK = load_table("small_talk.toml")
SMALL_TALK: tuple[tuple[str, str, tuple[str, ...]], ...] = tuple(
    (talk["kind"], talk["answer"], tuple(talk["questions"])) for talk in _TALK["small_talk"]
)
"""Kind, answer and what the user may say."""
UNKNOWN_TEMPLATES: tuple[str, ...] = tuple(_TALK["unknown_templates"])
UNKNOWN_SUBJECTS: tuple[str, ...] = tuple(_TALK["unknown_subjects"])

BEFORE = (
    "",
    "",
    "",
    "",
    "",
    "",
    "Hi, ",
    "Hey, ",
    "Hello! ",
    "Please tell me: ",
    "Quick question: ",
    "Can you tell me: ",
    "I wonder, ",
    "Tell me, ",
    "So, ",
    "Ok, ",
    "Next: ",
)
AFTER = ("", "", "", "", "", "", "", " please", " Thanks!", " Keep it short.", " I am curious.", " again", " exactly")

UNKNOWN = "I am the pocket model, and I do not know that. Ask me about gpt-oss, small sums or words."


def roughen(rng: Random, text: str) -> str:
    """The text as people type it: case, punctuation and now and then a slip of the finger."""
    if rng.random() < 0.3:
        text = text.lower()
    elif rng.random() < 0.03:
        text = text.upper()
    if rng.random() < 0.3:
        text = text.rstrip("?.!")
    if rng.random() < 0.1 and len(text) > 12:
        place = rng.randint(3, len(text) - 3)
        slip = rng.randrange(3)
        if text[place].isalpha() and text[place + 1].isalpha():
            if slip == 0:
                text = text[:place] + text[place + 1 :]
            elif slip == 1:
                text = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
            else:
                text = text[:place] + text[place] + text[place:]
    return text


def asked(rng: Random, question: str) -> tuple[str, str]:
    """The question in a wrapping, and the same before it was roughened (its key)."""
    before, after = rng.choice(BEFORE), rng.choice(AFTER)
    if before and not before.endswith(("! ", ": ")):
        question = (
            question[0].lower() + question[1:]
            if not question.startswith(("I ", "MX", "MLX", "RoPE", "RMS", "YaRN"))
            else question
        )
    whole = before + question + after
    return roughen(rng, whole), whole


def make_fact(rng: Random, effort: str) -> Exchange:
    """A question about gpt-oss, this project or the model itself."""
    topic, answer, questions = rng.choice(FACTS)
    question, key = asked(rng, rng.choice(questions))
    analysis = {
        "low": f"Fact: {topic}.",
        "medium": f"The question is about {topic}. I know this.",
        "high": f"The question is about {topic}. It is one of the facts I learned, "
        "so I can say it in my own short words.",
    }[effort]
    return Exchange(question, analysis, answer, words_key("fact", key), "fact", answer)


def make_small_talk(rng: Random, effort: str) -> Exchange:
    """Greetings, thanks and the like."""
    kind, answer, questions = rng.choice(SMALL_TALK)
    question = rng.choice(questions)
    analysis = {
        "low": f"{kind}.",
        "medium": f"{kind}. A short reply will do.",
        "high": f"{kind}. The user is friendly, so a short and friendly reply will do.",
    }[effort]
    return Exchange(roughen(rng, question), analysis, answer, words_key("talk", question), "small talk", answer)


def make_unknown(rng: Random, effort: str) -> Exchange:
    """A question that the pocket model cannot answer, and says so."""
    template = rng.choice(UNKNOWN_TEMPLATES)
    question = template.format(x=rng.choice(UNKNOWN_SUBJECTS), y=rng.choice(UNKNOWN_SUBJECTS))
    analysis = {
        "low": "Unknown.",
        "medium": "This is not something I learned.",
        "high": "This is not something I learned: no sum, no word task, no fact about gpt-oss. "
        "I should say that I do not know.",
    }[effort]
    before = rng.choice(BEFORE)
    return Exchange(
        roughen(rng, before + question), analysis, UNKNOWN, words_key("unknown", question), "unknown", "do not know"
    )
