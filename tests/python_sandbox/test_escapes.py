"""Ways out of the sandbox, tried for real. None leads anywhere, each ends in a result, and the next cell works."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptoss_mlx.python_sandbox.limits import PythonLimits
from gptoss_mlx.python_sandbox.session import LOST
from tests.python_sandbox.conftest import MIB, Notebook, linux, mac

SECRET = "the secret of the test"


@pytest.fixture(autouse=True)
def alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each attempt, the interpreter (or a new one) works."""
    yield
    if "shared" in request.fixturenames:
        assert request.getfixturevalue("shared")("20 + 1").endswith("21")


def outcome(cells: Notebook, code: str) -> str:
    """What an attempt ends in: its value, or the name of the error."""
    return cells(
        f"try:\n    result = {code}\nexcept BaseException as error:\n    result = type(error).__name__\nresult"
    )


# Files


def test_a_file_of_the_user_is_not_there(shared: Notebook, tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    for path in (secret, Path.home(), Path.home() / ".bashrc", Path("/etc/shadow"), Path("/etc/machine-id")):
        assert outcome(shared, f"open({str(path)!r}).read()") in (
            "'FileNotFoundError'",
            "'PermissionError'",
            "'IsADirectoryError'",
        )
    shared("import os, pathlib")
    assert SECRET not in shared(f"list(pathlib.Path('/tmp').rglob('*secret*')), os.path.exists({str(secret)!r})")
    assert outcome(shared, f"os.path.exists({str(secret)!r})") == "False"


@linux
def test_the_home_folder_does_not_exist_but_for_the_interpreter(shared: Notebook):
    home = os.path.expanduser("~")
    seen = shared(f"import os\nos.listdir({home!r}) if os.path.isdir({home!r}) else []")
    python = os.path.realpath(sys.executable)
    allowed = {Path(python).relative_to(home).parts[0]} if python.startswith(home + "/") else set()
    assert set(eval(seen)) <= allowed | {Path(p).relative_to(home).parts[0] for p in sys.path if p.startswith(home)}


def test_nothing_can_be_written_outside_of_the_scratch(shared: Notebook, tmp_path: Path):
    shared("import os, sys, sysconfig")
    for path in (
        "'/x'",
        "'/usr/x'",
        "'/etc/x'",
        "'/dev/x'",
        "sysconfig.get_path('stdlib') + '/x.py'",
        "sys.executable",
        "os.__file__",
        "[p for p in sys.path if p.endswith('-packages')][0] + '/x.py'",
        repr(str(tmp_path / "x")),
    ):
        assert outcome(shared, f"open({path}, 'a').write('x')").startswith(("'OSError'", "'Permission", "'FileNotF"))
    assert list(tmp_path.iterdir()) == []
    assert outcome(shared, "os.remove(os.__file__)").startswith(("'OSError'", "'Permission"))
    assert outcome(shared, "os.chmod('/usr', 0o777)").startswith(("'OSError'", "'Permission"))


def test_links_lead_nowhere(shared: Notebook, tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    shared(f"""
import os
for number, target in enumerate(({str(secret)!r}, '/', '/proc/self/root', '../../../../../..', {str(Path.home())!r})):
    os.symlink(target, f'link{{number}}')
""")
    assert outcome(shared, "open('link0').read()") in ("'FileNotFoundError'", "'PermissionError'")
    for number in (1, 2, 3):
        path = f"link{number}{secret}"
        assert outcome(shared, f"open({path!r}).read()") in ("'FileNotFoundError'", "'PermissionError'")
    assert outcome(shared, "open('link1/usr/x', 'w')").startswith(("'OSError'", "'Permission"))
    assert outcome(shared, f"os.link({str(secret)!r}, 'hard')") in ("'FileNotFoundError'", "'PermissionError'")


@mac
@pytest.mark.slow
def test_the_scratch_on_disk_is_bounded(begin: Callable[..., Notebook]):
    cells = begin(PythonLimits(scratch_bytes=16 * MIB, file_bytes=8 * MIB))
    assert "File too large" in cells("open('x', 'wb').write(bytes(9 << 20))")
    said = cells("import time\nfor n in range(3): open(f'{n}', 'wb').write(bytes(7 << 20))\ntime.sleep(5)")
    assert said == f"[The cell was stopped: its files are larger than 16 MiB together. {LOST}]"


@linux
def test_the_scratch_is_bounded(shared: Notebook):
    said = shared("""
import errno, os
found = []
def fill(name, count):
    try:
        with open(name, 'wb', buffering=0) as file:
            for _ in range(count): file.write(bytes(1 << 20))
    except OSError as error:
        found.append(errno.errorcode[error.errno])
fill('large', 9)
for number in range(6): fill(f'many{number}', 7)
for name in os.listdir(): os.remove(name)
found""")
    # One file is too large; then all of them together.
    assert said.startswith("['EFBIG', 'ENOSPC'")
    assert outcome(shared, "open('small', 'w').write('x')") == "1"


@linux
def test_the_scratch_is_where_the_model_expects_it(shared: Notebook):
    shared("import os\nopen('here', 'w').close()")
    assert shared("os.getcwd(), os.path.exists('/mnt/data/here')") == "('/mnt/data', True)"


@linux
def test_numberless_small_files_are_bounded(shared: Notebook):
    said = shared("""
import os
os.mkdir('deep')
try:
    for number in range(100_000): open(f'deep/{number}', 'w').close()
except OSError as error:
    print(error.strerror)
import shutil; shutil.rmtree('deep')""")
    assert said == "No space left on device"


# Network


def test_there_is_no_network_not_even_to_this_machine(shared: Notebook):
    with socket.socket() as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        server.bind(("127.0.0.1", 0))
        server.listen()
        datagrams.bind(("127.0.0.1", 0))
        server.settimeout(0.3)
        datagrams.settimeout(0.3)
        port, udp = server.getsockname()[1], datagrams.getsockname()[1]
        shared("import socket")
        assert outcome(shared, f"socket.create_connection(('127.0.0.1', {port}), timeout=2)").endswith("Error'")
        assert "Error" in outcome(
            shared, f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp}))"
        )
        assert "Error" in outcome(shared, "socket.create_connection(('1.1.1.1', 53), timeout=2)")
        assert outcome(shared, "socket.getaddrinfo('example.org', 80)") == "'gaierror'"
        with pytest.raises(TimeoutError):
            server.accept()
        with pytest.raises(TimeoutError):
            datagrams.recv(10)


@linux
def test_local_sockets_of_the_machine_and_odd_kinds_are_out_of_reach(shared: Notebook):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0gptoss-test")
        server.listen()
        shared("import socket")
        assert outcome(shared, "socket.socket(socket.AF_UNIX).connect('\\0gptoss-test')") == "'ConnectionRefusedError'"
    # AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK
    for family in (16, 17, 38, 40):
        assert outcome(shared, f"socket.socket({family}, 3 if {family} == 17 else 1)") == "'OSError'"


# Processes


def test_the_environment_and_other_processes_are_not_seen(shared: Notebook, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GPTOSS_TEST_SECRET", SECRET)
    subprocess.Popen(["sleep", "1"]).wait()
    assert "SECRET" not in shared("import os\nprint(dict(os.environ))")
    said = shared("""
import glob
for path in glob.glob('/proc/[0-9]*/*') + glob.glob('/proc/self/*'):
    if path.split('/')[-1] in ('environ', 'cmdline', 'maps', 'mem', 'root', 'cwd'):
        try: print(path, open(path, 'rb').read(4000))
        except OSError as error: print(path, error.strerror)
print(glob.glob('/proc/[0-9]*'))""")
    assert SECRET not in said
    assert "pytest" not in said
    assert str(os.getpid()) not in said.splitlines()[-1]


def test_nobody_outside_can_be_signalled(shared: Notebook):
    said = shared(f"""
import os, signal
found = []
for process in (os.getppid(), {os.getpid()}, {os.getppid()}):
    try:
        os.kill(process, signal.SIGKILL)
        found.append('sent')
    except OSError as error:
        found.append(type(error).__name__)
found""")
    # Process 1 of a namespace cannot be killed from within: nothing happens.
    assert said in ("['sent', 'ProcessLookupError', 'ProcessLookupError']", str(["PermissionError"] * 3))


def test_killing_all_that_can_be_seen_kills_the_sandbox_alone(begin: Callable[..., Notebook]):
    cells = begin()
    cells("x = 1")
    said = cells("import os, signal\nos.kill(-1, signal.SIGKILL)\nos.kill(os.getpid(), signal.SIGKILL)")
    assert LOST in said or "Error" in said
    assert cells("1 + 1").endswith("2")


@linux
def test_tracing_and_reading_other_processes_memory_is_refused(shared: Notebook):
    said = shared("""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
found = [libc.ptrace(16, 1, 0, 0), ctypes.get_errno()]
for path in ('/proc/1/mem', '/proc/1/environ', '/proc/1/maps', '/proc/1/root/etc', '/proc/1/fd/0'):
    try: os.listdir(path) if path.endswith('etc') else open(path, 'rb').read(1); found.append(path)
    except OSError as error: found.append(error.errno)
found""")
    found = eval(said)
    assert found[:2] == [-1, 1]
    assert all(each in (1, 2, 13) for each in found[2:])


@linux
@pytest.mark.parametrize(
    "call",
    [
        "unshare(0x10000000)",
        "setns(0, 0)",
        "mount(b'none', b'/mnt', b'tmpfs', 0, b'')",
        "umount2(b'/proc', 2)",
        "chroot(b'/mnt/data')",
        "setuid(0)",
        "memfd_create(b'x', 0)",
        "shmget(0, 1 << 20, 0o1600)",
        "syscall(321, 0, 0, 0)" if os.uname().machine == "x86_64" else "syscall(280, 0, 0, 0)",
        "mknod(b'disk', 0o60660, 0)",
        "sethostname(b'x', 1)",
        "reboot(0)",
    ],
)
def test_no_privilege_is_left_and_none_can_be_had(shared: Notebook, call: str):
    said = shared(f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.{call}, ctypes.get_errno()")
    assert said in ("(-1, 1)", "(-1, 22)")


@linux
def test_setuid_programs_give_nothing(shared: Notebook):
    assert shared("import os\nos.statvfs('/usr').f_flag & os.ST_NOSUID and os.ST_RDONLY") == "1"
    assert "NoNewPrivs:\t1" in shared("print(open('/proc/self/status').read())")


def test_what_a_cell_leaves_running_ends_with_it(shared: Notebook):
    said = shared("""
import subprocess
p = subprocess.Popen(['sleep', '1000'], start_new_session=True)
q = subprocess.Popen(['sh', '-c', 'sleep 1000 & sleep 1000 & exit 0']); q.wait()
'begun'""")
    if "PermissionError" in said or "BlockingIOError" in said:
        return  # No process can be made at all.
    assert said == "'begun'\n[3 processes that the cell left running were ended.]"
    assert shared("p.wait()") == "-9"


def test_a_thread_stands_still_between_cells(shared: Notebook):
    shared("""
import threading, time
ticks = 0
def tick():
    global ticks
    while ticks < 10_000:
        ticks += 1; time.sleep(0.001)
thread = threading.Thread(target=tick, daemon=True); thread.start()""")
    time.sleep(0.7)
    assert int(shared("ticks")) < 600
    shared("ticks = 10_000\nthread.join()")


@linux
@pytest.mark.slow
def test_a_fork_bomb_is_bounded_and_gone_afterwards(begin: Callable[..., Notebook]):
    cells = begin(PythonLimits(seconds=3, processes=16))
    before = len(os.listdir("/proc"))
    counts: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            counts.append(len(os.listdir("/proc")))

    watching = threading.Thread(target=watch)
    watching.start()
    said = cells("""
import os
while True:
    try: os.fork()
    except OSError: pass""")
    over.set()
    watching.join()
    assert "it took longer than 3 seconds" in said
    assert max(counts) - before < 100
    assert len(os.listdir("/proc")) - before < 10
    assert cells("1 + 1").endswith("2")


# The protocol


WRITE = "import os\nfor fd in range(3, 256):\n    try: os.write(fd, {said!r})\n    except OSError: pass"
"""Writes to every descriptor that there is."""


@pytest.mark.parametrize(
    "code",
    [
        WRITE.format(said=b"\0" * 64),
        pytest.param(WRITE.format(said=b'{"ending": "done"}'), marks=pytest.mark.slow),
        pytest.param("import os\nos.closerange(0, 4096)", marks=pytest.mark.slow),
    ],
    ids=["garbage", "an answer", "nothing left open"],
)
def test_abuse_of_the_interpreters_connection_ends_the_interpreter_alone(begin: Callable[..., Notebook], code: str):
    cells = begin(PythonLimits(seconds=1.0))
    said = cells(code)
    assert LOST in said
    assert cells("1 + 1").endswith("\n2")


@pytest.mark.slow
def test_reading_what_the_interpreter_reads_gives_nothing(begin: Callable[..., Notebook]):
    cells = begin(PythonLimits(seconds=0.5))
    cells("import os\nfor fd in range(3, 256):\n    try: os.read(fd, 1)\n    except OSError: pass")
    assert cells("1 + 1").endswith("2")


@linux
def test_no_descriptor_of_the_program_is_there(shared: Notebook):
    read, write = os.pipe()
    try:
        os.set_inheritable(read, True)
        said = shared("""
import os
found = {}
for number in os.listdir('/proc/self/fd'):
    try: found[int(number)] = os.readlink(f'/proc/self/fd/{number}')
    except OSError: pass  # the one that the list was read through
found""")
    finally:
        os.close(read)
        os.close(write)
    ends = list(eval(said).values())
    # Nothing to read; what is printed, cells, answers.
    assert all(end == "/dev/null" or end.startswith("pipe:") for end in ends), ends
    assert len({end for end in ends if end.startswith("pipe:")}) == 3
