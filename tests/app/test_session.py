"""The model of the app while it comes and goes."""

import threading
from typing import Any

from gptoss_mlx import GptOss
from gptoss_mlx.app.session import ModelSession


def test_whoever_leaves_knows_whether_something_still_loads() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def load_slowly(name: str, **options: Any) -> GptOss:
        begun.set()
        assert may_end.wait(20)
        raise ValueError("that is all")

    session = ModelSession(load_slowly)
    assert session.wait_until_ended(0)
    session.open("20b")
    assert begun.wait(10)
    session.close()
    assert not session.wait_until_ended(0.05)
    may_end.set()
    assert session.wait_until_ended(10)
