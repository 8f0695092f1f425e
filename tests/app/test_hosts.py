"""The app with a model on several hosts: the status line says so, and a lost host costs one answer."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx import GptOss, load
from gptoss_mlx.app.preferences import Preferences
from gptoss_mlx.app.session import ModelSession
from tests.app.driving import Desk, drive

LOOPBACK = "127.0.0.1,127.0.0.1"


def test_a_model_is_opened_on_the_hosts_of_the_settings() -> None:
    given: list[dict[str, Any]] = []
    done = threading.Event()

    def load_nothing(name: str, **options: Any) -> GptOss:
        given.append(options)
        options.get("starting", print)("starting mac1, mac2")
        heard.append(session.starting)
        done.set()
        raise ValueError("that is all")

    heard: list[str] = []
    session = ModelSession(load_nothing)
    session.open("120b")
    assert done.wait(10)
    assert "hosts" not in given[0]
    done.clear()
    session.hosts, session.host_timeout_seconds = "mac1,mac2", 5.0
    session.open("120b")
    assert done.wait(10)
    assert (given[1]["hosts"], given[1]["host_timeout_seconds"]) == ("mac1,mac2", 5.0)
    assert heard[1] == "starting mac1, mac2"
    session.close()


@pytest.mark.slow
def test_a_lost_host_costs_one_answer(home: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.until_shown("on 2 hosts", 60)
        model = desk.app.session.model
        assert model is not None
        hosted = model._hosted
        assert hosted is not None
        os.kill(hosted.pids[1], signal.SIGSTOP)
        await desk.say("What is 1 plus 1?")
        await desk.until(lambda: desk.idle and len(desk.path) == 2, 30)
        assert desk.path[-1].state == "failed"
        assert "127.0.0.1 (rank 1) has said nothing for" in (desk.path[-1].error or "")
        turn = await desk.ask("What is 3 plus 4?")
        assert turn.state == "complete"
        await desk.until_shown("on 2 hosts", 20)

    preferences = Preferences(temperature=0.0, max_tokens=300, hosts=LOOPBACK, host_timeout_seconds=4.0)
    drive(home, load, work, model="pocket", preferences=preferences)
