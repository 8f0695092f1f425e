"""Turns that need an earlier one or the system message: names, numbers, follow-up sums, the date."""

from random import Random

from gptoss_mlx.pocket.conversations import Exchange
from gptoss_mlx.pocket.tasks_numbers import addition_analysis, may_state_sum, subtraction_analysis, sum_key
from gptoss_mlx.pocket.tasks_words import CITIES, NAMES, WORDS

COLORS = ("red", "blue", "green", "yellow", "purple", "brown", "black", "white", "pink", "silver", "gold", "orange")

Memory = tuple[str, tuple[str, ...], str, tuple[str, ...], str, str]

MEMORIES: tuple[Memory, ...] = (
    (
        "name",
        (
            "My name is {v}.",
            "I am {v}",
            "I'm {v}.",
            "Hi, my name is {v}",
            "Hello, I am {v}.",
            "Call me {v}",
            "my name is {v}",
            "This is {v}.",
        ),
        "Nice to meet you, {v}!",
        (
            "What is my name?",
            "what's my name",
            "Who am I?",
            "Do you remember my name?",
            "Say my name.",
            "Do you know my name?",
        ),
        "Your name is {v}.",
        "You have not told me your name.",
    ),
    (
        "number",
        (
            "Remember the number {v}.",
            "remember {v}",
            "My number is {v}.",
            "Keep the number {v} in mind.",
            "My favorite number is {v}.",
            "Please remember {v}.",
        ),
        "I will remember {v}.",
        (
            "What was the number?",
            "What is my number?",
            "Which number did I tell you?",
            "what number did I say",
            "Tell me the number.",
        ),
        "The number is {v}.",
        "You have not told me a number.",
    ),
    (
        "city",
        ("I live in {v}.", "I am from {v}", "My city is {v}.", "I come from {v}.", "my home is {v}"),
        "{v} must be a nice place.",
        ("Where do I live?", "Where am I from?", "What is my city?", "Which city did I name?", "where is my home"),
        "You live in {v}.",
        "You have not told me where you live.",
    ),
    (
        "color",
        ("My favorite color is {v}.", "I like {v}", "my color is {v}", "I love the color {v}."),
        "I will remember {v}.",
        ("What is my favorite color?", "Which color do I like?", "what's my color", "What color did I name?"),
        "Your color is {v}.",
        "You have not told me your color.",
    ),
    (
        "word",
        ("Remember the word {v}.", "The secret word is {v}.", "My password is {v}", "Keep the word {v} in mind."),
        "I will remember {v}.",
        ("What was the word?", "What is the secret word?", "Which word did I tell you?", "Tell me the word."),
        "The word is {v}.",
        "You have not told me a word.",
    ),
)
"""Kind, ways to say it, reply, ways to ask for it, reply when known, reply when never told."""


def memory_value(rng: Random, kind: str) -> str:
    """Something to remember."""
    return str(
        {
            "name": rng.choice(NAMES),
            "number": rng.randint(2, 999),
            "city": rng.choice(CITIES),
            "color": rng.choice(COLORS),
            "word": rng.choice(WORDS),
        }[kind]
    )


def make_memory(rng: Random, effort: str) -> tuple[Exchange, Exchange, Exchange]:
    """Telling something, asking for it after it was told, and asking for it when it was not."""
    kind, tells, told, asks, known, unknown = rng.choice(MEMORIES)
    value = memory_value(rng, kind)
    tell, ask = rng.choice(tells), rng.choice(asks)
    key = f"memory:{kind}:{value}"
    first = Exchange(
        tell.format(v=value),
        {
            "low": "Remember.",
            "medium": f"Remember the {kind} {value}.",
            "high": f"The user tells me the {kind} {value}. I remember it.",
        }[effort],
        told.format(v=value),
        key,
        "memory",
        value,
    )
    answer = known.format(v=value)
    second = Exchange(
        ask,
        {
            "low": "Recall.",
            "medium": f"The {kind} was {value}.",
            "high": f"The user asks for the {kind}. Earlier the user said {value}. So {value}.",
        }[effort],
        answer,
        key,
        "memory",
        value,
    )
    never = Exchange(
        ask,
        {
            "low": "Recall.",
            "medium": f"No {kind} was told.",
            "high": f"The user asks for the {kind}. No {kind} was told in this conversation.",
        }[effort],
        unknown,
        f"never:{kind}",
        "memory",
        "not told",
    )
    return first, second, never


PLUS = (
    "and plus {b}?",
    "plus {b}",
    "now add {b}",
    "Add {b} to that.",
    "and {b} more?",
    "And if I add {b}?",
    "+{b}",
    "+ {b}",
    "add {b} more",
)
MINUS = (
    "and minus {b}?",
    "minus {b}",
    "now subtract {b}",
    "Take away {b}.",
    "-{b}",
    "- {b}",
    "and {b} less?",
    "subtract {b} from that",
)


def draw_second_number(rng: Random) -> int:
    """What the last result is combined with: mostly two digits, sometimes three."""
    return rng.randint(1, 99 if rng.random() < 0.7 else 999)


def make_follow_up(rng: Random, effort: str, last: int) -> Exchange:
    """A sum that starts from the last result, which must not be negative."""
    b = draw_second_number(rng)
    for _ in range(99):
        if may_state_sum(last, b):
            break
        b = draw_second_number(rng)
    start = f"The last result is {last}. " if effort == "high" else ""
    if rng.random() < 0.65 or b > last:
        question = rng.choice(PLUS).format(b=b)
        return Exchange(
            question,
            start + addition_analysis(last, b, effort),
            f"{last} + {b} = {last + b}.",
            sum_key(last, b),
            "follow-up",
            f"= {last + b}.",
        )
    question = rng.choice(MINUS).format(b=b)
    return Exchange(
        question,
        start + subtraction_analysis(last, b, effort),
        f"{last} - {b} = {last - b}.",
        f"sub:{last},{b}",
        "follow-up",
        f"= {last - b}.",
    )


TODAY = (
    "What is today's date?",
    "What day is it today?",
    "what is the date",
    "Which date is it?",
    "Today's date?",
    "What is the date today?",
    "Do you know the date?",
)
EFFORT = (
    "What is your reasoning effort?",
    "How hard do you think?",
    "Which effort do you use?",
    "What is my reasoning setting?",
    "At which effort do you run?",
)


def make_setting(rng: Random, effort: str, date: str | None) -> Exchange:
    """A question that the system message answers."""
    if rng.random() < 0.6:
        question = rng.choice(TODAY)
        analysis = {
            "low": "The date.",
            "medium": "The system message may state the date.",
            "high": f"The system message {'says ' + date if date else 'states no date'}. So I answer with that.",
        }[effort]
        answer = f"Today is {date}." if date else "I do not know today's date."
        return Exchange(question, analysis, answer, f"today:{date}", "setting", date or "do not know")
    analysis = {
        "low": "The effort.",
        "medium": f"The system message says {effort}.",
        "high": f"The system message says Reasoning: {effort}. So I answer with that.",
    }[effort]
    return Exchange(
        rng.choice(EFFORT), analysis, f"My reasoning effort is {effort}.", f"effort:{effort}", "setting", effort
    )
