"""The Python API: `load` a model, `ask` it, `chat` with it, or look at its numbers.

from gptoss_mlx import load

with load("pocket") as model:
    print(model.ask("What is 17 plus 25?"))
"""

import asyncio
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import numpy as np
import numpy.typing as npt

from gptoss_mlx.chat import Chat, today
from gptoss_mlx.checkpoint import find_tokenizer
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine import Engine, Ticket
from gptoss_mlx.errors import Cancelled, ContextOverflow, UsageError
from gptoss_mlx.events import Reply
from gptoss_mlx.generate import all_logits, check_tokens, token_logprobs
from gptoss_mlx.harmony import Message, render_for_completion, render_text
from gptoss_mlx.inputs import Prompt, read_conversation
from gptoss_mlx.kernel_check.choice import load_ready_model
from gptoss_mlx.model import Model
from gptoss_mlx.models import HeldModel, find_model
from gptoss_mlx.options import OptionArguments, Options
from gptoss_mlx.stream import Stream
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tool_loop import open_turn


def load(
    model: str | os.PathLike[str] = "pocket",
    *,
    context: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    checking: Callable[[int, int], None] | None = None,
    **defaults: Unpack[OptionArguments],
) -> "GptOss":
    """A model, ready to answer.

    `model` is `"pocket"`, the name of a converted model, or the path of a folder with a checkpoint: converted, or as
    Hugging Face, OpenAI's original/ or mlx-community have it; `context` the context length in tokens (default: all that
    the model was made for); `progress(done_bytes, total_bytes)` is called while weights are read, on another thread;
    `checking(done, total)` is called there while kernels are checked, which takes seconds the first time on a Mac;
    `defaults` are options for every turn. Raises ModelNotFound, ConfigError, WeightsError, TokenizerError, UsageError.
    """
    return GptOss(model, context=context, progress=progress, checking=checking, defaults=defaults)


class GptOss:
    """A loaded model. Use it as a context manager or `close()` it; all work runs on one thread of its own.

    Every method may be called from any thread; requests are answered one after the other. Those whose names begin with
    `a` are for asyncio.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "pocket",
        *,
        context: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        checking: Callable[[int, int], None] | None = None,
        defaults: OptionArguments | None = None,
        wait: bool = True,
    ) -> None:
        """As `load`. With `wait=False` the weights are read in the background; the first request waits for them."""
        Options.from_arguments(defaults or {})
        found = find_model(model)
        self.name: str = found.name
        """`pocket`, or the folder's name."""
        self.folder: Path = found.folder
        self.config: ModelConfig = ModelConfig.from_file(found.folder / "config.json")
        """The model's dimensions."""
        longest = self.config.max_position_embeddings
        if context is not None and not 2 <= context <= longest:
            raise UsageError(
                f"context is {context}; expected 2 to {longest}, the length that {found.name} was made for"
            )
        self.context_limit: int = longest if context is None else context
        """Tokens of a conversation at most, the answer included."""
        self.defaults: OptionArguments = defaults or {}
        """Options for every turn, under what a call gives itself."""
        self.tokenizer: Tokenizer = Tokenizer.from_file(find_tokenizer(found.folder), vocab_size=self.config.vocab_size)
        self._held = HeldModel(found.folder)
        self._stop_loading = threading.Event()
        reading, checking = self._stoppable("bytes", progress), self._stoppable("kernels", checking)
        self.engine: Engine = Engine(
            lambda: load_ready_model(found.folder, progress=reading, checking=checking), wait=False
        )
        """The thread that owns the weights."""
        if wait:
            try:
                self.engine.wait_until_loaded()
            except BaseException:
                self.close()
                raise

    # One turn

    def ask(self, prompt: Prompt, **options: Unpack[OptionArguments]) -> Reply:
        """The reply to one message (or to a whole conversation). `str(reply)` is the answer."""
        return self.stream(prompt, **options).reply

    def generate(self, messages: Prompt, **options: Unpack[OptionArguments]) -> Reply:
        """The reply to a conversation: harmony messages or OpenAI-style dicts. The same as `ask`."""
        return self.stream(messages, **options).reply

    def stream(self, messages: Prompt, **options: Unpack[OptionArguments]) -> Stream:
        """The reply as it comes: iterate for the answer's text, `.events()` for everything.

        Raises ContextOverflow before anything is queued when the conversation does not fit.
        """
        chosen = self._options(options)
        return open_turn(
            self.engine,
            self.tokenizer,
            read_conversation(messages, chosen),
            chosen,
            context_limit=self.context_limit,
        )

    async def aask(self, prompt: Prompt, **options: Unpack[OptionArguments]) -> Reply:
        """`ask` for asyncio."""
        return await self.astream(prompt, **options).areply()

    async def agenerate(self, messages: Prompt, **options: Unpack[OptionArguments]) -> Reply:
        """`generate` for asyncio."""
        return await self.astream(messages, **options).areply()

    def astream(self, messages: Prompt, **options: Unpack[OptionArguments]) -> Stream:
        """`stream` for asyncio: use `async for` on it, or on its `.aevents()`."""
        return self.stream(messages, **options)

    # Many turns

    def chat(
        self,
        *,
        system: str | None = None,
        developer: str | None = None,
        turns: Sequence[Message] = (),
        **defaults: Unpack[OptionArguments],
    ) -> Chat:
        """A conversation that remembers. `system` or `developer` are instructions for the model; `defaults` hold for
        every turn. `turns` is what was said before, to go on from there (`Chat.turns` of another chat).

        `date` (YYYY-MM-DD; default: today) stays what it is for the whole conversation.
        """
        merged: OptionArguments = {**self.defaults, **defaults}
        merged.setdefault("date", today())
        return Chat(self, system=system, developer=developer, defaults=merged, turns=turns)

    # A look inside

    def count_tokens(self, messages: Prompt, **options: Unpack[OptionArguments]) -> int:
        """Tokens of the conversation as the model would read it, up to the start of its answer."""
        return len(self.prompt_tokens(messages, **options))

    def prompt_tokens(self, messages: Prompt, **options: Unpack[OptionArguments]) -> list[int]:
        """Token ids of the conversation as the model would read it, up to the start of its answer."""
        return render_for_completion(read_conversation(messages, self._options(options)), self.tokenizer)

    def render(self, messages: Prompt, **options: Unpack[OptionArguments]) -> str:
        """The harmony text that the model would read, special tokens by name.

        For people: to the model, text is never special.
        """
        return render_text(read_conversation(messages, self._options(options)), next_role="assistant")

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after each of the token ids: float32 `[len(ids), vocab]`.

        Raises UsageError for ids outside the vocabulary.
        """
        self._check_length(ids)

        def work(model: Model, ticket: Ticket) -> npt.NDArray[np.float32]:
            return np.array(all_logits(model, ids, cancelled=ticket.cancelled))

        return self.engine.call(work)

    def logprobs(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Natural-log probability of each id after the first, given those before it: float32 `[len(ids) - 1]`."""
        self._check_length(ids)

        def work(model: Model, ticket: Ticket) -> npt.NDArray[np.float32]:
            return np.array(token_logprobs(model, ids, cancelled=ticket.cancelled))

        return self.engine.call(work)

    def perplexity(self, text: str | Sequence[int]) -> float:
        """exp of the mean negative log-probability of the tokens of `text` (or of ids), the first one not counted.

        Raises UsageError for fewer than two tokens.
        """
        ids = self.tokenizer.encode(text) if isinstance(text, str) else list(text)
        if len(ids) < 2:
            raise UsageError(f"the text has {len(ids)} tokens; expected at least 2: the first has nothing before it")
        return math.exp(-float(self.logprobs(ids).mean(dtype=np.float64)))

    # Its end

    def close(self) -> None:
        """Stops what runs, loading too, frees the weights and ends the thread. The object is of no use afterwards."""
        self._stop_loading.set()
        self.engine.close()
        self._held.release()

    async def aclose(self) -> None:
        """`close` for asyncio."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self.engine.closed else f"context {self.context_limit}"
        return f"<GptOss {self.name}: {self.config.num_hidden_layers} layers, {state}>"

    def _stoppable(self, unit: str, progress: Callable[[int, int], None] | None) -> Callable[[int, int], None]:
        """What loading reports to: `progress`, and the place where it is stopped when nobody waits any more."""
        stop = self._stop_loading

        def report(done: int, total: int) -> None:
            if stop.is_set():
                raise Cancelled(f"loading was stopped after {done} of {total} {unit}")
            if progress is not None:
                progress(done, total)

        return report

    def _options(self, arguments: OptionArguments) -> Options:
        merged: OptionArguments = {**self.defaults, **arguments}
        merged.setdefault("date", today())
        return Options.from_arguments(merged)

    def _check_length(self, ids: Sequence[int]) -> None:
        check_tokens(ids, self.config.vocab_size)
        if len(ids) > self.context_limit:
            raise ContextOverflow(len(ids), self.context_limit)
