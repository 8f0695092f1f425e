"""The Python API: `load` a model, `ask` it, `chat` with it, or look at its numbers.

from gptoss_mlx import load

with load("pocket") as model:
    print(model.ask("What is 17 plus 25?"))
"""

import asyncio
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import numpy as np
import numpy.typing as npt

from gptoss_mlx.batch_turns import AT_ONCE, run_batch
from gptoss_mlx.chat import Chat, today
from gptoss_mlx.checkpoint import find_tokenizer, open_checkpoint
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.device import this_device
from gptoss_mlx.engine import Engine, Job, Ticket
from gptoss_mlx.errors import Cancelled, ContextOverflow, UsageError
from gptoss_mlx.events import Reply
from gptoss_mlx.generate import all_logits, check_tokens, token_logprobs
from gptoss_mlx.harmony import Message, render_text
from gptoss_mlx.inputs import Prompt, read_conversation
from gptoss_mlx.kept_kv import LOG, load_kv, save_kv
from gptoss_mlx.kernel_check.choice import load_ready_model
from gptoss_mlx.kv_pool import KVPool, default_limit_bytes
from gptoss_mlx.kv_store import KVSaved
from gptoss_mlx.memory_limits import MemoryReport, measure_memory, set_limits
from gptoss_mlx.model import Model
from gptoss_mlx.model_identity import model_identity
from gptoss_mlx.models import HeldModel, find_model
from gptoss_mlx.options import OptionArguments, Options
from gptoss_mlx.stream import Stream
from gptoss_mlx.tokenizer import Tokenizer
from gptoss_mlx.tool_loop import open_turn
from gptoss_mlx.tools import ToolSessions
from gptoss_mlx.turn import Turn, prepare_turn
from gptoss_mlx.weights import needs_of

if TYPE_CHECKING:
    from gptoss_mlx.distributed.plan import Mode
    from gptoss_mlx.hosts.sharing import HostShare

T = TypeVar("T")


def load(
    model: str | os.PathLike[str] = "pocket",
    *,
    context: int | None = None,
    reuse: bool = True,
    kv_limit_bytes: int | None = None,
    force: bool = False,
    idle_unload_seconds: float | None = None,
    hosts: "str | os.PathLike[str] | Sequence[str] | None" = None,
    host_mode: "Mode | None" = None,
    host_timeout_seconds: float | None = None,
    starting: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    checking: Callable[[int, int], None] | None = None,
    **defaults: Unpack[OptionArguments],
) -> "GptOss":
    """A model, ready to answer.

    `model` is `"pocket"`, the name of a converted model, or the path of a folder with a checkpoint: converted, or as
    Hugging Face, OpenAI's original/ or mlx-community have it; `context` the context length in tokens (default: what
    fits this machine's memory, at most what the model was made for); `force` loads what seems not to fit. What was read
    is kept between turns and not read again, `kv_limit_bytes` of it at most (default: half of the memory that the
    weights and a reserve of 35 % or 8 GiB leave, at least 1 GiB); `reuse=False` keeps nothing. `idle_unload_seconds`
    without a request free the weights, which the next request has loaded again (default: never).

    `hosts` share the model among machines: names that ssh knows, `["mac1", "mac2"]` or "mac1,mac2", or a hostfile of
    MLX; `["127.0.0.1", "127.0.0.1"]` runs two ranks here, to try it, slower than one. `host_mode` is `tensor` or
    `pipeline` (default: what seems faster, by the link as it is measured; `hosting` says why). A host that says nothing
    for `host_timeout_seconds` (default: 10) is lost: the turn ends with `HostLost`, and the next request starts the
    hosts again. `starting(sentence)` hears what is done with them. `save_kv` and `load_kv` keep nothing then.

    `progress(done_bytes, total_bytes)` is called while weights are read, on another thread; `checking(done, total)` is
    called there while kernels are checked, which takes seconds the first time on a Mac; `defaults` are options for
    every turn. Raises ModelNotFound, ConfigError, WeightsError, TokenizerError, NotEnoughMemory, UsageError; with
    `hosts` also HostsError and ChecksumError.
    """
    return GptOss(
        model,
        context=context,
        reuse=reuse,
        kv_limit_bytes=kv_limit_bytes,
        force=force,
        idle_unload_seconds=idle_unload_seconds,
        hosts=hosts,
        host_mode=host_mode,
        host_timeout_seconds=host_timeout_seconds,
        starting=starting,
        progress=progress,
        checking=checking,
        defaults=defaults,
    )


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
        reuse: bool = True,
        kv_limit_bytes: int | None = None,
        force: bool = False,
        idle_unload_seconds: float | None = None,
        hosts: "str | os.PathLike[str] | Sequence[str] | None" = None,
        host_mode: "Mode | None" = None,
        host_timeout_seconds: float | None = None,
        starting: Callable[[str], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        checking: Callable[[int, int], None] | None = None,
        defaults: OptionArguments | None = None,
        wait: bool = True,
    ) -> None:
        """As `load`. With `wait=False` the weights are read in the background; the first request waits for them.

        Hosts are looked at before this returns in any case: what they have room for decides the context length.
        """
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
        if idle_unload_seconds is not None and not idle_unload_seconds > 0:
            raise UsageError(f"idle_unload_seconds is {idle_unload_seconds!r}; expected more than 0, or None for never")
        self.defaults: OptionArguments = defaults or {}
        """Options for every turn, under what a call gives itself."""
        self.tokenizer: Tokenizer = Tokenizer.from_file(find_tokenizer(found.folder), vocab_size=self.config.vocab_size)
        if kv_limit_bytes is not None and kv_limit_bytes < 0:
            raise UsageError(f"kv_limit_bytes is {kv_limit_bytes}; expected 0 or more")
        self._stop_loading = threading.Event()
        reading, checking = self._stoppable("bytes", progress), self._stoppable("kernels", checking)
        device = this_device()
        self._needs = needs_of(open_checkpoint(found.folder), device)
        self._hosted = hosted = None
        if hosts is not None:
            # What several machines need costs nothing where there is one.
            from gptoss_mlx.hosts.options import HostOptions
            from gptoss_mlx.hosts.session import open_hosts

            how = HostOptions(host_mode, host_timeout_seconds, starting, self._stop_loading.is_set)
            self._hosted = hosted = open_hosts(hosts, os.fspath(model), self.folder, self.config, how)
        try:
            self.context_limit: int = self._choose_context(context, force=force)
            """Tokens of a conversation at most, the answer included."""
        except BaseException:
            self._let_hosts_go()
            raise
        if kv_limit_bytes is None and self._hosted is not None:
            kv_limit_bytes = self._hosted.sharing.kv_limit_bytes
        elif kv_limit_bytes is None:
            kv_limit_bytes = default_limit_bytes(device, self._needs.weights_bytes)
        self.kv_pool: KVPool = KVPool(kv_limit_bytes if reuse else 0)
        """What was read and is kept between turns; only for the engine's thread."""
        self._held = HeldModel(found.folder)

        def load_it() -> Model:
            if hosted is not None:
                return hosted.load(reading)
            set_limits(device)
            return load_ready_model(found.folder, progress=reading, checking=checking)

        self.engine: Engine = Engine(load_it, wait=False, idle_unload_seconds=idle_unload_seconds)
        """The thread that owns the weights."""
        self.engine.when_short(self.kv_pool.clear)
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
            pool=self.kv_pool,
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

    def generate_batch(
        self, prompts: Sequence[Prompt], *, at_once: int = AT_ONCE, **options: Unpack[OptionArguments]
    ) -> list[Reply]:
        """The replies to many prompts, in their order; `at_once` of them are answered together, fewer where memory is
        short. Each is what `generate` gives for it.

        Beginnings that prompts share are read once. With a `seed`, prompt n is answered with seed + n. Raises
        ContextOverflow before any work when a prompt does not fit; Cancelled when it was stopped; UsageError.
        """
        return _in_order(dict(self.stream_batch(prompts, at_once=at_once, **options)), len(prompts))

    async def agenerate_batch(
        self, prompts: Sequence[Prompt], *, at_once: int = AT_ONCE, **options: Unpack[OptionArguments]
    ) -> list[Reply]:
        """`generate_batch` for asyncio."""
        job = self._start_batch(prompts, at_once, options)
        try:
            return _in_order({number: reply async for number, reply in job}, len(prompts))
        finally:
            job.cancel()

    def stream_batch(
        self, prompts: Sequence[Prompt], *, at_once: int = AT_ONCE, **options: Unpack[OptionArguments]
    ) -> Iterator[tuple[int, Reply]]:
        """`generate_batch` as it comes: the number of a prompt and its reply, in the order in which they end.

        Whoever stops reading stops the model.
        """
        return _read_all(self._start_batch(prompts, at_once, options))

    def _start_batch(self, prompts: Sequence[Prompt], at_once: int, options: OptionArguments) -> Job[tuple[int, Reply]]:
        if isinstance(prompts, str):
            raise UsageError(f"prompts is the text {prompts!r}; expected a list of prompts (`generate` takes one)")
        if at_once < 1:
            raise UsageError(f"at_once is {at_once}; expected 1 or more")
        chosen = self._options(options)
        if chosen.runs_tools:
            raise UsageError("a batch runs no tools; expected descriptions of tools, or one prompt after the other")
        turns = []
        for number, prompt in enumerate(prompts):
            sampling = chosen.sampling
            if sampling.seed is not None:
                sampling = replace(sampling, seed=(sampling.seed + number) % 2**64)
            turns.append(self._fitting(prompt, replace(chosen, sampling=sampling)))

        def work(model: Model, ticket: Ticket) -> Iterator[tuple[int, Reply]]:
            return run_batch(model, ticket, turns, at_once=at_once)

        return self.engine.stream(work)

    def chat(
        self,
        *,
        system: str | None = None,
        developer: str | None = None,
        turns: Sequence[Message] = (),
        sessions: ToolSessions | None = None,
        **defaults: Unpack[OptionArguments],
    ) -> Chat:
        """A conversation that remembers. `system` or `developer` are instructions for the model; `defaults` hold for
        every turn. `turns` is what was said before, to go on from there (`Chat.turns` of another chat);
        `sessions` what tools keep between calls (by itself, the chat's own).

        `date` (YYYY-MM-DD; default: today) stays what it is for the whole conversation.
        """
        merged: OptionArguments = {**self.defaults, **defaults}
        merged.setdefault("date", today())
        return Chat(self, system=system, developer=developer, defaults=merged, turns=turns, sessions=sessions)

    # What was read of a conversation, for another day

    def save_kv(self, chat: Chat, path: Path, *, bits: int | None = None) -> KVSaved:
        """Writes what was read of `chat` to `path`, so that it can be resumed without reading it again.

        On several hosts nothing is written: each of them holds a part only. `bits=8` halves the file: keys and values
        of the full layers lose precision then. `KVStore` keeps such files in a folder. Raises UsageError for other
        bits, NotEnoughDisk or GptOssError when the file cannot be written.
        """
        if self._hosted is not None:
            return KVSaved(path, 0, 0, 0.0, 0.0)
        return save_kv(self.engine, self.kv_pool, list(chat.prompt_tokens), path, self._identity, bits)

    def load_kv(self, path: Path) -> int:
        """Takes over what `save_kv` wrote: how many tokens of its conversation need not be read again.

        0 for a file that is damaged, of another model or precision, or too large for `kv_limit_bytes`, and on several
        hosts: the conversation is read anew then, and the logger `gptoss_mlx.kv` says why.
        """
        if self._hosted is not None:
            LOG.info("%s is not used: the model is on several hosts, each of which holds a part of what was read", path)
            return 0
        return load_kv(self.engine, self.kv_pool, path, self._identity, self.config)

    # A look inside

    def count_tokens(self, messages: Prompt, **options: Unpack[OptionArguments]) -> int:
        """Tokens of the conversation as the model would read it, up to the start of its answer."""
        return len(self.prompt_tokens(messages, **options))

    def prompt_tokens(self, messages: Prompt, **options: Unpack[OptionArguments]) -> list[int]:
        """Token ids of the conversation as the model would read it, up to the start of its answer."""
        return list(self._prepare(messages, self._options(options)).prompt)

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

    @property
    def hosts(self) -> "tuple[HostShare, ...]":
        """Which host has what of the model; empty where it is on this machine alone."""
        return () if self._hosted is None else self._hosted.sharing.shares

    @property
    def hosting(self) -> str:
        """How several hosts share the model, and why so; empty where there is one."""
        return "" if self._hosted is None else self._hosted.sharing.reason

    def memory(self) -> MemoryReport:
        """What the model takes with its whole context, reckoned, and what MLX holds now; on several hosts, of all of
        them together. Waits for nothing."""
        if self._hosted is not None:
            held = [sum(column) for column in zip(*self._hosted.memory, strict=True)] or [0, 0, 0]
            return MemoryReport(self.engine.loaded, self._hosted.sharing.estimate(self.context_limit), *held)
        estimate = self._needs.estimate(this_device(), self.context_limit)
        return measure_memory(estimate, loaded=self.engine.loaded)

    # Its end

    def close(self) -> None:
        """Stops what runs, loading too, frees the weights and ends the thread. The object is of no use afterwards."""
        self._stop_loading.set()
        if not self.engine.loaded:
            # Starting and loading wait for hosts; an answer is let come to its end.
            self._let_hosts_go()
        self.engine.close()
        self._let_hosts_go()
        self.kv_pool.close()
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

    def _choose_context(self, context: int | None, *, force: bool) -> int:
        """The context length: what was asked for, or what fits. Raises NotEnoughMemory."""
        if self._hosted is not None:
            return self._hosted.sharing.choose_context(context, self.name, force=force)
        return self._needs.choose_context(this_device(), context, self.name, force=force)

    def _let_hosts_go(self) -> None:
        if self._hosted is not None:
            self._hosted.close()

    @cached_property
    def _identity(self) -> str:
        """Which model this is, for files that belong to it."""
        return model_identity(self.folder)

    def _prepare(self, messages: Prompt, options: Options) -> Turn:
        """The turn that would answer `messages`."""
        conversation = read_conversation(messages, options)
        return prepare_turn(conversation, self.tokenizer, options, context_limit=self.context_limit)

    def _fitting(self, messages: Prompt, options: Options) -> Turn:
        """The same. Raises ContextOverflow when no token could follow."""
        turn = self._prepare(messages, options)
        if turn.prompt_tokens >= self.context_limit:
            raise ContextOverflow(turn.prompt_tokens, self.context_limit)
        return turn

    def _options(self, arguments: OptionArguments) -> Options:
        merged: OptionArguments = {**self.defaults, **arguments}
        merged.setdefault("date", today())
        return Options.from_arguments(merged)

    def _check_length(self, ids: Sequence[int]) -> None:
        check_tokens(ids, self.config.vocab_size)
        if len(ids) > self.context_limit:
            raise ContextOverflow(len(ids), self.context_limit)


def _read_all(job: Job[T]) -> Iterator[T]:
    """Every item of `job`, which is stopped when they are not read to the end."""
    try:
        yield from job
    finally:
        job.cancel()


def _in_order(replies: dict[int, Reply], count: int) -> list[Reply]:
    """The replies by their numbers. Raises Cancelled when some are missing."""
    if len(replies) < count:
        raise Cancelled(f"the batch was stopped after {len(replies)} of {count} replies")
    return [replies[number] for number in range(count)]
