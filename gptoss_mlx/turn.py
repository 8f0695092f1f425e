"""One turn of the model: prompt ids in, typed events out, the `Reply` and the new messages at the end.

Runs on the engine thread. It reads the channels while tokens come (harmony's parser), closes the reasoning when its
budget is spent, and stops at stop ids, stop strings, limits and the caller's word. It owns no conversation: `chat`
does.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

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
)
from gptoss_mlx.generate import Generation, Step
from gptoss_mlx.harmony import (
    ANALYSIS,
    COMMENTARY,
    FINAL,
    FUNCTIONS,
    ContentDelta,
    MarkupSkipped,
    Message,
    MessageFinished,
    MessageStarted,
    ParserEvent,
    StreamParser,
    StreamWarning,
    render_for_completion,
    render_message,
)
from gptoss_mlx.model import Model
from gptoss_mlx.options import Options
from gptoss_mlx.stop_strings import StopStrings
from gptoss_mlx.tokenizer import Tokenizer


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

    @property
    def tool_names(self) -> frozenset[str]:
        """Full names of the functions on offer."""
        return frozenset(f"{FUNCTIONS}.{tool.name}" for tool in self.options.offered_tools)


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
    channel is opened at once.

    The last message of `said` goes on where it ends, unless the model had closed it. Raises HarmonyError for what
    harmony cannot express.
    """
    prompt = tuple(render_for_completion(messages, tokenizer))
    opening: tuple[int, ...] = ()
    if said:
        opening = tuple(_said_so_far(said, tokenizer))
    elif answer_only:
        opening = tuple(_open_final(tokenizer))
    else:
        opening = (
            *(_empty_analysis(tokenizer) if options.effort == "none" else ()),
            *_open_message(options, tokenizer),
        )
    return Turn(tokenizer, prompt, opening, options, context_limit, call_number)


def run_turn(
    model: Model,
    ticket: Ticket,
    turn: Turn,
    *,
    commit: Callable[[Reply, list[Message]], None] = lambda reply, messages: None,
) -> Iterator[Event]:
    """Events of one turn; the last is Done. `commit` gets the reply and the model's messages just before Done, on this
    thread.

    A cancelled turn ends with Done too (`finish_reason="cancelled"`, what came is kept). Raises ContextOverflow before
    any work.
    """
    start = time.perf_counter()
    mx.reset_peak_memory()
    cache = model.make_cache()
    generation = Generation(
        model, cache, turn.options.sampling, context_limit=turn.context_limit, prefill_chunk=turn.options.prefill_chunk
    )
    listener = _Listener(turn)
    for token in turn.opening:
        yield from listener.hear(Step(token, None, forced=True))
    prompt = (*turn.prompt, *turn.opening)
    cached = cache.offset
    finish: FinishReason | None = None
    try:
        for done, total in generation.prefill(prompt, cancelled=ticket.cancelled):
            yield PromptProgress(done, total)
    except Cancelled:
        finish = "cancelled"
    first: float | None = None
    generated = 0
    while finish is None:
        step = generation.next_step()
        generated += 1
        if first is None:
            first = time.perf_counter()
        yield from listener.hear(step)
        finish = _finish_reason(turn, listener, generation, step, generated, ticket)
        if finish is None and listener.should_answer_now(ticket.hurried()):
            closing = _close_analysis(turn.tokenizer)
            if generation.room > len(closing):
                listener.reasoning_truncated = True
                generation.force(closing)
    end = time.perf_counter()
    yield from listener.finish()
    stats = Stats(
        prompt_tokens=len(prompt),
        cached_tokens=cached,
        reasoning_tokens=listener.reasoning_tokens,
        answer_tokens=listener.answer_tokens,
        generated_tokens=generated,
        ttft_seconds=(first or end) - start,
        prompt_seconds=generation.prefill_seconds,
        generation_seconds=end - (first or end),
        peak_memory_bytes=mx.get_peak_memory(),
    )
    reply, messages = listener.result(finish, stats)
    commit(reply, messages)
    yield Done(reply)


def _finish_reason(
    turn: Turn, listener: "_Listener", generation: Generation, step: Step, generated: int, ticket: Ticket
) -> FinishReason | None:
    """Why the turn ends after this step, or None when it goes on."""
    if step.token in turn.tokenizer.special.stop_ids and not step.forced:
        return "stop"
    if listener.stopped:
        return "stop"
    if ticket.cancelled():
        return "cancelled"
    if turn.options.max_tokens is not None and generated >= turn.options.max_tokens:
        return "length"
    if generation.exhausted:
        return "context"
    return None


def _open_message(options: Options, tokenizer: Tokenizer) -> list[int]:
    """The header that the model has no choice of: of a call that is demanded, or of the answer that it is to begin."""
    forced = options.forced_tools
    if forced:
        # `.name` is the model's to say where there are several: the vocabulary keeps the dot with what follows it.
        return _open_call(forced[0].name, tokenizer) if len(forced) == 1 else tokenizer.encode(f" to={FUNCTIONS}")
    # With tools on offer the model keeps the choice between a call and an answer.
    return _open_final(tokenizer) if options.effort == "none" and not options.offered_tools else []


def _open_call(name: str, tokenizer: Tokenizer) -> list[int]:
    """` to=functions.NAME<|channel|>commentary <|constrain|>json<|message|>`, to follow the start of a message."""
    special = tokenizer.special
    recipient = tokenizer.encode(f" to={FUNCTIONS}.{name}")
    content_type = [*tokenizer.encode(" "), special.constrain, *tokenizer.encode("json")]
    return [*recipient, special.channel, *tokenizer.encode(COMMENTARY), *content_type, special.message]


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


def _close_analysis(tokenizer: Tokenizer) -> list[int]:
    """`<|end|><|start|>assistant<|channel|>final<|message|>`: thinking is over, the answer begins."""
    special = tokenizer.special
    return [special.end, special.start, *tokenizer.encode("assistant"), *_open_final(tokenizer)]


@dataclass
class _Listener:
    """Turns tokens into events and keeps what the reply is made of."""

    turn: Turn
    reasoning_tokens: int = 0
    answer_tokens: int = 0
    reasoning_truncated: bool = False
    stopped: bool = False
    _texts: dict[str, list[str]] = field(default_factory=dict)
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

    def finish(self) -> Iterator[Event]:
        """Events that only the end of the stream makes."""
        for event in self._parser.finish():
            yield from self._translate(event)

    def should_answer_now(self, hurried: bool) -> bool:
        """True when the analysis must be closed: its budget is spent or the caller asked for the answer."""
        if self.reasoning_truncated or self._parser.current_channel != ANALYSIS:
            return False
        budget = self.turn.options.max_reasoning_tokens
        return hurried or (budget is not None and self.reasoning_tokens >= budget)

    def result(self, finish: FinishReason, stats: Stats) -> tuple[Reply, list[Message]]:
        """The reply and the messages for the history."""
        if finish == "stop" and self._calls:
            finish = "tool_calls"
        wanted = self.turn.options.sampling.logprobs
        reply = Reply(
            text="".join(self._texts.get(FINAL, ())),
            reasoning="".join(self._texts.get(ANALYSIS, ())),
            commentary="".join(self._texts.get(COMMENTARY, ())),
            tool_calls=tuple(self._calls),
            finish_reason=finish,
            reasoning_truncated=self.reasoning_truncated,
            stats=stats,
            raw=self.turn.tokenizer.decode(self._tokens),
            tokens=tuple(self._tokens),
            logprobs=tuple(self._logprobs) if wanted else None,
            warnings=tuple(self._warnings),
        )
        return reply, self._messages

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
            message = Message.assistant("".join(self._texts.get(FINAL, ())))
        self._messages.append(message)
        if (name := message.tool_name) is not None:
            call = ToolCall(
                f"call_{self.turn.call_number + len(self._calls)}", name, read_arguments(message.text), message.text
            )
            self._calls.append(call)
            yield call

    def _shown(self, text: str) -> TextDelta:
        if self._recipient is None:
            self._texts.setdefault(self._channel, []).append(text)
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
