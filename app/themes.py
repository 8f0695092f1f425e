"""The app's own two themes, beside all of Textual's, and which one a preference means.

Restrained: neutral greys, one blue for what can be acted on, amber for what needs a look. Both paint their own
background, so that they look the same in every terminal. Textual's `ansi-dark` and `ansi-light` take the terminal's own
colours instead.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

from textual.app import App
from textual.theme import BUILTIN_THEMES, Theme

from gptoss_mlx.app.preferences import DEFAULT_THEME

AUTOMATIC: Final = DEFAULT_THEME
"""The preference for our own theme, dark or light as the terminal says it is."""

DARK: Final = Theme(
    name="gptoss-dark",
    primary="#82b1d6",
    secondary="#97a1ad",
    accent="#d7a65f",
    success="#8dbb8a",
    warning="#dfb35f",
    error="#e27d7a",
    foreground="#d9dce0",
    background="#16181b",
    surface="#1d2024",
    panel="#272b30",
    dark=True,
    variables={
        "text-muted": "#949ba4",
        "foreground-muted": "#949ba4",
        "border": "#4d545d",
        "border-blurred": "#353a41",
        "block-cursor-background": "#2f4a60",
        "block-cursor-foreground": "#f0f3f6",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#2a3036",
        "block-cursor-blurred-foreground": "#d9dce0",
        "input-cursor-background": "#d9dce0",
        "input-selection-background": "#82b1d6 35%",
        "footer-key-foreground": "#82b1d6",
        "scrollbar": "#3a4048",
        "scrollbar-hover": "#4d545d",
        "scrollbar-active": "#82b1d6",
        "scrollbar-background": "#16181b",
        "scrollbar-background-hover": "#16181b",
        "scrollbar-background-active": "#16181b",
    },
)

LIGHT: Final = Theme(
    name="gptoss-light",
    primary="#1d6591",
    secondary="#59636e",
    accent="#8f5410",
    success="#2b7640",
    warning="#8a5d00",
    error="#b02f2c",
    foreground="#24272b",
    background="#fbfaf8",
    surface="#f3f2ee",
    panel="#e8e6e0",
    dark=False,
    variables={
        "text-muted": "#666b72",
        "foreground-muted": "#666b72",
        "border": "#a9a59b",
        "border-blurred": "#d3d0c8",
        "block-cursor-background": "#cfe0ec",
        "block-cursor-foreground": "#15181b",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#e8e6e0",
        "block-cursor-blurred-foreground": "#24272b",
        "input-cursor-background": "#24272b",
        "input-cursor-foreground": "#fbfaf8",
        "input-selection-background": "#1d6591 25%",
        "footer-key-foreground": "#1d6591",
        "scrollbar": "#cbc8c0",
        "scrollbar-hover": "#a9a59b",
        "scrollbar-active": "#1d6591",
        "scrollbar-background": "#fbfaf8",
        "scrollbar-background-hover": "#fbfaf8",
        "scrollbar-background-active": "#fbfaf8",
    },
)

OWN_THEMES: Final = (DARK, LIGHT)
"""What the app registers with Textual."""


def colourless() -> bool | None:
    """What an app is begun with as `ansi_color`: True where NO_COLOR asks for no colour, else None (the theme's).

    With it, Textual sends no colour at all instead of shades of grey. An empty NO_COLOR asks for nothing
    (https://no-color.org), and is taken away, since Textual would take it for a wish.
    """
    if os.environ.get("NO_COLOR"):
        return True
    os.environ.pop("NO_COLOR", None)
    return None


def wear(app: App[Any], preference: str) -> None:
    """Gives an app that has not begun yet our themes, and puts the preferred one on."""
    for theme in OWN_THEMES:
        app.register_theme(theme)
    # Without colours, cursors are to be reversed; in this theme they are.
    name = "ansi-light" if app.no_color else chosen_theme(preference)
    if app.get_theme(name) not in OWN_THEMES:
        app.theme = name
        return
    # As usual, all style would be read twice before the first paint.
    app.set_reactive(App.theme, name)
    app.stylesheet.set_variables(app.get_css_variables())
    dark = app.current_theme.dark
    app.remove_class(*app.classes, update=False)
    app.add_class(f"-theme-{name}", "-dark-mode" if dark else "-light-mode", update=False)


def theme_names() -> list[str]:
    """What the preference may be: `gptoss`, our own two themes, then Textual's in alphabetical order."""
    return [AUTOMATIC, *(theme.name for theme in OWN_THEMES), *sorted(BUILTIN_THEMES)]


def chosen_theme(preference: str, environment: Mapping[str, str] | None = None) -> str:
    """The name of the theme that a preference means; the automatic one, where there is no theme of that name."""
    if preference != AUTOMATIC and preference in theme_names():
        return preference
    return LIGHT.name if _light_terminal(os.environ if environment is None else environment) else DARK.name


def _light_terminal(environment: Mapping[str, str]) -> bool:
    """Whether the terminal says that its background is light.

    Konsole, iTerm2, rxvt and others set COLORFGBG to "foreground;background", in numbers of the 16 colours.
    """
    background = environment.get("COLORFGBG", "").rpartition(";")[2]
    return background.isdecimal() and int(background) in (7, *range(9, 16))
