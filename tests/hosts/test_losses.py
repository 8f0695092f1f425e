"""Ranks that are killed or stopped at any moment, and a link that stalls: an error in time, and then an answer."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptoss_mlx import GptOss, HostLost, HostsError, load
from gptoss_mlx.events import TextDelta
from tests.hosts.processes import marked_processes

LOSSES = 100
QUESTION = "What is 17 plus 25?"
PATIENCE_SECONDS = 3.0

Homes = Callable[[str], Path]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not os.path.isdir("/proc/1"), reason="looks for processes in /proc")
def test_ranks_may_be_lost_at_any_moment(mark: str, pocket: GptOss) -> None:
    chance = random.Random(7)
    expected = pocket.ask(QUESTION, temperature=0.0, max_tokens=30).tokens
    ended: list[float] = []
    with load("pocket", hosts=["127.0.0.1"] * 2, host_timeout_seconds=PATIENCE_SECONDS, date="2026-01-31") as model:
        for _ in range(LOSSES):
            harmed: list[float] = []

            def harm(harmed: list[float] = harmed) -> None:
                # Whatever is under way: nothing, starting, joining, loading, reading, answering.
                time.sleep(chance.choice((0.0, 0.3, 1.0, 2.0, 3.0)) * chance.random())
                ranks = [pid for pid, command in marked_processes(mark).items() if "hosts.rank" in command]
                for pid in chance.sample(ranks, min(len(ranks), chance.choice((1, 1, 2)))):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)))
                harmed.append(time.monotonic())

            harming = threading.Thread(target=harm)
            harming.start()
            try:
                model.ask("Count from 1 to 90.", max_tokens=60, temperature=0.0)
            except HostsError:
                if harmed:
                    ended.append(time.monotonic() - harmed[0])
            harming.join()
            # The last harm may still be on its way to what is asked next.
            with contextlib.suppress(HostLost):
                model.ask(QUESTION, max_tokens=1)
            assert model.ask(QUESTION, temperature=0.0, max_tokens=30).tokens == expected
            assert len(marked_processes(mark)) == 2
    assert len(ended) > LOSSES // 10
    # A rank that is stopped while it comes up is waited for as long as one that is slow to start.
    assert sorted(ended)[len(ended) * 9 // 10] < PATIENCE_SECONDS + 7


@pytest.fixture
def far_address(homes: Homes) -> Iterator[str]:
    """The address of the host `far`, in a network of its own, which the link `gptoss-test0` leads to."""
    space = f"gptoss-test-{os.getpid()}"
    steps = (
        f"ip netns add {space}",
        f"ip link add gptoss-test0 type veth peer name eth0 netns {space}",
        "ip addr add 10.231.77.1/24 dev gptoss-test0",
        "ip link set gptoss-test0 up",
        f"ip -n {space} addr add 10.231.77.2/24 dev eth0",
        f"ip -n {space} link set eth0 up",
        f"ip -n {space} link set lo up",
    )
    if shutil.which("ip") is None or shutil.which("tc") is None or os.geteuid() != 0:
        pytest.skip("making a network takes root, ip and tc")
    try:
        for step in steps:
            if subprocess.run(step.split(), capture_output=True, check=False).returncode:
                pytest.skip(f"this system allows no {step}")
        (homes("far") / "prefix").write_text(f"ip netns exec {space}")
        yield "10.231.77.2"
    finally:
        subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", "gptoss-test0"], capture_output=True, check=False)


def plug(state: str) -> None:
    """Pulls the cable at the far end, or puts it in again."""
    space = f"gptoss-test-{os.getpid()}"
    subprocess.run(f"ip -n {space} link set eth0 {state}".split(), check=True, capture_output=True)


@pytest.mark.slow
def test_a_link_that_stalls_ends_the_turn(homes: Homes, far_address: str, pocket: GptOss) -> None:
    hosts = ["127.0.0.1", f"far={far_address}"]
    with load("pocket", hosts=hosts, host_timeout_seconds=PATIENCE_SECONDS, date="2026-01-31") as model:
        events = model.stream("Count from 1 to 90.", max_tokens=4000).events()
        next(event for event in events if isinstance(event, TextDelta))
        plug("down")
        stalled = time.monotonic()
        with pytest.raises(HostLost, match="the link between them stalls"):
            deque(events)
        assert time.monotonic() - stalled < PATIENCE_SECONDS + 5
        began = time.monotonic()
        with pytest.raises(HostsError, match=r"cannot reach far \(rank 1\) at 10\.231\.77\.2"):
            model.ask(QUESTION)
        assert time.monotonic() - began < 15
        plug("up")
        answer = model.ask(QUESTION, temperature=0.0, max_tokens=20)
        assert answer.tokens == pocket.ask(QUESTION, temperature=0.0, max_tokens=20).tokens


@pytest.mark.slow
def test_a_slow_link_is_no_fault(homes: Homes, far_address: str) -> None:
    delay = ["tc", "qdisc", "add", "dev", "gptoss-test0", "root", "netem", "delay", "30ms"]
    if subprocess.run(delay, capture_output=True, check=False).returncode:
        pytest.skip("this system cannot delay packets")
    hosts = ["127.0.0.1", f"far={far_address}"]
    with load("pocket", hosts=hosts, host_timeout_seconds=PATIENCE_SECONDS) as model:
        assert model.ask(QUESTION, max_tokens=10).stats.generated_tokens > 0
