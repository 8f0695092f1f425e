"""The browser that gpt-oss was trained to use, over files of the user and, where they ask for it, the web.

    Browser        the three tools; what was shown is read from the conversation (history)
    page display find results     pages, a part of one as the model reads it, places in it, what a search found
    backend        the protocol of what pages come from
    folders        files: file_access keeps to the given folders, folder_index searches them, passage finds the place
    web            pages by address: web_request keeps to limits, transport and addresses to the public internet
    providers      search by Exa or Brave, with the user's key
    document html_text            bytes to text
    setup          a browser as the command line and the app ask for it

Nothing here reaches the network but `web` and `providers`, which nobody makes unasked.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptoss_mlx.tools.browser.backend import Backend, BrowseError, Hit
    from gptoss_mlx.tools.browser.browser import Browser
    from gptoss_mlx.tools.browser.folders import FolderBackend
    from gptoss_mlx.tools.browser.page import Page
    from gptoss_mlx.tools.browser.providers import BraveSearch, ExaSearch
    from gptoss_mlx.tools.browser.setup import make_browser
    from gptoss_mlx.tools.browser.web import UrlBackend

_HOMES = {
    "backend": ("Backend", "BrowseError", "Hit"),
    "browser": ("Browser",),
    "folders": ("FolderBackend",),
    "page": ("Page",),
    "providers": ("BraveSearch", "ExaSearch"),
    "setup": ("make_browser",),
    "web": ("UrlBackend",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Backend",
    "BraveSearch",
    "BrowseError",
    "Browser",
    "ExaSearch",
    "FolderBackend",
    "Hit",
    "Page",
    "UrlBackend",
    "make_browser",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
