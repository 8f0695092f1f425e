"""Exchanges about words: spelling, reversing, counting letters, sorting."""

from pathlib import Path
from random import Random

from gptoss_mlx.pocket.conversations import Exchange, letterwise

WORDS: tuple[str, ...] = tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())
"""The words that the model learns to spell."""
CITIES: tuple[str, ...] = tuple((Path(__file__).parent / "cities.txt").read_text(encoding="utf-8").split())
NAMES: tuple[str, ...] = tuple((Path(__file__).parent / "names.txt").read_text(encoding="utf-8").split())

SPELL = (
    "Spell {w}",
    "spell {w}",
    "Spell the word {w}.",
    "How do you spell {w}?",
    "How is {w} spelled?",
    "Can you spell {w}?",
    "Spell '{w}' please",
)
REVERSE = (
    "Reverse {w}",
    "reverse {w}",
    "Reverse the word {w}.",
    "What is {w} backwards?",
    "Write {w} backwards.",
    "{w} backwards",
    "Spell {w} backwards",
    "Reverse '{w}'",
    "Can you reverse the word {w}?",
    "How is {w} written backwards?",
)
COUNT = (
    "How many {c} in {w}?",
    "how many {c}'s are in {w}?",
    "How many times does {c} appear in {w}?",
    "Count the letter {c} in {w}.",
    "How many letters {c} are in the word {w}?",
    "Count {c} in {w}",
    "How often is {c} in '{w}'?",
    "how many {c} are there in {w}",
)
LENGTH = (
    "How many letters are in {w}?",
    "How long is the word {w}?",
    "How many letters does {w} have?",
    "Count the letters in {w}.",
    "length of {w}",
)
ECHO = ("Repeat after me: {x}", "Say {x}", "Repeat: {x}", "Write {x}", "echo {x}", "Please say {x}", "Repeat {x}")
SORT = (
    "Sort {list}",
    "sort these words: {list}",
    "Sort {list} alphabetically.",
    "Put {list} in alphabetical order.",
    "Sort the words {list}",
    "Order these words: {list}",
    "alphabetical order: {list}",
    "Please sort {list}.",
)


def spaced(word: str) -> str:
    """The letters with spaces between, after a leading space: one token a letter."""
    return " " + " ".join(word)


def pseudo_word(rng: Random) -> str:
    """A word that is none, so that spelling is learned from the pieces too."""
    return "".join(rng.choice("bcdfghklmnprstvw") + rng.choice("aeiou") for _ in range(rng.randint(1, 3))) + rng.choice(
        ("", "n", "r", "st")
    )


def any_word(rng: Random) -> str:
    """A word of the list, now and then an invented one."""
    return rng.choice(WORDS) if rng.random() < 0.85 else pseudo_word(rng)


def make_spelling(rng: Random, effort: str) -> Exchange:
    """A word spelled letter by letter."""
    word = any_word(rng)
    dashed = "-".join(word)
    analysis = {"low": "Spelling.", "medium": f"Spell {word}.", "high": f"Spell {word}. Letters:{spaced(word)}."}[
        effort
    ]
    return Exchange(
        rng.choice(SPELL).format(w=word), analysis, f"{word}: {dashed}.", "spell:" + word, "spelling", dashed
    )


def make_reversal(rng: Random, effort: str) -> Exchange:
    """A word written backwards."""
    word = any_word(rng)
    back = word[::-1]
    analysis = {
        "low": "Reversing.",
        "medium": f"Reverse {word}. Letters:{spaced(word)}.",
        "high": f"Reverse {word}. Letters:{spaced(word)}. Backwards:{spaced(back)}. {len(word)} letters.",
    }[effort]
    answer = f"{word} backwards is {letterwise(back)}."
    return Exchange(rng.choice(REVERSE).format(w=word), analysis, answer, "reverse:" + word, "reversing", back)


def running_count(word: str, letter: str) -> str:
    """Each letter with the count so far."""
    total, steps = 0, []
    for each in word:
        total += each == letter
        steps.append(f"{each} {total}")
    return ", ".join(steps)


def make_letter_count(rng: Random, effort: str) -> Exchange:
    """How often a letter is in a word."""
    word = any_word(rng)
    letter = rng.choice(word) if rng.random() < 0.85 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    count = word.count(letter)
    analysis = {
        "low": "Counting letters.",
        "medium": f"Count {letter} in {word}:{spaced(word)}.",
        "high": f"Count {letter} in {word}:{spaced(word)}. Step by step: {running_count(word, letter)}. So {count}.",
    }[effort]
    question = rng.choice(COUNT).format(w=word, c=letter if rng.random() < 0.7 else letter.upper())
    answer = f"The letter {letter} appears {count} time{'s' if count != 1 else ''} in {word}."
    return Exchange(
        question,
        analysis,
        answer,
        f"count:{letter},{word}",
        "letter count",
        f"{letter} appears {count} time{'s' if count != 1 else ''} in {word}",
    )


def make_length(rng: Random, effort: str) -> Exchange:
    """How many letters a word has."""
    word = any_word(rng)
    numbered = ", ".join(f"{letter} {index}" for index, letter in enumerate(word, 1))
    analysis = {
        "low": "Counting letters.",
        "medium": f"Letters of {word}:{spaced(word)}.",
        "high": f"Letters of {word}:{spaced(word)}. Step by step: {numbered}. So {len(word)}.",
    }[effort]
    answer = f"The word {word} has {len(word)} letters."
    return Exchange(
        rng.choice(LENGTH).format(w=word), analysis, answer, "length:" + word, "word length", f"has {len(word)} letters"
    )


def make_word_sort(rng: Random, effort: str) -> Exchange:
    """Words put in alphabetical order."""
    chosen: list[str] = []
    for word in rng.sample(WORDS, 30):
        if len(chosen) < 5 and word[0] not in {each[0] for each in chosen}:
            chosen.append(word)
    chosen = chosen[: rng.randint(3, 5)]
    ordered = sorted(chosen)
    if effort == "low":
        analysis = "Sorting."
    elif effort == "medium":
        analysis = f"Sort {len(chosen)} words. First letters:{spaced(''.join(word[0] for word in chosen))}."
    else:
        letters = [word[0] for word in chosen]
        steps = " ".join(f"{letter} {word}." for letter, word in zip(sorted(letters), ordered, strict=True))
        found = f"First letters:{spaced(''.join(letters))}. In order:{spaced(''.join(sorted(letters)))}."
        analysis = f"Sort {' '.join(chosen)}. {found} {steps}"
    answer = ", ".join(ordered)
    question = rng.choice(SORT).format(list=rng.choice((", ", " ")).join(chosen))
    return Exchange(question, analysis, f"In order: {answer}.", "wordsort:" + answer, "word sort", answer)


def make_echo(rng: Random, effort: str) -> Exchange:
    """Words and numbers to repeat, at times many: what teaches copying, on which everything else rests."""
    pool = (*WORDS, *CITIES, *NAMES)
    count = rng.randint(8, 24) if rng.random() < 0.35 else rng.randint(1, 6)
    items = [str(rng.randint(0, 999)) if rng.random() < 0.08 else rng.choice(pool) for _ in range(count)]
    text = rng.choice((" ", " ", ", ", " and ") if count < 8 else (" ", " ", ", ")).join(items)
    analysis = {"low": "Repeat.", "medium": f"Repeat {text}.", "high": f"Repeat {text}. I copy it word by word."}[
        effort
    ]
    if count >= 8:
        analysis = {"low": "Repeat.", "medium": "Repeat all.", "high": "Repeat all. I copy it word by word."}[effort]
    return Exchange(rng.choice(ECHO).format(x=text), analysis, text, "echo:" + text, "repeating", text)
