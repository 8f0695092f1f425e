"""Actions that open a screen and do what comes of it: conversations, models, settings, tools, help; theme, export."""

import asyncio
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import work

from gptoss_mlx.app.actions import ChatActions
from gptoss_mlx.app.answer_queue import AnswerQueue
from gptoss_mlx.app.commands import find_word
from gptoss_mlx.app.conversation import TOOL_SETTINGS
from gptoss_mlx.app.kept_reading import KeptReading
from gptoss_mlx.app.model_download import ModelDownload
from gptoss_mlx.app.preferences import EFFORTS, Preferences, save_preference
from gptoss_mlx.app.session import ModelSession
from gptoss_mlx.app.store import Store
from gptoss_mlx.app.themes import chosen_theme
from gptoss_mlx.app.tool_servers import ToolServers
from gptoss_mlx.app.toolbox import PYTHON, Toolbox
from gptoss_mlx.errors import GptOssError, UsageError

if TYPE_CHECKING:
    from gptoss_mlx.app.screens.tools import ToolsScreen
    from gptoss_mlx.app.settings_form import SettingsChange
    from gptoss_mlx.tools import Policy


class ScreenActions(ChatActions):
    """What F1 to F7 do. The screens are imported when they are opened: the first paint needs none of them."""

    store: Store
    preferences: Preferences
    session: ModelSession
    answers: AnswerQueue
    kept: KeptReading
    download: ModelDownload
    toolbox: Toolbox
    servers: ToolServers
    tools_screen: "ToolsScreen | None" = None
    """F6, while it is open."""

    def obey(self, text: str) -> bool:
        """Does what a `/word` asks for. False: the text is a message. Raises UsageError for a word that is none."""
        found = find_word(text)
        if found is None:
            return False
        command, rest = found
        if command.name == "cycle_effort" and rest:
            if rest not in EFFORTS:
                raise UsageError(f"{rest!r} is no effort; expected one of {', '.join(EFFORTS)}")
            self.chat.change_effort(rest)
        elif command.name == "export" and rest:
            self.action_export(rest)
        elif rest:
            raise UsageError(f"/{command.word} takes nothing after it")
        else:
            self.run_worker(self.run_action(command.name))
        return True

    def action_help(self) -> None:
        """F1: every key and command."""
        from gptoss_mlx.app.screens.help import HelpScreen

        self.push_screen(HelpScreen())

    def action_statistics(self) -> None:
        """F2: shows the panel, or takes it away; remembered."""
        shown = not self.chat.statistics.display
        self.chat.show_statistics(shown)
        self.remember(show_statistics=shown)

    def action_conversations(self) -> None:
        """F3: the list of conversations."""
        from gptoss_mlx.app.screens.conversations import ConversationsScreen

        self.push_screen(
            ConversationsScreen(self.store, self.chat.chat.id, export=self.export_conversation),
            self._conversation_chosen,
        )

    def _conversation_chosen(self, conversation: int | None) -> None:
        running = self.answers.running
        if running is not None and not self._exists(running.conversation):
            # It was deleted: nobody could answer what a tool of it asks.
            running.stop()
        self.answers.tool_sessions.forget(lambda known: not self._exists(known))
        current = self.chat.chat.id
        if conversation is not None:
            self.open_conversation(conversation)
        elif current is not None and not self._exists(current):
            # It was deleted in the list.
            self.action_new_chat()

    def _exists(self, conversation: int) -> bool:
        try:
            self.store.get(conversation)
        except UsageError:
            return False
        return True

    def open_conversation(self, conversation: int) -> None:
        """Shows that conversation, where the reader left it; an answer under way goes on."""
        self.act(self.chat.go_to(conversation))

    def action_export(self, name: str | None = None) -> None:
        """Writes the conversation on the screen to a file."""
        current = self.chat.chat.id
        if current is None:
            self.chat.tell("nothing was said yet in this chat; there is nothing to export")
        else:
            self.export_conversation(current, name)

    @work
    async def export_conversation(self, identifier: int, name: str | None = None) -> None:
        """Asks where to (beginning with `name`), and writes the conversation as it stands where the reader is in it."""
        from gptoss_mlx.app.export import export_chat, suggested_name
        from gptoss_mlx.app.screens.question import Question
        from gptoss_mlx.app.screens.text_entry import TextEntry

        conversation = self.store.get(identifier)
        turns = self.store.path(identifier, conversation.leaf)
        model = self.session.model
        vocab_size = model.tokenizer.vocab_size if model is not None and model.name == conversation.model else None
        name = name or suggested_name(conversation, "markdown")
        note = f"Written to {Path.cwd()}. The ending says how: .md, .html or .json"
        while (name := await self.push_screen_wait(TextEntry("Export to", name or "", note=note))) is not None:
            overwrite = False
            if Path(name).expanduser().exists():
                question = Question(f"{name} is there already. Write over it?", yes="Write over it", no="Another name")
                if not (overwrite := await self.push_screen_wait(question)):
                    continue
            try:
                path = export_chat(conversation, turns, Path(name), vocab_size=vocab_size, overwrite=overwrite)
            except GptOssError as error:
                note = str(error)
                continue
            self.notify(f"Written to {path}", markup=False)
            return

    def action_question(self) -> None:
        """F7: to the tool call that waits for the person's word."""
        running = self.answers.running
        if running is None or self.answers.question is None:
            self.notify("no tool waits for your word", markup=False)
        elif self.screen is not self.chat:
            self.notify("Esc leaves this screen; then answer", markup=False)
        elif running.conversation != self.chat.chat.id:
            self.open_conversation(running.conversation)
        else:
            self.chat.question_prompt.focus()

    def action_tools(self) -> None:
        """F6: the tools."""
        from gptoss_mlx.app.screens.tools import ToolsScreen

        off = {*(self.chat.chat.settings.tools_off or ())}
        if self.toolbox.has_python:
            off = off - {PYTHON} if self.chat.settings.python else off | {PYTHON}
        self.servers.begin()
        self.tools_screen = ToolsScreen(
            self.toolbox, off, switch=self._switch_tool, choose=self._choose_policy, servers=self.servers
        )
        self.push_screen(self.tools_screen, self._tools_seen)

    def _tools_seen(self, _: None) -> None:
        self.tools_screen = None

    def _switch_tool(self, name: str, on: bool) -> None:
        if name == PYTHON and self.toolbox.has_python:
            self.run_worker(self._switch_python(on))
            return
        settings = self.chat.chat.settings
        off = [known for known in settings.tools_off or () if known != name]
        self.chat.change_settings(replace(settings, tools_off=tuple(off if on else [*off, name]) or None))

    async def _switch_python(self, on: bool) -> None:
        """Holds for this conversation, and for those that do not say."""
        if on:
            try:
                await asyncio.to_thread(self.toolbox.check_python)
            except GptOssError as error:
                self.notify(str(error), severity="error", timeout=20, markup=False)
                if self.tools_screen is not None:
                    self.tools_screen.show_off(PYTHON)
                return
        self.chat.change_settings(replace(self.chat.chat.settings, python=on))
        self.remember(python=on)

    def _choose_policy(self, name: str, policy: "Policy") -> None:
        self.toolbox.choose(name, policy)
        self.remember(tools={**self.preferences.tools, name: policy})

    def action_models(self) -> None:
        """F4: the models."""
        from gptoss_mlx.app.screens.models import ModelsScreen

        model = self.session.model
        loaded = self.session.name if model is None else model.name
        self.push_screen(ModelsScreen(loaded, self.download), self._model_chosen)

    async def offer_model(self) -> None:
        """Says, where nothing but the pocket model is here, which of OpenAI's fits, and how to get it."""
        from gptoss_mlx.app.model_entries import list_entries

        entries = await asyncio.to_thread(list_entries)
        offered = next((entry for entry in entries if entry.kind == "published" and entry.fits), None)
        if offered is not None and sum(entry.kind == "here" for entry in entries) == 1:
            facts = ", ".join(offered.facts)
            sentence = f"The pocket model is on, a toy. F4 gets {offered.title}: {facts}"
            self.notify(sentence, title="Welcome", timeout=20, markup=False)

    def _model_chosen(self, name: str | None) -> None:
        if name is not None:
            if self.answers.running is not None:
                # What it said is saved, and what the model has read, before the model goes.
                self.answers.running.stop()
            self.session.open(name, self.preferences.context)
            self.remember(model=name)

    def action_settings(self) -> None:
        """F5: settings."""
        from gptoss_mlx.app.screens.settings import SettingsScreen

        self.push_screen(SettingsScreen(self.chat.chat.settings, self.preferences), self._settings_chosen)

    def set_idle_unload(self) -> None:
        """The preferences say after how long the model leaves memory; from the next load on."""
        minutes = self.preferences.unload_after_minutes
        self.session.idle_unload_seconds = None if minutes is None else 60 * minutes

    def set_hosts(self) -> None:
        """The preferences say which machines share the model; from the next load on."""
        self.session.hosts = self.preferences.hosts
        self.session.host_mode = self.preferences.host_mode
        self.session.host_timeout_seconds = self.preferences.host_timeout_seconds

    def _settings_chosen(self, change: "SettingsChange | None") -> None:
        if change is None:
            return
        self.remember(**change.preferences)
        kept: dict[str, Any] = {name: getattr(self.chat.chat.settings, name) for name in TOOL_SETTINGS}
        self.chat.change_settings(replace(change.chat, **kept))
        self.set_idle_unload()
        self.set_hosts()
        if "keep_read" in change.preferences or "keep_read_gb" in change.preferences:
            self.kept.sweep()
        self.chat.show_statistics(self.preferences.show_statistics)
        self.chat.transcript.keep_reasoning_open = self.preferences.keep_reasoning_open

    def choose_theme(self, name: str) -> None:
        """Shows the theme and remembers it."""
        if not self.no_color:
            self.theme = chosen_theme(name)
        self.remember(theme=name)

    def remember(self, **values: Any) -> None:
        """Sets preferences, here and in the file; says what cannot be saved."""
        defaults: dict[str, Any] = {field.name: field.default for field in fields(Preferences)}
        held = {name: defaults[name] if values[name] is None else values[name] for name in values if name in defaults}
        self.preferences = replace(self.preferences, **held)
        for name, value in values.items():
            try:
                save_preference(name, value)
            except GptOssError as error:
                self.notify(str(error), severity="warning", title="Settings", markup=False)
