"""The app over a scripted engine, as a process: `python -m tests.app.scripted_app HOME TOKENS_PER_SECOND FILE...`

Each file is the script of an answer. What stays in `HOME` can be looked at afterwards.
"""

import sys
from pathlib import Path

from gptoss_mlx.app.app import GptossApp
from gptoss_mlx.app.place import Place
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.session import ModelSession
from gptoss_mlx.app.store import Store
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.tokenizer import Tokenizer
from tests.app.scripted_engine import ScriptedLoad


def main(home: Path, tokens_per_second: float, scripts: list[str]) -> None:
    tokenizer = Tokenizer.from_file(POCKET_FOLDER / "tokenizer.json")
    load = ScriptedLoad(tokenizer, *scripts, context_limit=100_000, tokens_per_second=tokens_per_second)
    store = Store(home / "chats.sqlite3")
    app = GptossApp(
        model="scripted",
        store=store,
        preferences=Preferences(),
        session=ModelSession(load),
        place=Place(home / "place.json"),
    )
    app.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), [Path(name).read_text() for name in sys.argv[3:]])
