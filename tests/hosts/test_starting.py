"""What is wrong with a host is said before anything is loaded, and nothing is left running."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_mlx import ChecksumError, HostsError, ModelNotFound, UsageError, load
from gptoss_mlx.distributed.plan import MODES, Mode
from gptoss_mlx.hosts.addresses import one_host
from gptoss_mlx.hosts.delivery import deliver_model
from gptoss_mlx.manifest import read_manifest
from gptoss_mlx.settings import models_folder
from tests.hosts.processes import marked_processes

Homes = Callable[[str], Path]


def start(model: str, *hosts: str) -> None:
    load(model, hosts=list(hosts), host_timeout_seconds=5.0).close()


@pytest.fixture
def model(homes: Homes, conversions: Callable[[int | None], str]) -> Path:
    """A converted pocket model among the models here."""
    folder = models_folder() / "little"
    shutil.copytree(conversions(None), folder)
    return folder


def put_there(model: Path, home: Path) -> Path:
    folder = home / "gptoss" / "models" / model.name
    shutil.copytree(model, folder)
    return folder


def test_one_host_is_not_several() -> None:
    with pytest.raises(UsageError, match="expected two or more"):
        start("pocket", "127.0.0.1")


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_time_limit_is_positive(seconds: float) -> None:
    with pytest.raises(UsageError, match="more than 0"):
        load("pocket", hosts=["127.0.0.1"] * 2, host_timeout_seconds=seconds)


def test_a_way_to_share_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="host_mode is 'both'; expected tensor or pipeline"):
        load("pocket", hosts=["127.0.0.1"] * 2, host_mode="both")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_way_to_share_can_be_said_and_the_link_is_told(mode: Mode) -> None:
    with load("pocket", hosts=["127.0.0.1"] * 2, host_mode=mode) as model:
        assert re.match(r"link measured: \d+\.\d\d GB/s, \d+\.\d\d ms one way; ", model.hosting)
        assert f"{mode} mode on 2 machines: at most" in model.hosting
        assert all(share.part.startswith("layers") == (mode == "pipeline") for share in model.hosts)
        assert model.ask("What is 2 plus 2?", temperature=0.0, max_tokens=8).tokens


def test_a_host_that_ssh_does_not_reach_is_a_sentence(homes: Homes) -> None:
    with pytest.raises(HostsError, match=r"gone \(rank 1\) could not be started: ssh: .*Connection refused"):
        start("pocket", "127.0.0.1", "gone")


def set_environment(home: Path, **variables: str) -> None:
    (home / "environment.json").write_text(json.dumps(variables))


def test_another_version_is_a_sentence(homes: Homes) -> None:
    old = homes("old")
    # Imported by Python itself when it starts.
    (old / "sitecustomize.py").write_text("import gptoss_mlx.version\ngptoss_mlx.version.__version__ = '0.0.9'\n")
    set_environment(old, PYTHONPATH=str(old))
    with pytest.raises(HostsError, match=r"old \(rank 1\) has gptoss-mlx 0\.0\.9 and here is .*pip install"):
        start("pocket", "127.0.0.1", "old")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "said"), [("echo", "its process ended with code 0"), ("yes --", "what it says is not what a rank says")]
)
def test_a_host_that_runs_something_else_is_a_sentence(homes: Homes, program: str, said: str) -> None:
    (homes("odd") / "prefix").write_text(program)
    with pytest.raises(HostsError, match=rf"odd \(rank 1\) could not be started: {said}"):
        start("pocket", "127.0.0.1", "odd")


@pytest.mark.slow
def test_another_mlx_is_a_sentence(homes: Homes) -> None:
    old = homes("old")
    (old / "sitecustomize.py").write_text(
        "import importlib.metadata as m\nreal = m.version\n"
        "m.version = lambda name: '0.32.0' if name == 'mlx' else real(name)\n"
    )
    set_environment(old, PYTHONPATH=str(old))
    with pytest.raises(HostsError, match=r"old \(rank 1\) has MLX 0\.32\.0 and here is .*pip install mlx=="):
        start("pocket", "127.0.0.1", "old")


@pytest.mark.slow
def test_a_host_without_the_package_is_a_sentence(homes: Homes) -> None:
    bare = homes("bare")
    (bare / "sitecustomize.py").write_text("import sys\nsys.modules['gptoss_mlx'] = None\n")
    set_environment(bare, PYTHONPATH=str(bare), PATH="/usr/bin:/bin", SHELL="/bin/sh")
    with pytest.raises(HostsError, match=r"bare \(rank 1\) could not be started: gptoss-mlx is not installed there"):
        start("pocket", "127.0.0.1", "bare")


def test_a_model_that_a_host_lacks_is_copied_there(homes: Homes, model: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"far \(rank 1\) does not have .* `gptoss hosts copy little far`"):
        start("little", "127.0.0.1", "far")
    heard: list[tuple[int, int]] = []
    manifest = read_manifest(model)
    assert manifest is not None
    delivery = deliver_model(model, one_host("far"), progress=lambda done, total: heard.append((done, total)))
    assert (delivery.sent_files, delivery.sent_bytes) == (len(manifest.files), manifest.total_bytes)
    assert heard[-1] == (manifest.total_bytes, manifest.total_bytes)
    assert sorted(os.listdir(delivery.folder)) == sorted(os.listdir(model))
    # What is there is not sent again; what is damaged is.
    damage(Path(delivery.folder) / manifest.weights[0])
    assert deliver_model(model, one_host("far")).sent_files == 1


def damage(file: Path) -> None:
    """One bit of it, in place."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.slow
def test_a_part_that_is_missing_is_a_sentence(homes: Homes, model: Path) -> None:
    folder = put_there(model, homes("far"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(HostsError, match=r"far \(rank 1\) does not have all of little: tokenizer\.json is missing"):
        start("little", "127.0.0.1", "far")


@pytest.mark.slow
def test_a_part_that_is_damaged_is_a_sentence(homes: Homes, model: Path) -> None:
    folder = put_there(model, homes("far"))
    with load("little", hosts=["127.0.0.1", "far"], context=512) as shared:
        assert shared.ask("Hi", max_tokens=2).stats.generated_tokens == 2
    damage(next(folder.glob("*.safetensors")))
    with pytest.raises(ChecksumError, match=r"far \(rank 1\): .*safetensors in .* is not as converted"):
        start("little", "127.0.0.1", "far")


@pytest.mark.slow
def test_another_model_of_the_name_is_a_sentence(
    homes: Homes, model: Path, conversions: Callable[[int | None], str]
) -> None:
    shutil.copytree(conversions(8), homes("far") / "gptoss" / "models" / model.name)
    with pytest.raises(HostsError, match=r"far \(rank 1\) has another little in .* `gptoss hosts copy"):
        start("little", "127.0.0.1", "far")
    with pytest.raises(HostsError, match=r"far: there is another model named little"):
        deliver_model(model, one_host("far"))


def test_only_converted_models_are_copied(homes: Homes) -> None:
    from gptoss_mlx.models import POCKET_FOLDER

    with pytest.raises(UsageError, match="convert it first"):
        deliver_model(POCKET_FOLDER, one_host("far"))


FRONT_END = """
import sys
from gptoss_mlx import load
model = load("pocket", hosts=sys.argv[1:], host_timeout_seconds=5.0)
stream = model.stream("Count from 1 to 90.", max_tokens=4000)
for text in stream.events():
    print("answering", flush=True)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/1"), reason="looks for processes in /proc")
def test_nothing_is_left_of_a_front_end_that_is_killed(homes: Homes, mark: str) -> None:
    front = subprocess.Popen([sys.executable, "-c", FRONT_END, "127.0.0.1", "far"], stdout=subprocess.PIPE, text=True)
    with front:
        assert front.stdout is not None
        assert front.stdout.readline() == "answering\n"
        assert sum("hosts.rank" in command for command in marked_processes(mark).values()) >= 2
        front.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        while marked_processes(mark) and time.monotonic() < killed + 10:
            time.sleep(0.05)
        assert marked_processes(mark) == {}
