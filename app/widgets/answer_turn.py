"""AnswerTurn: all that the model says in one turn: reasoning, tool calls, text, in the order of the stream.

Events come as fast as they like: `feed` only takes them in. A task of this widget shows what has gathered, at most
`UPDATES_PER_SECOND` times a second, and rests twice as long as showing took: keys are answered in between however long
the answer is. Text of one message that came meanwhile is shown in one go.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from textual.app import ComposeResult
from textual.widget import MountError

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.displayed_text import displayable
from gptoss_mlx.app.turn_parts import Part, part_kind, turn_parts
from gptoss_mlx.app.typed import is_typing
from gptoss_mlx.app.widgets.answer import Answer
from gptoss_mlx.app.widgets.foldable import Foldable
from gptoss_mlx.app.widgets.reasoning import Reasoning
from gptoss_mlx.app.widgets.tool_call import ToolCallBlock
from gptoss_mlx.app.widgets.turn_view import TurnView
from gptoss_mlx.events import ChannelStart, Event, PromptProgress, TextDelta, ToolCall, ToolResult, TurnsDropped
from gptoss_mlx.harmony import is_tool

UPDATES_PER_SECOND = 25

TYPING_REST_SECONDS = 0.3
"""Between two times while somebody types: what is typed goes first, and text comes in larger pieces."""

STOPPED = {
    "length": "stopped at the limit of tokens · g goes on",
    "context": "stopped: the context is full",
}
"""By finish reason; else the user stopped it."""


def left_out(dropped: Mapping[str, int]) -> str:
    """Says what of the conversation the model did not read."""
    turns, tokens = dropped["turns"], dropped["tokens"]
    which = "The oldest turn" if turns == 1 else f"The oldest {turns:,} turns"
    return f"{which} ({tokens:,} tokens) {'was' if turns == 1 else 'were'} left out of what the model read"


class AnswerTurn(TurnView):
    """A turn of the model; while `turn.state` is `running` it takes events, until `finish`."""

    def __init__(
        self,
        turn: Turn,
        siblings: Sequence[int] = (),
        *,
        keep_reasoning_open: bool = False,
        may_fold: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_fold` says whether folding the reasoning now would not take away what the reader looks at."""
        super().__init__(turn, siblings)
        self._keep_reasoning_open = keep_reasoning_open
        self._may_fold = may_fold
        self._live: Reasoning | ToolCallBlock | Answer | None = None
        """The part that grows."""
        self._kind = part_kind(None, None)
        self._tool = ""
        """Kind and tool of the running message; its widget is made with its first text."""
        self._pending: list[Event] = []
        self._gathered = asyncio.Event()
        self._showing = asyncio.Lock()
        self._calls: dict[str, ToolCallBlock] = {}
        self._read: PromptProgress | None = None
        self._dropped: Mapping[str, int] | None = None

    def compose(self) -> ComposeResult:
        parts = self._parts(self.turn)
        widgets = self._widgets(parts)
        if self.running and widgets and parts[-1].result is None:
            # What was shown before, in another view of this turn, goes on growing.
            self._kind, self._tool = parts[-1].kind, parts[-1].name
            self._live = widgets[-1] = self._make(parts[-1].kind, parts[-1].name, parts[-1].text)
        yield from widgets
        yield self._foot

    def on_mount(self) -> None:
        super().on_mount()
        if self.running:
            self.run_worker(self._show_as_it_comes(), exit_on_error=True)

    async def feed(self, event: Event) -> None:
        """Takes an event of the stream; it is shown soon."""
        self._pending.append(event)
        self._gathered.set()

    async def finish(self, turn: Turn) -> None:
        """The turn is over: shows all that came, exactly as it stands in the turn, and how it ended."""
        async with self._showing:
            if not self.is_attached:
                # Taken off the screen, or not on it yet: what it is made of then is the turn.
                self._turn = turn
                return
            await self._show_pending()
            await self._end_part()
            self._turn = turn
            parts = self._parts(turn)
            for block in self.query(ToolCallBlock):
                await block.settle()
            if parts and parts != self._shown_parts():
                with self.app.batch_update():
                    await self.remove_children(".turn-part")
                    await self.mount_all(self._widgets(parts), before=self._foot)
            for answer in self.query(Answer):
                await answer.label(turn.stats.get("citations", {}))
            thoughts = list(self.query(Reasoning))
            if len(thoughts) == 1:
                thoughts[0].finish(turn.reasoning_seconds, turn.stats.get("reasoning_tokens"))
        self._gathered.set()
        self.show_foot()

    async def toggle(self) -> None:
        foldables = list(self.query(Foldable))
        fold = not any(foldable.folded for foldable in foldables)
        for foldable in foldables:
            foldable.touched = True
            await foldable.fold(fold)

    def remarks(self) -> list[str]:
        remarks = super().remarks()
        turn = self.turn
        if turn.state == "stopped":
            remarks.append(STOPPED.get(turn.finish_reason or "", "stopped · g goes on"))
        elif turn.state == "failed":
            remarks.append(displayable(turn.error or "The answer failed."))
        elif self.running and self._live is None:
            read = self._read
            remarks.append(f"Reading prompt {100 * read.done // max(read.total, 1)} %" if read else "…")
        if dropped := self._dropped or turn.stats.get("dropped"):
            remarks.append(left_out(dropped))
        if turn.stats.get("warnings"):
            remarks.append("irregular format, all text kept")
        self.set_class(turn.state == "failed", "-failed")
        return remarks

    async def _show_as_it_comes(self) -> None:
        """Shows what gathers until the turn is over."""
        loop = asyncio.get_running_loop()
        while self.running:
            await self._gathered.wait()
            self._gathered.clear()
            began = loop.time()
            try:
                async with self._showing:
                    await self._show_pending()
            except MountError:
                if self.is_attached:
                    raise
                return  # Taken off the screen in between; another view shows the turn from its beginning.
            painted = asyncio.Event()
            self.call_after_refresh(painted.set)
            # Behind another screen nothing is painted.
            with suppress(TimeoutError):
                await asyncio.wait_for(painted.wait(), 0.2)
            took = loop.time() - began
            await asyncio.sleep(max(1 / UPDATES_PER_SECOND - took, 2 * took, TYPING_REST_SECONDS * is_typing()))

    async def _show_pending(self) -> None:
        events, self._pending = self._pending, []
        text: list[str] = []
        tokens = 0
        for event in [*events, None]:
            if isinstance(event, TextDelta):
                text.append(event.text)
                tokens += event.tokens
                continue
            if text:
                await self._grow("".join(text), tokens)
                text, tokens = [], 0
            if event is not None:
                await self._take(event)

    async def _take(self, event: Event) -> None:
        match event:
            case PromptProgress():
                self._read = event
                self.show_foot()
            case TurnsDropped(turns=turns, tokens=dropped):
                self._dropped = {"turns": turns, "tokens": dropped}
                self.show_foot()
            case ChannelStart(channel=channel, recipient=recipient):
                await self._end_part()
                tool = recipient if recipient is not None and is_tool(recipient) else None
                self._kind, self._tool = part_kind(channel, tool), tool or ""
            case ToolCall(id=id, name=name, raw=raw):
                block = self._live
                if not isinstance(block, ToolCallBlock) or block in self._calls.values():
                    self._kind, self._tool = "tool", name
                    block = await self._begin_part()
                    assert isinstance(block, ToolCallBlock)
                await block.change(arguments=raw)
                self._calls[id] = block
            case ToolResult(content=content, seconds=seconds):
                if (block := self._called(event)) is not None:
                    await block.change(result=content, seconds=seconds)
            case _:
                pass  # The text of a malformed message comes by TextDelta, too; Done is told by `finish`.

    def _called(self, event: ToolResult) -> ToolCallBlock | None:
        """The call that the result is of; one from before this view was made is known by its tool only."""
        if event.id in self._calls:
            return self._calls[event.id]
        waiting = (block for block in self.query(ToolCallBlock) if block.result is None)
        return next((block for block in waiting if block.tool_name == event.name), None)

    async def _grow(self, text: str, tokens: int) -> None:
        """Shows more text of the running message."""
        live = self._live or await self._begin_part()
        if isinstance(live, Reasoning):
            await live.append(text, tokens)
        else:
            await live.append(text)

    async def _begin_part(self) -> Reasoning | ToolCallBlock | Answer:
        self._live = self._make(self._kind, self._tool)
        await self.mount(self._live, before=self._foot)
        self.show_foot()
        return self._live

    async def _end_part(self) -> None:
        live, self._live = self._live, None
        if isinstance(live, Reasoning):
            live.finish()
            if not self._keep_reasoning_open and not live.touched and self._may_fold():
                await live.fold()
        elif isinstance(live, Answer):
            await live.finish()

    def _make(self, kind: str, tool: str, text: str = "") -> Reasoning | ToolCallBlock | Answer:
        """A part that grows."""
        part: Reasoning | ToolCallBlock | Answer
        if kind == "reasoning":
            part = Reasoning(text, live=True, folded=False)
        else:
            part = ToolCallBlock(tool, text, live=True) if kind == "tool" else Answer(text, live=True)
        return part.add_class("turn-part")

    def _widgets(self, parts: Sequence[Part]) -> list[Reasoning | ToolCallBlock | Answer]:
        """The parts of a turn, as they stand."""
        thoughts = sum(part.kind == "reasoning" for part in parts)
        seconds = self.turn.reasoning_seconds if thoughts == 1 else None
        tokens = self.turn.stats.get("reasoning_tokens") if thoughts == 1 else None
        widgets: list[Reasoning | ToolCallBlock | Answer] = []
        for part in parts:
            if part.kind == "reasoning":
                folded = not self._keep_reasoning_open
                widgets.append(Reasoning(part.text, seconds=seconds, tokens=tokens, folded=folded))
            elif part.kind == "tool":
                widgets.append(
                    ToolCallBlock(part.name, part.text, part.result, seconds=part.seconds, live=self.running)
                )
            else:
                widgets.append(Answer(part.text, labels=self.turn.stats.get("citations", {})))
        return [widget.add_class("turn-part") for widget in widgets]

    @staticmethod
    def _parts(turn: Turn) -> list[Part]:
        return turn_parts(turn.messages, turn.stats.get("tool_seconds", ()))

    def _shown_parts(self) -> list[Part]:
        """The parts as they are on the screen, in the same terms as `turn_parts`."""
        shown: list[Part] = []
        for widget in self.query_children(".turn-part"):
            match widget:
                case Reasoning():
                    shown.append(Part("reasoning", widget.source))
                case ToolCallBlock():
                    shown.append(Part("tool", widget.arguments, widget.tool_name, widget.result, widget.seconds))
                case Answer():
                    shown.append(Part("text", widget.source))
        return shown
