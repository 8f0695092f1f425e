"""Which model the app begins with, and how long a model thinks when nobody says."""

from gptoss_mlx.app.preferences import Preferences

POCKET = "pocket"
"""The model inside the package: there is always one."""


def usual_effort(model: str | None) -> str:
    """The effort where nobody chose one. The pocket model is quick, and right far more often when it thinks longer."""
    return "high" if model == POCKET else "medium"


def first_model(asked: str | None, preferences: Preferences) -> str:
    """What was asked for, the one used last, gpt-oss-20b where it is here, or the pocket model."""
    if asked is not None:
        return asked
    if preferences.model is not None:
        return preferences.model
    from gptoss_mlx.settings import models_folder

    # A whole model has a manifest; its name in full, so that the list of models marks it.
    return "gpt-oss-20b" if (models_folder() / "gpt-oss-20b" / "gptoss.json").is_file() else POCKET
