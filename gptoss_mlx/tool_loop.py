"""One turn with its tools: stop at the call, read the arguments, run the tool, put the result into the conversation, go
on, until the model has answered.

    caller ── open_turn ──> Stream <── events ── the loop's thread ── round after round ──> engine
                              │ approve                │
                              └──── ApprovalRequest ───┴── run_call ──> a thread for every call

The engine's thread never waits for a tool: between two rounds it is free for others. What the model said and what the
tools gave is committed round by round, so that nothing is lost when the loop is stopped. Calls that wait at the same
time run one after the other, in the model's order: the order of their effects is then what the transcript says.
A turn without tools that run by themselves is one round, and has no thread here.
"""

import contextvars
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gptoss_mlx.engine import Engine, Job, Ticket
from gptoss_mlx.errors import ContextOverflow
from gptoss_mlx.events import Done, Event, Reply, ToolCall, ToolResult
from gptoss_mlx.harmony import Message, ToolDescription, tool_result
from gptoss_mlx.joined_reply import join_replies
from gptoss_mlx.kv_pool import KVPool
from gptoss_mlx.options import Options
from gptoss_mlx.stream import Stream
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tools import (
    ApprovalRequest,
    ArgumentError,
    Tool,
    ToolSessions,
    Verdict,
    cut_middle,
    read_call_arguments,
    run_call,
)
from gptoss_mlx.turn import Turn, prepare_turn, run_turn

if TYPE_CHECKING:
    from gptoss_mlx.model import Model

Commit = Callable[[list[Message]], None]
"""Takes all that was added to the conversation in this turn so far: the model's messages and the tools' results."""


def open_turn(
    engine: Engine,
    tokenizer: Tokenizer,
    conversation: Sequence[Message],
    options: Options,
    *,
    context_limit: int,
    pool: KVPool | None = None,
    call_number: int = 1,
    said: Sequence[Message] = (),
    sessions: ToolSessions | None = None,
    commit: Commit = lambda added: None,
) -> Stream:
    """The stream of the next turn of `conversation`, whose answer begins with what was `said` of it.

    What `pool` holds of the prompts is not read again. `call_number` is the number of its first tool call. `sessions`
    hold what its tools keep between calls; None: they end with the turn. `commit` is
    called before the last event of each round, and when results of tools are there. Raises ContextOverflow before any
    work.
    """
    first = _prepare(conversation, tokenizer, options, context_limit=context_limit, call_number=call_number, said=said)
    if not options.runs_tools:

        def keep(reply: Reply, messages: list[Message]) -> None:
            commit(messages)

        def work(model: "Model", ticket: Ticket) -> Iterator[Event]:
            return run_turn(model, ticket, first, pool=pool, commit=keep)

        return Stream(engine.stream(work))
    loop = _Loop(engine, tokenizer, conversation, options, context_limit, pool, call_number, commit, first, sessions)
    threading.Thread(target=loop.run, name="gptoss-tools", daemon=True).start()
    return Stream(loop.job, options.approve if callable(options.approve) else None)


def _prepare(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    options: Options,
    *,
    context_limit: int,
    call_number: int,
    said: Sequence[Message] = (),
    answer_only: bool = False,
) -> Turn:
    turn = prepare_turn(
        list(messages),
        tokenizer,
        options,
        context_limit=context_limit,
        call_number=call_number,
        said=said,
        answer_only=answer_only,
    )
    if turn.prompt_tokens >= context_limit:
        raise ContextOverflow(turn.prompt_tokens, context_limit)
    return turn


@dataclass
class _Loop:
    """The rounds of one turn. `run` is the body of its thread."""

    engine: Engine
    tokenizer: Tokenizer
    conversation: Sequence[Message]
    options: Options
    context_limit: int
    pool: KVPool | None
    call_number: int
    commit: Commit
    next_turn: Turn
    sessions: ToolSessions | None
    job: Job[Event | ApprovalRequest] = field(default_factory=Job)
    _added: list[Message] = field(default_factory=list)
    _replies: list[Reply] = field(default_factory=list)
    _results: list[ToolResult] = field(default_factory=list)
    _misfits: dict[str, int] = field(default_factory=dict)
    """Tool -> calls of it in a row whose arguments did not fit."""
    _context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """The caller's context variables, which the tools see."""
    _own_sessions: ToolSessions = field(default_factory=ToolSessions)
    """For a turn that belongs to no conversation."""

    def __post_init__(self) -> None:
        self.engine.closes(self._own_sessions)

    def run(self) -> None:
        """Takes rounds until the model has answered; every event of theirs goes to the reader, and one Done."""
        try:
            try:
                while self._round() and self._answer_calls():
                    self._prepare_next()
            finally:
                self._own_sessions.close()
            self.job.put(Done(join_replies(self._replies, self._results)))
        except BaseException as error:
            self.job.end(error)
        else:
            self.job.end()

    def _round(self) -> bool:
        """The model's part. True when it waits for tools."""
        turn, pool = self.next_turn, self.pool

        def keep(reply: Reply, messages: list[Message]) -> None:
            self._add(messages)

        def work(model: "Model", ticket: Ticket) -> Iterator[Event]:
            return run_turn(model, ticket, turn, pool=pool, commit=keep)

        for event in self.engine.stream(work, ticket=self.job.ticket):
            if isinstance(event, Done):
                calls = tuple(self._told(call) for call in event.reply.tool_calls)
                self._replies.append(replace(event.reply, tool_calls=calls))
            else:
                self.job.put(self._told(event) if isinstance(event, ToolCall) else event)
        return self._replies[-1].finish_reason == "tool_calls" and not self._must_answer(len(self._replies) - 1)

    def _must_answer(self, rounds: int) -> bool:
        """Whether the model has no calls left after so many rounds of them."""
        return rounds > self.options.tool_limits.rounds

    def _answer_calls(self) -> bool:
        """The tools' part. True when every call of the round has its result, so that the model can go on."""
        open_calls = False
        for call in self._replies[-1].tool_calls:
            if self._is_the_callers(call):
                open_calls = True
                continue
            result = self._answer(call)
            self._results.append(result)
            self._add([tool_result(self._so_far, call.name, result.content)])
            self.job.put(result)
        if self.job.ticket.cancelled():
            self._replies[-1] = replace(self._replies[-1], finish_reason="cancelled")
            return False
        return not open_calls

    def _prepare_next(self) -> None:
        self.next_turn = _prepare(
            [*self.conversation, *self._added],
            self.tokenizer,
            # The model was made to call once; now it is free.
            replace(self.options, tool_choice="none" if self.options.tool_choice == "none" else "auto"),
            context_limit=self.context_limit,
            call_number=self.call_number + sum(len(reply.tool_calls) for reply in self._replies),
            answer_only=self._must_answer(len(self._replies)),
        )

    def _add(self, messages: Sequence[Message]) -> None:
        self._added = [*self._added, *messages]
        self.commit(list(self._added))

    # One call

    @property
    def _so_far(self) -> list[Message]:
        """All that was said."""
        return [*self.conversation, *self._added]

    def _offered(self, name: str) -> ToolDescription | None:
        """The tool of that full name. Short and misspelt names were mended in the parser."""
        return next((tool for tool in self.options.offered_tools if tool.full_name == name), None)

    def _tool(self, name: str) -> Tool | None:
        """The same, if it runs by itself."""
        tool = self._offered(name)
        return tool if isinstance(tool, Tool) else None

    def _is_the_callers(self, call: ToolCall) -> bool:
        """Whether the call is for a tool whose result the caller gives."""
        tool = self._offered(call.name)
        return tool is not None and not isinstance(tool, Tool)

    def _told(self, call: ToolCall) -> ToolCall:
        """The call with what it is about, where its tool can say that."""
        tool = self._tool(call.name)
        if tool is None or tool.about is None:
            return call
        try:
            return replace(call, about=tool.about(read_call_arguments(call.raw, tool), self._so_far))
        except ArgumentError:
            return call

    def _earlier(self, call: ToolCall) -> list[str]:
        """What the model wrote in the conversation's calls of the same tool that ran before this one."""
        waiting: list[str] = []
        ran: list[str] = []
        for message in self._so_far:
            if message.tool_name == call.name:
                waiting.append(message.text)
            elif message.role == "tool" and message.name == call.name and waiting:
                text = waiting.pop(0)
                if not message.text.startswith(_NOT_RUN):
                    ran.append(text)
        return ran

    def _answer(self, call: ToolCall) -> ToolResult:
        """The result of one call, or why there is none."""
        if self.job.ticket.cancelled():
            return _failure(call, f"{_STOPPED}.")
        if self._must_answer(len(self._replies)):
            limit = self.options.tool_limits.rounds
            return _failure(call, f"{_NO_MORE} in this turn (limit: {limit}). Answer with what you have.")
        tool = self._tool(call.name)
        if tool is None:
            return _failure(call, self._unknown(call.name))
        try:
            arguments = read_call_arguments(call.raw, tool)
        except ArgumentError as error:
            return _failure(call, self._misfit(tool, call.name, str(error)))
        self._misfits.pop(call.name, None)
        verdict = self._verdict(tool, call, arguments)
        if verdict is not True:
            reason = f": {verdict}" if isinstance(verdict, str) and verdict else ""
            return _failure(call, f"{_REFUSED}{reason}. The tool did not run.")
        limits = self.options.tool_limits
        sessions = self._own_sessions if self.sessions is None else self.sessions
        outcome = run_call(
            sessions.bound(tool, self._earlier(call)),
            call.name,
            arguments,
            seconds=limits.seconds if tool.max_seconds is None else tool.max_seconds,
            grace=limits.grace_seconds,
            cancelled=self.job.ticket.cancelled,
            context=self._context,
            conversation=self._so_far,
            count_tokens=lambda text: len(self.tokenizer.encode(text)),
            result_characters=limits.result_characters,
        )
        return ToolResult(
            call.id,
            call.name,
            cut_middle(outcome.text, limits.result_characters),
            failed=outcome.ending != "returned",
            seconds=outcome.seconds,
            source=outcome.source,
        )

    def _unknown(self, name: str) -> str:
        names = ", ".join(tool.full_name for tool in self.options.offered_tools)
        offer = f"The tools are: {names}." if names else "No tools can be called in this turn."
        return f"there is no tool {name}. {offer}"

    def _misfit(self, tool: Tool, name: str, faults: str) -> str:
        """What the model is told of arguments that do not fit: once to write them anew, then to let it be."""
        count = self._misfits[name] = self._misfits.get(name, 0) + 1
        if count == 1:
            schema = json.dumps(tool.parameters or {"type": "object", "properties": {}}, ensure_ascii=False)
            return f"{_MISFIT}: {faults}. Call it again with arguments of this schema: {schema}"
        return f"{_MISFIT} again: {faults}. Do not call it again; answer with what you have."

    def _verdict(self, tool: Tool, call: ToolCall, arguments: Mapping[str, Any]) -> Verdict:
        policy = tool.policy
        if policy is None:
            policy = "ask" if callable(self.options.approve) else self.options.approve
        if policy != "ask":
            return policy == "always" or "it is switched off"
        if tool.asks is not None and not tool.asks(arguments, self._so_far):
            return True
        # What was said since the call came may have changed what it is about.
        request = ApprovalRequest(self._told(call))
        self.job.put(request)
        return request.verdict if request.wait(self.job.ticket.cancelled) else "the user stopped the turn"


_STOPPED, _REFUSED = "the user stopped this call before it ran", "the call was refused"
_NO_MORE, _MISFIT = "no more calls are possible", "the arguments do not fit"

_NOT_RUN = tuple(f"Error: {why}" for why in (_STOPPED, _REFUSED, _NO_MORE, _MISFIT))
"""How the results of calls begin whose tool was not run."""


def _failure(call: ToolCall, text: str) -> ToolResult:
    return ToolResult(call.id, call.name, f"Error: {text}", failed=True)
