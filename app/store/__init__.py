"""Conversations on disk: one SQLite file, full-text search, safe with several apps at once. See `app/STORAGE.md`.

    store        Store: what the app calls
    conversations, tree, listing    one conversation, its turns, the list of all: the queries
    database     connections to the file; what happens when it cannot be written, or is damaged
    schema       tables, and how an older file becomes a newer one
    rows         turns and conversations as rows, and back
    search       words to a query, the text that is searched, snippets
    writers      which process writes a running turn, and whether it still lives
    salvage      what can still be read of a damaged file

Knows no Textual and no MLX.
"""

from gptoss_mlx.app.store.rows import ConversationSummary
from gptoss_mlx.app.store.store import Store

__all__ = ["ConversationSummary", "Store"]
