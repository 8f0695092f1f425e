"""One turn of the model: prompt ids in, typed events out, the `Reply` and the new messages at the end.

Runs on the engine thread. It reads the channels while tokens come (harmony's parser), closes the reasoning when its
budget is spent, and stops at stop ids, stop strings, limits and the caller's word. It goes on from what a pool of KV
caches holds of the prompt. It owns no conversation: `chat` does.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from gptoss_mlx.context import make_prompt
from gptoss_mlx.engine import Ticket
from gptoss_mlx.errors import Cancelled
from gptoss_mlx.events import (
    ChannelStart,
    Done,
    Event,
    FinishReason,
    ParseWarning,
    PromptProgress,
    Reply,
    Stats,
    TextDelta,
    ToolCall,
    TurnsDropped,
)
from gptoss_mlx.generate import Generation, Step
from gptoss_mlx.harmony import (
    ANALYSIS,
    COMMENTARY,
    FINAL,
    ContentDelta,
    MarkupSkipped,
    Message,
    MessageFinished,
    MessageStarted,
    ParserEvent,
    StreamParser,
    StreamWarning,
    is_tool,
    render_for_completion,
    render_message,
)
from gptoss_mlx.kv_pool import KVPool
from gptoss_mlx.model import Model
from gptoss_mlx.options import Options
from gptoss_mlx.stop_strings import StopStrings
from gptoss_mlx.structured import CLOSING_TOKENS, TurnConstraint, TurnForm, schema_grammar
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import short_name

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
"""The schema of a function that takes none."""


@dataclass(frozen=True, slots=True)
class Turn:
    """All that one turn needs, made by the caller before any work is queued."""

    tokenizer: Tokenizer
    prompt: tuple[int, ...]
    """Rendered conversation, ending with the start of the assistant's message."""
    opening: tuple[int, ...]
    """Tokens put into the model's mouth after the prompt: effort `none` opens the final channel at once; an answer that
    is continued begins with what was said of it."""
    options: Options
    context_limit: int
    call_number: int = 1
    """Number of the first tool call of this turn, so that ids are unique in the conversation."""
    constraint: TurnConstraint | None = None
    """What the turn is held to, after its opening; for one run of the turn."""
    dropped: TurnsDropped | None = None
    """The turns that were left out of `prompt`, if any were."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are there before the model draws one."""
        return len(self.prompt) + len(self.opening)

    @property
    def tool_names(self) -> frozenset[str]:
        """Full names of the tools on offer."""
        return frozenset(tool.full_name for tool in self.options.offered_tools)


def prepare_turn(
    messages: list[Message],
    tokenizer: Tokenizer,
    options: Options,
    *,
    context_limit: int,
    call_number: int = 1,
    said: Sequence[Message] = (),
    answer_only: bool = False,
) -> Turn:
    """Renders `messages` for the next answer, which begins with what was `said` of it; with `answer_only` the final
    channel is opened at once. The oldest turns are left out if they do not fit and `options` say so.

    The last message of `said` goes on where it ends, unless the model had closed it. The prompt may be too long for
    the context length. Raises HarmonyError for what harmony cannot express, UsageError for a form of the answer that
    what was said does not fit.
    """
    opening: tuple[int, ...] = ()
    if said:
        opening = tuple(_said_so_far(said, tokenizer))
    elif answer_only:
        opening = tuple(_open_final(tokenizer))
    elif options.effort == "none":
        # With tools on offer the model keeps the choice between a call and an answer.
        opening = (*_empty_analysis(tokenizer), *(() if options.offered_tools else _open_final(tokenizer)))
    constraint = _make_constraint(options, tokenizer)
    if constraint is not None:
        for token in opening:
            constraint.accept(token)
    prompt = make_prompt(
        messages, tokenizer, overflow=options.overflow, context_limit=context_limit, opening_tokens=len(opening)
    )
    return Turn(
        tokenizer, prompt.tokens, opening, options, context_limit, call_number, constraint, dropped=prompt.dropped
    )


def run_turn(
    model: Model,
    ticket: Ticket,
    turn: Turn,
    *,
    pool: KVPool | None = None,
    commit: Callable[[Reply, list[Message]], None] = lambda reply, messages: None,
) -> Iterator[Event]:
    """Events of one turn; the last is Done. `commit` gets the reply and the model's messages just before Done, on this
    thread. What `pool` holds of the prompt is not read again, and what was read goes there; None keeps nothing.

    A cancelled turn ends with Done too (`finish_reason="cancelled"`, what came is kept). Raises ContextOverflow before
    any work.
    """
    start = time.perf_counter()
    model.begin_peak()
    pool = KVPool(0) if pool is None else pool
    prompt = [*turn.prompt, *turn.opening]
    held = pool.take(
        model.make_cache,
        prompt,
        start=answers_start(prompt, turn.tokenizer),
        end_ids=turn.tokenizer.special.message_end_ids,
    )
    generation = Generation(
        model,
        held.cache,
        turn.options.sampling,
        context_limit=turn.context_limit,
        prefill_chunk=turn.options.prefill_chunk,
        constraint=turn.constraint,
    )
    listener = Listener(turn)
    if turn.dropped is not None:
        yield turn.dropped
    for token in turn.opening:
        yield from listener.hear(Step(token, None, forced=True))
    finish: FinishReason | None = None
    try:
        for done, total in generation.prefill(prompt, cancelled=ticket.cancelled):
            held.collect()
            yield PromptProgress(done, total, held.cached_tokens, generation.prefill_seconds)
    except Cancelled:
        finish = "cancelled"
    first: float | None = None
    generated = 0
    while finish is None:
        step = generation.next_step()
        generated += 1
        if first is None:
            first = time.perf_counter()
        held.heard(step.token, generation.length)
        yield from listener.hear(step)
        finish = after_step(turn, listener, generation, step, generated, ticket)
    end = time.perf_counter()
    yield from listener.finish(finish)
    stats = Stats(
        prompt_tokens=len(prompt),
        cached_tokens=held.cached_tokens,
        reasoning_tokens=listener.reasoning_tokens,
        answer_tokens=listener.answer_tokens,
        generated_tokens=generated,
        ttft_seconds=(first or end) - start,
        prompt_seconds=generation.prefill_seconds,
        generation_seconds=end - (first or end),
        peak_memory_bytes=model.peak_memory_bytes,
    )
    reply, messages = listener.result(finish, stats)
    commit(reply, messages)
    pool.give_back(held, generation.tokens_read)
    yield Done(reply)


def answers_start(prompt: list[int], tokenizer: Tokenizer) -> int:
    """How many tokens of `prompt` come before the answers of its last turn: all up to the assistant's first message.

    That is where the next prompt parts from it once this turn has ended: the reasoning is dropped then.
    """
    start = tokenizer.special.start
    user, answer = [start, *tokenizer.encode("user")], [start, *tokenizer.encode("assistant")]
    headers = [at for at, token in enumerate(prompt) if token == start]
    asked = max((at for at in headers if prompt[at : at + len(user)] == user), default=len(prompt))
    answers = (at for at in headers if at > asked and prompt[at : at + len(answer)] == answer)
    return next(answers, len(prompt) - len(answer)) + len(answer)


def after_step(
    turn: Turn, listener: "Listener", generation: Generation, step: Step, generated: int, ticket: Ticket
) -> FinishReason | None:
    """Why the turn ends after this step, the last of `generated`; None when it goes on.

    The reasoning is closed here when that is due.
    """
    finish = _finish_reason(turn, listener, generation, step, generated, ticket)
    if finish is None and listener.should_answer_now(ticket.hurried()):
        closing = _close_analysis(turn)
        if generation.room > len(closing):
            listener.reasoning_truncated = True
            generation.force(closing)
    return finish


def _finish_reason(
    turn: Turn, listener: "Listener", generation: Generation, step: Step, generated: int, ticket: Ticket
) -> FinishReason | None:
    """Why the turn ends after this step, or None when it goes on."""
    constraint = turn.constraint
    if step.token in turn.tokenizer.special.stop_ids and not step.forced:
        # An answer that was brought to its end by a limit says which one.
        if constraint is None or not constraint.closing:
            return "stop"
        return "context" if turn.options.max_tokens is None or generated < turn.options.max_tokens else "length"
    if listener.stopped:
        return "stop"
    if ticket.cancelled():
        return "cancelled"
    limit = turn.options.max_tokens
    if limit is not None and generated >= limit and not (constraint and constraint.close(generated - limit)):
        return "length"
    if generation.exhausted:
        return "context"
    if constraint is not None and generation.room <= CLOSING_TOKENS:
        constraint.close(0)
    return None


def _said_so_far(said: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """What was said of an answer, to follow the start of its first message."""
    next_start = render_for_completion([], tokenizer)
    ids = [token for message in said for token in render_message(message, tokenizer)][len(next_start) :]
    closed = said[-1].tokens is not None and said[-1].tokens[-1] == tokenizer.special.end
    return [*ids, *next_start] if closed else ids[:-1]


def _empty_analysis(tokenizer: Tokenizer) -> list[int]:
    """`<|channel|>analysis<|message|><|end|><|start|>assistant`: thinking, over before it began."""
    special = tokenizer.special
    opened = [special.channel, *tokenizer.encode(ANALYSIS), special.message]
    return [*opened, special.end, special.start, *tokenizer.encode("assistant")]


def _open_final(tokenizer: Tokenizer) -> list[int]:
    """`<|channel|>final<|message|>`, to follow the start of a message."""
    special = tokenizer.special
    return [special.channel, *tokenizer.encode(FINAL), special.message]


def _close_analysis(turn: Turn) -> Sequence[int]:
    """`<|end|><|start|>assistant<|channel|>final<|message|>`: thinking is over, the answer begins."""
    if turn.constraint is not None:
        return turn.constraint.closing_of_analysis()
    special, encode = turn.tokenizer.special, turn.tokenizer.encode
    return [special.end, special.start, *encode("assistant"), *_open_final(turn.tokenizer)]


def _make_constraint(options: Options, tokenizer: Tokenizer) -> TurnConstraint | None:
    """What the options hold a turn to; None where the model is free."""
    answer = options.response_format
    must_call = frozenset(tool.full_name for tool in options.forced_tools)
    if answer is None and not must_call and not any(tool.strict for tool in options.offered_tools):
        return None
    tools = {
        tool.full_name: schema_grammar(
            tool.parameters or _NO_ARGUMENTS, f"the schema of tool {short_name(tool.full_name)!r}"
        )
        if tool.strict
        else None
        for tool in options.offered_tools
    }
    form = TurnForm(
        answer=None if answer is None else answer.grammar,
        answer_is_json=answer is not None and answer.is_json,
        tools=tools,
        must_call=must_call,
    )
    return TurnConstraint(form, tokenizer)


@dataclass
class Listener:
    """Turns tokens into events and keeps what the reply is made of."""

    turn: Turn
    reasoning_tokens: int = 0
    answer_tokens: int = 0
    reasoning_truncated: bool = False
    stopped: bool = False
    _texts: dict[str, StringIO] = field(default_factory=dict)
    _calls: list[ToolCall] = field(default_factory=list)
    _warnings: list[ParseWarning] = field(default_factory=list)
    _messages: list[Message] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _logprobs: list[float] = field(default_factory=list)
    _waiting_logprobs: list[float] = field(default_factory=list)
    _held_tokens: int = 0
    _foreign: bool = False

    def __post_init__(self) -> None:
        turn = self.turn
        self._parser = StreamParser(turn.tokenizer, role="assistant", tool_names=turn.tool_names)
        self._stops = StopStrings(turn.options.stop)
        self._channel: str = FINAL
        self._recipient: str | None = None

    def hear(self, step: Step) -> Iterator[Event]:
        """Events that one more token makes."""
        self._tokens.append(step.token)
        logprob = 0.0 if step.logprob is None else step.logprob
        self._logprobs.append(logprob)
        self._waiting_logprobs.append(logprob)
        for event in self._parser.feed(step.token):
            yield from self._translate(event)

    def finish(self, finish: FinishReason = "stop") -> Iterator[Event]:
        """Events that only the end of the stream makes, whose reason is given.

        What is broken off by a cut is no fault of the model: no warning comes of it.
        """
        cut = finish not in ("stop", "tool_calls")
        for event in self._parser.finish():
            if not (cut and isinstance(event, StreamWarning)):
                yield from self._translate(event)

    def should_answer_now(self, hurried: bool) -> bool:
        """True when the analysis must be closed: its budget is spent or the caller asked for the answer."""
        if self.reasoning_truncated or self._parser.current_channel != ANALYSIS:
            return False
        if is_tool(self._recipient):
            # Half a call would be another call.
            return False
        budget = self.turn.options.max_reasoning_tokens
        return hurried or (budget is not None and self.reasoning_tokens >= budget)

    def result(self, finish: FinishReason, stats: Stats) -> tuple[Reply, list[Message]]:
        """The reply and the messages for the history."""
        if finish == "stop" and self._calls:
            finish = "tool_calls"
        wanted = self.turn.options.sampling.logprobs
        text = self._text_of(FINAL)
        parsed = self._parsed(text)
        reply = Reply(
            text=text,
            reasoning=self._text_of(ANALYSIS),
            commentary=self._text_of(COMMENTARY),
            tool_calls=tuple(self._calls),
            parsed=parsed,
            finish_reason=finish,
            reasoning_truncated=self.reasoning_truncated,
            stats=stats,
            raw=self.turn.tokenizer.decode(self._tokens),
            tokens=tuple(self._tokens),
            logprobs=tuple(self._logprobs) if wanted else None,
            warnings=tuple(self._warnings),
        )
        return reply, self._messages

    def _parsed(self, text: str) -> Any:
        """The value of an answer that came to its end. What only the asked type refuses is a warning."""
        wanted, constraint = self.turn.options.response_format, self.turn.constraint
        if wanted is None or constraint is None or not constraint.answered:
            return None
        try:
            return wanted.parse(text)
        except ValueError as error:
            self._warned(f"the answer fits its schema, and its type refuses it: {error}", text)
            return None

    def _translate(self, event: ParserEvent) -> Iterator[Event]:
        match event:
            case MessageStarted() if event.role != "assistant":
                # The model speaks for somebody else: that is no part of its answer, and its turn is over.
                self.stopped = self._foreign = True
                yield self._warned(f"the model began a message of role {event.role}; its turn ends there", event.raw)
            case _ if self._foreign:
                return
            case MessageStarted():
                self._channel = event.channel or FINAL
                self._recipient = event.recipient
                self._waiting_logprobs.clear()
                yield ChannelStart(self._channel, self._recipient)
            case ContentDelta():
                yield from self._delta(event.text, event.tokens)
            case MessageFinished():
                yield from self._message(event.message)
            case StreamWarning():
                yield self._warned(event.message, event.raw)
            case MarkupSkipped():
                pass

    def _warned(self, message: str, raw: str) -> ParseWarning:
        self._warnings.append(ParseWarning(message, raw))
        return self._warnings[-1]

    def _delta(self, text: str, tokens: int) -> Iterator[Event]:
        if self._channel == ANALYSIS:
            self.reasoning_tokens += tokens
        else:
            self.answer_tokens += tokens
        self._held_tokens += tokens
        if self._channel == FINAL:
            text = self._stops.feed(text)
            self.stopped = self._stops.stopped
        if text:
            yield self._shown(text)

    def _message(self, message: Message) -> Iterator[Event]:
        if self._channel == FINAL and (rest := self._stops.flush()):
            yield self._shown(rest)
        if self.stopped and message.channel in (FINAL, None):
            # The history holds what the reader saw, not the tokens beyond the stop string.
            message = Message.assistant(self._text_of(FINAL))
        self._messages.append(message)
        if (name := message.tool_name) is not None:
            call = ToolCall(
                f"call_{self.turn.call_number + len(self._calls)}", name, read_arguments(message.text), message.text
            )
            self._calls.append(call)
            yield call

    def _text_of(self, channel: str) -> str:
        return self._texts[channel].getvalue() if channel in self._texts else ""

    def _shown(self, text: str) -> TextDelta:
        if self._recipient is None:
            # A string of a token's would take ten times the room of its text.
            self._texts.setdefault(self._channel, StringIO()).write(text)
        logprobs = tuple(self._waiting_logprobs) if self.turn.options.sampling.logprobs else None
        delta = TextDelta(self._channel, text, self._held_tokens, logprobs)
        self._waiting_logprobs.clear()
        self._held_tokens = 0
        return delta


def read_arguments(text: str) -> dict[str, Any] | None:
    """The arguments of a call as a dict, or None when they are not a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
