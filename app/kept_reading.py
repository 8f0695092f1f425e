"""What models have read of conversations, kept in files, so that it is not read again after a restart.

    saved    when a conversation is left for another, when its answer ends behind another, before another model comes
             or the model idles out, and when the app ends; only where `LEAST_TOKENS` are there and not saved before
    loaded   when a conversation is opened or the model is there, and at the latest before its next answer

A thread of its own does both, one after the other. It is a saving of time and nothing else: what fails changes nothing
in the chat, and is told once. Belongs to no Textual; the folder and its limit are `gptoss_mlx.kv_store`'s.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from gptoss_mlx.app.answer_options import make_chat, settle
from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.session import ModelSession
from gptoss_mlx.app.store import Store
from gptoss_mlx.app.toolbox import Toolbox
from gptoss_mlx.errors import GptOssError, UsageError

if TYPE_CHECKING:
    from gptoss_mlx.api import GptOss
    from gptoss_mlx.kv_store import KVStore

LEAST_TOKENS: Final = 512
"""What a conversation must have had read for a file: 13 MB of gpt-oss-20b. Less is read anew before anybody notices."""

SETTLE_SECONDS: Final = 5.0
"""How long a model that goes is waited for until its answer has stopped."""

_PREFIX: Final = "chat-"


@dataclass(slots=True)
class _Load:
    """What is kept of a conversation, on its way into a model."""

    model: "GptOss"
    needed: bool
    """Whether an answer waits for it."""
    done: threading.Event = field(default_factory=threading.Event)


class KeptReading:
    """Saves and loads. Every method but `before_close` and `wait_until_loaded` comes back at once, and none raises."""

    def __init__(
        self,
        store: Store,
        session: ModelSession,
        preferences: Callable[[], Preferences],
        toolbox: Toolbox,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_change` is called, on any thread, when a file's size or the notice changed."""
        self._store = store
        self._session = session
        self._preferences = preferences
        self._toolbox = toolbox
        self._asked: tuple[int, GptOss] | None = None
        """The conversation whose answer is under way, and who gives it."""
        self._on_change = on_change
        self._answered = 0.0
        self._shown: int | None = None
        self._unsaved: dict[int, GptOss] = {}
        self._loads: dict[int, _Load] = {}
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()
        # Held while a file is written or read.
        self._working = threading.Lock()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._notice: str | None = None
        self._told = False

    # What happens in the app

    def show(self, conversation: int | None) -> None:
        """That conversation is on the screen now; the one before is saved."""
        before, self._shown = self._shown, conversation
        if before is not None and before not in (conversation, self._asked and self._asked[0]):
            self.save(before)
        self.model_ready()

    def model_ready(self) -> None:
        """The model is there: what is kept of the conversation on the screen is loaded for it."""
        model = self._session.model
        if self._shown is not None and model is not None and self._session.state == "ready":
            self._load(self._shown, model, needed=False)

    def answered(self, conversation: int, turn: Turn) -> None:
        """An answer ended there: more was read than is kept."""
        read = turn.stats.get("prompt_tokens", 0) + turn.stats.get("generated_tokens", 0)
        with self._lock:
            asked, self._asked = self._asked, None
            if asked is None or read < LEAST_TOKENS or not self._preferences().keep_read:
                return
            model = asked[1]
            self._answered = time.monotonic()
            self._unsaved[conversation] = model
            self._loads[conversation] = there = _Load(model, needed=False)
            there.done.set()
        if conversation != self._shown:
            self.save(conversation)

    def forget(self) -> None:
        """The model let go of all that it had read, or its engine failed: nothing is there to be saved, and what the
        next answer needs is loaded from the files."""
        with self._lock:
            self._unsaved.clear()
            self._loads.clear()

    def wait_until_loaded(self, conversation: int, model: "GptOss", stopped: Callable[[], bool]) -> None:
        """`model` is to answer there: blocks until what is kept of the conversation is loaded, or `stopped` says that
        nobody waits any more."""
        self._asked = conversation, model
        loaded = self._load(conversation, model, needed=True)
        while not loaded.wait(0.05):
            if stopped() or self._closed:
                return

    def look(self) -> None:
        """Saves what a model that is unloaded when it idles would lose; to be called now and then."""
        minutes = self._preferences().unload_after_minutes
        # Saving is work for the model: it idles anew from then on.
        if minutes is not None and self._unsaved and time.monotonic() - self._answered > 30 * minutes:
            self.save_all()

    def before_close(self, model: "GptOss") -> None:
        """The model goes: saves what it has read, when its answer is over. Blocks."""
        end = time.monotonic() + SETTLE_SECONDS
        while self._asked is not None and not self._closed and time.monotonic() < end:
            time.sleep(0.02)
        for conversation in self._waiting(model):
            self._save(conversation)
        with self._lock:
            self._loads = {key: load for key, load in self._loads.items() if load.model is not model}
            self._unsaved = {key: held for key, held in self._unsaved.items() if held is not model}

    @property
    def unsaved(self) -> bool:
        """Whether something is worth saving that is not saved."""
        return bool(self._unsaved) and not self._closed and self._preferences().keep_read

    def save(self, conversation: int) -> None:
        """Has the conversation saved, where that is worth it."""
        if conversation in self._unsaved:
            self._do(lambda: self._save(conversation))

    def save_all(self) -> threading.Event:
        """Has everything saved; the event is set when that is done."""
        done = threading.Event()
        for conversation in list(self._unsaved):
            self.save(conversation)
        self._do(done.set)
        return done

    def sweep(self) -> None:
        """Removes files of conversations that are gone for good, all where nothing is to be kept, and what is above
        the limit."""
        self._do(self._sweep)

    def file_bytes(self, conversation: int | None) -> int | None:
        """Size of what is kept of that conversation; None where nothing is, or nobody looked yet."""
        return None if conversation is None else self._sizes.get(conversation)

    def take_notice(self) -> str | None:
        """What went wrong, for the user; once in the life of the app."""
        notice, self._notice = self._notice, None
        return notice

    def close(self) -> None:
        """Begins nothing any more."""
        self._closed = True

    # How it works

    def _do(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="gptoss-keeping", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def _waiting(self, model: "GptOss") -> list[int]:
        with self._lock:
            return [conversation for conversation, held in self._unsaved.items() if held is model]

    def _load(self, conversation: int, model: "GptOss", *, needed: bool) -> threading.Event:
        """The event that is set when what is kept is loaded for `model`. `needed`: an answer waits for it."""
        with self._lock:
            known = self._loads.get(conversation)
            if known is not None and known.model is model:
                known.needed = known.needed or needed
                return known.done
            load = _Load(model, needed)
            if self._preferences().keep_read:
                self._loads[conversation] = load
                self._do(lambda: self._read(conversation, load))
            else:
                load.done.set()
        return load.done

    def _read(self, conversation: int, load: _Load) -> None:
        try:
            # Whoever goes through many conversations waits for none; an unloaded model is not loaded for a look.
            looked_at = conversation == self._shown and load.model.memory().loaded
            with self._lock:
                current = self._loads.get(conversation) is load
                wanted = current and load.model is self._session.model and (load.needed or looked_at)
                if current and not wanted:
                    del self._loads[conversation]
            if wanted and not self._closed:
                with self._working:
                    store = self._folder()
                    store.load(load.model, _key(conversation))
                    self._measure(store, conversation)
        except Exception as error:
            self._fail("loaded", error)
        finally:
            load.done.set()

    def _save(self, conversation: int) -> None:
        with self._lock:
            model = self._unsaved.pop(conversation, None)
        if model is None or self._closed or not self._preferences().keep_read:
            return
        try:
            # An unloaded model has nothing, and is not loaded for that.
            if model.memory().loaded:
                with self._working:
                    self._write(conversation, model)
        except UsageError:
            return  # The conversation was deleted meanwhile.
        except Exception as error:
            self._fail("kept", error)

    def _write(self, conversation: int, model: "GptOss") -> None:
        found = self._store.get(conversation)
        preferences = self._preferences()
        chat = make_chat(
            model,
            self._store.path(conversation, found.leaf),
            settle(found.settings, preferences, model.name),
            self._toolbox,
            date=found.date,
            overflow=preferences.overflow,
        )
        store = self._folder()
        store.save(model, chat, _key(conversation))
        self._measure(store, conversation)

    def _measure(self, store: "KVStore", conversation: int) -> None:
        file = store.path(_key(conversation))
        if file.is_file():
            self._sizes[conversation] = file.stat().st_size
        else:
            self._sizes.pop(conversation, None)
        self._on_change()

    def _sweep(self) -> None:
        try:
            store = self._folder()
            keep = self._preferences().keep_read
            # While the chats cannot be read from their file, nobody knows which are gone.
            known = self._store.known() if self._store.trouble is None else None
            for entry in store.entries():
                number = entry.key.removeprefix(_PREFIX)
                if number == entry.key or not number.isdecimal():
                    continue
                if not keep or (known is not None and int(number) not in known):
                    store.remove(entry.key)
                    self._sizes.pop(int(number), None)
            store.shrink()
        except (OSError, GptOssError) as error:
            self._fail("tidied up", error)

    def _folder(self) -> "KVStore":
        # Brings numpy and MLX with it: only here, on this thread.
        from gptoss_mlx.kv_store import KVStore

        return KVStore(limit_bytes=int(self._preferences().keep_read_gb * 1e9))

    def _fail(self, what: str, error: Exception) -> None:
        if not self._told and not self._closed:
            self._told = True
            self._notice = f"What the model has read could not be {what} ({error}); it is read again where needed"
            self._on_change()


def _key(conversation: int) -> str:
    return f"{_PREFIX}{conversation}"
