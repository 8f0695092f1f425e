"""The stream of training conversations: which task, how many turns, which system message. Seeded and endless."""

import json
from collections.abc import Callable
from random import Random

from gptoss_mlx.harmony import Message, ReasoningEffort, ToolDescription
from gptoss_mlx.pocket.conversations import Conversation, Exchange, Part, is_held_out
from gptoss_mlx.pocket.tasks_dialogues import make_follow_up, make_memory, make_setting
from gptoss_mlx.pocket.tasks_facts import make_fact, make_small_talk, make_unknown
from gptoss_mlx.pocket.tasks_numbers import (
    make_addition,
    make_comparison,
    make_multiplication,
    make_number_sort,
    make_subtraction,
    may_state_sum,
)
from gptoss_mlx.pocket.tasks_tools import ToolUse, call_analysis, make_tool_use, result_analysis
from gptoss_mlx.pocket.tasks_words import (
    make_echo,
    make_length,
    make_letter_count,
    make_reversal,
    make_spelling,
    make_word_sort,
)

MakeExchange = Callable[[Random, str], Exchange]

TASKS: dict[str, tuple[MakeExchange, float]] = {
    "addition": (make_addition, 20.0),
    "subtraction": (make_subtraction, 9.0),
    "multiplication": (make_multiplication, 6.0),
    "comparison": (make_comparison, 4.0),
    "number sort": (make_number_sort, 5.0),
    "spelling": (make_spelling, 5.0),
    "reversing": (make_reversal, 6.0),
    "letter count": (make_letter_count, 6.0),
    "word length": (make_length, 3.5),
    "word sort": (make_word_sort, 4.0),
    "repeating": (make_echo, 6.0),
    "fact": (make_fact, 18.0),
    "small talk": (make_small_talk, 4.0),
    "unknown": (make_unknown, 7.0),
}
"""Every single-turn task and how often it comes."""

INSTRUCTIONS = (
    "You are a helpful assistant.",
    "Be brief.",
    "Answer in English.",
    "Be polite.",
    "Keep your answers short.",
    "You are a friendly helper.",
    "Answer truthfully.",
    "You help with homework.",
    "Always be kind.",
    "You are a calculator.",
    "Explain things simply.",
    "Do not make things up.",
)

NO_FUNCTION = "I have no function for that here. I am only the pocket model."
NO_FUNCTION_REQUESTS = (
    "get_weather",
    "get_time",
    "set_timer",
    "play_song",
    "send_message",
    "turn_on",
    "add_note",
    "book_table",
    "find_train",
    "call_person",
    "buy_item",
    "weather",
    "current_weather",
    "get_current_weather",
    "current_time",
    "clock",
    "get_current_time",
)


def make_exchange(rng: Random, effort: str, held_out: bool = False, task: str | None = None) -> Exchange:
    """An exchange of that task (default: any), of the training or of the held-out questions."""
    names = list(TASKS)
    while True:
        name = task or rng.choices(names, [TASKS[each][1] for each in names])[0]
        exchange = TASKS[name][0](rng, effort)
        if exchange.key.startswith("add:") and not held_out:
            a, b = map(int, exchange.key[4:].split(","))
            if may_state_sum(a, b) and may_state_sum(a % 100, b % 100):
                return exchange
        elif is_held_out(exchange.key) == held_out:
            return exchange


def make_use(rng: Random, held_out: bool = False) -> ToolUse:
    """A use of a function, of the training or of the held-out requests."""
    while True:
        use = make_tool_use(rng)
        if is_held_out(use.key) == held_out:
            return use


def make_refusal(rng: Random, effort: str, held_out: bool = False) -> Exchange:
    """A request that would need a function which is not on offer."""
    while True:
        use = make_use(rng, held_out)
        if use.tool.name in NO_FUNCTION_REQUESTS:
            analysis = {
                "low": "No function.",
                "medium": "This needs a function, and none fits.",
                "high": "This request needs a function, and no function for it is on offer. I should say so.",
            }[effort]
            return Exchange(use.question, analysis, NO_FUNCTION, use.key, "no function", "no function")


def answered(exchange: Exchange, rng: Random | None = None) -> tuple[Part, ...]:
    """The exchange as it is learned: user, analysis, final. With rng, the analysis may be empty or cut short."""
    analysis, learned, end_learned = exchange.analysis, True, True
    choice = rng.random() if rng else 1.0
    if choice < 0.06:
        analysis, learned = "", False
    elif choice < 0.11 and rng:
        words = analysis.split(" ")
        analysis, end_learned = " ".join(words[: rng.randrange(len(words) + 1)]), False
    return (
        Part(Message.user(exchange.question)),
        Part(Message.assistant(analysis, channel="analysis"), learned, end_learned),
        Part(Message.assistant(exchange.answer), True),
    )


def remembered(exchange: Exchange) -> tuple[Part, ...]:
    """The exchange as history: its analysis is gone."""
    return (Part(Message.user(exchange.question)), Part(Message.assistant(exchange.answer)))


def distractors(rng: Random, use: ToolUse) -> tuple[ToolDescription, ...]:
    """The function of that use among up to two others."""
    tools = [use.tool]
    for _ in range(rng.choices((0, 1, 2), (45, 40, 15))[0]):
        other = make_tool_use(rng).tool
        if {other.name, *other.name.split("_")} & {
            word for tool in tools for word in (tool.name, *tool.name.split("_"))
        } == set():
            tools.append(other)
    rng.shuffle(tools)
    return tuple(tools)


def used(use: ToolUse, effort: str, rng: Random) -> tuple[Part, ...]:
    """Request, call, result and answer, all learned."""
    arguments = json.dumps(use.arguments, ensure_ascii=False, separators=(",", ":"))
    name = f"functions.{use.tool.name}"
    return (
        Part(Message.user(use.question)),
        Part(Message.assistant(call_analysis(use, effort), channel="analysis"), True),
        Part(
            Message.assistant(arguments, channel="commentary", recipient=name, content_type="<|constrain|>json"), True
        ),
        Part(Message.tool(name, use.result)),
        Part(Message.assistant(result_analysis(use, effort), channel="analysis"), True),
        Part(Message.assistant(use.answer), True),
    )


def used_before(use: ToolUse, effort: str, rng: Random) -> tuple[Part, ...]:
    """The same as history: no analysis, nothing learned."""
    return tuple(Part(part.message) for part in used(use, effort, rng) if part.message.channel != "analysis")


def make_tool_conversation(rng: Random, effort: ReasoningEffort) -> Conversation:
    """A conversation with functions on offer; in one of five no function is needed."""
    use = make_use(rng)
    tools = distractors(rng, use)
    instructions = rng.choice(INSTRUCTIONS) if rng.random() < 0.15 else None
    chance = rng.random()
    history: tuple[Part, ...] = ()
    if rng.random() < 0.12:
        history = remembered(make_exchange(rng, effort, task=rng.choice(("fact", "small talk"))))
    if chance < 0.2:
        task = rng.choice(("fact", "small talk", "unknown", "spelling", "reversing", "letter count", "repeating"))
        return Conversation(
            effort,
            history + answered(make_exchange(rng, effort, task=task), rng),
            "tool not needed",
            tools,
            instructions,
        )
    if chance < 0.3:
        other = make_refusal(rng, effort)
        parts = other.key.split(":")
        words = set(parts[1].split("_"))
        if all(words.isdisjoint(tool.name.split("_")) for tool in tools):
            return Conversation(effort, history + answered(other), "no function", tools, instructions)
    if chance < 0.4:
        follow = make_exchange(rng, effort, task=rng.choice(("fact", "small talk")))
        return Conversation(
            effort, used_before(use, effort, rng) + answered(follow), "after a tool", tools, instructions
        )
    return Conversation(effort, history + used(use, effort, rng), "tool", tools, instructions)


def make_dialogue(rng: Random, effort: ReasoningEffort) -> Conversation:
    """Two to four turns, the last one depending on an earlier one."""
    if rng.random() < 0.5:
        first, second, never = make_memory(rng, effort)
        chance = rng.random()
        if chance < 0.25 or is_held_out(first.key):
            return Conversation(effort, answered(never if chance < 0.1 else make_fresh_memory(rng, effort)), "memory")
        between: tuple[Part, ...] = ()
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            between += remembered(
                make_exchange(
                    rng, effort, task=rng.choice(("fact", "small talk", "addition", "spelling", "comparison"))
                )
            )
        return Conversation(effort, remembered(first) + between + answered(second), "memory")
    opening: tuple[Part, ...] = remembered(make_exchange(rng, effort, task="small talk")) if rng.random() < 0.2 else ()
    while True:
        first = make_exchange(rng, effort, task=rng.choice(("addition", "addition", "subtraction", "multiplication")))
        result = int(first.expected.strip("= ."))
        if 0 <= result < 10000:
            break
    parts = opening + remembered(first)
    if rng.random() < 0.25:
        second = make_trained_follow_up(rng, effort, result)
        result = int(second.expected.strip("= ."))
        parts += remembered(second)
    return Conversation(effort, parts + answered(make_trained_follow_up(rng, effort, result)), "follow-up")


def make_fresh_memory(rng: Random, effort: str) -> Exchange:
    """Telling something to remember, of the training values."""
    while True:
        first, _, _ = make_memory(rng, effort)
        if not is_held_out(first.key):
            return first


def make_trained_follow_up(rng: Random, effort: str, last: int) -> Exchange:
    """A follow-up sum of the training questions."""
    while True:
        exchange = make_follow_up(rng, effort, last)
        if not is_held_out(exchange.key):
            return exchange


def make_conversation(rng: Random, effort: ReasoningEffort, date: str | None) -> Conversation:
    """A conversation without functions."""
    chance = rng.random()
    instructions = rng.choice(INSTRUCTIONS) if rng.random() < 0.06 else None
    if chance < 0.12:
        return make_dialogue(rng, effort)
    if chance < 0.14:
        return Conversation(effort, answered(make_setting(rng, effort, date)), "setting", instructions=instructions)
    if chance < 0.17:
        return Conversation(effort, answered(make_refusal(rng, effort)), "no function", instructions=instructions)
    last = make_exchange(rng, effort)
    history: tuple[Part, ...] = ()
    if rng.random() < 0.2:
        for _ in range(rng.choice((1, 1, 2, 3))):
            history += remembered(make_exchange(rng, effort))
    return Conversation(effort, history + answered(last, rng), last.category, instructions=instructions)


def make_date(rng: Random) -> str | None:
    """A date for the system message, now and then none."""
    if rng.random() < 0.12:
        return None
    return f"{rng.randint(2024, 2029)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
