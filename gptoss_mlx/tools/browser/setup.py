"""A browser as the command line and the app ask for it."""

import os
from collections.abc import Sequence

from gptoss_mlx.tools.browser.backend import Backend
from gptoss_mlx.tools.browser.browser import Browser
from gptoss_mlx.tools.tool import Policy


def make_browser(
    folders: Sequence[str | os.PathLike[str]] = (),
    *,
    web: bool = False,
    provider: str | None = None,
    policy: Policy | None = None,
) -> Browser:
    """A browser of these folders; with `web`, of pages of the web too; with `provider` (`exa`, `brave`), which means
    the web too, it is searched there. Raises UsageError."""
    backends: list[Backend] = []
    if web or provider is not None:
        from gptoss_mlx.tools.browser.web import UrlBackend

        backends.append(UrlBackend())
    if provider is not None:
        from gptoss_mlx.tools.browser.providers import make_provider

        backends.append(make_provider(provider))
    return Browser(*folders, *backends, policy=policy)
