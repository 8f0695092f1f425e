"""The terminal app. The only package that may import Textual; it reaches the model through the public Python API.

How it is put together:

    app.py            GptossApp: owns store, preferences and session; opens screens; keys that hold everywhere
    actions.py        what keys, palette and footer do in the chat, by name; screen_actions.py: what opens a screen
    commands.py       every command in one table: keys, words, help, hints; palette.py: the palette made from it
    app.tcss          all style; themes.py: our two themes, and which theme a preference means
    messages.py       what the parts tell one another
    conversation.py   what a conversation is: a tree of turns, pure data
    store/            conversations on disk: SQLite, one file, full-text search
    preferences.py    what the user set: a documented TOML file
    place.py          where the reader was: conversation, scroll, drafts
    session.py        the model that is loaded, loading, or failed; loads on a thread of its own
    first_model.py    which model the app begins with
    model_entries.py  which models are here, and what fits; model_download.py: one that is being got
    settings_form.py  the settings screen's fields, as text and back
    recording.py      saved chats into the store; chats of the line mode, too
    kept_reading.py   what the model has read of conversations, in files: saved when left, loaded before answers
    leaving.py        Ctrl+C and Ctrl+Q: all is stopped, saved and kept before the app ends
    open_chat.py      the conversation on the screen: its path, and the ways to change it
    conversing.py     what a person does to it: send, edit, take back, answer again, go on, change branches
    answer_queue.py   which answer is under way and which messages wait for theirs
    answering.py      one answer under way: events of the stream to its widget and to the store
    toolbox.py        the tools that hold while the app runs, and their policies
    tool_servers.py   servers of tools (MCP), begun beside the app; server_settings.py: as the settings have them
    tool_sessions.py  what tools keep of conversations between their calls (Python's interpreters)
    typed.py          when somebody typed last
    approval.py       whether a call may run: the policy's word, or a question that waits for the person
    screens/          one screen a file: chat, conversations, models, settings, tools, help
    widgets/          one widget a file: user message, reasoning, tool call, answer, composer, status line, ...

A conversation lives in the store and on the screen; the model is only needed while it answers. For each answer a
`gptoss_mlx.Chat` is made from the turns on the path from the root to where the reader is, so that editing and
regenerating are new branches beside the old, and switching models is nothing special.

Nothing heavy is imported before the first paint: MLX comes in with the thread that loads the model.
"""

import os
from typing import Final

PAINTS_PER_SECOND: Final = "120"
"""How often Textual looks whether something is to be painted, at most. With its own 60, a key waits 25 ms for that."""

os.environ.setdefault("TEXTUAL_FPS", PAINTS_PER_SECOND)
