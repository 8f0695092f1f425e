"""Which model the app begins with."""

from gptoss_mlx.app.preferences import Preferences

POCKET = "pocket"
"""The model inside the package: there is always one."""


def first_model(asked: str | None, preferences: Preferences) -> str:
    """What was asked for, the one used last, gpt-oss-20b where it is here, or the pocket model."""
    if asked is not None:
        return asked
    if preferences.model is not None:
        return preferences.model
    from gptoss_mlx.settings import models_folder

    # A whole model has a manifest; its name in full, so that the list of models marks it.
    return "gpt-oss-20b" if (models_folder() / "gpt-oss-20b" / "gptoss.json").is_file() else POCKET
