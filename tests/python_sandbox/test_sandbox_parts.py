"""The parts of the sandbox by themselves: how a refusal is told, running without one, the macOS profile, the filter."""

import os
import re
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from gptoss_mlx.errors import SandboxError
from gptoss_mlx.python_sandbox import session as sessions
from gptoss_mlx.python_sandbox.frames import FrameReader, pack_frame
from gptoss_mlx.python_sandbox.interpreter import find_interpreter, is_below, outermost
from gptoss_mlx.python_sandbox.limits import PythonLimits
from gptoss_mlx.python_sandbox.seatbelt import make_profile, quoted
from gptoss_mlx.python_sandbox.seccomp import make_filter
from gptoss_mlx.python_sandbox.session import ANEW, LOST, PythonSession
from gptoss_mlx.python_sandbox.tool import make_python_tool
from tests.python_sandbox.conftest import linux, need_sandbox

# A sandbox that cannot be made


@linux
def test_where_there_is_no_sandbox_one_sentence_says_so_and_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    # As in a container that allows no namespaces: the supervisor finds that out by trying.
    monkeypatch.setattr(
        sessions,
        "_PROGRAM",
        "import os, sys; sys.path.append(os.environ['GPTOSS_ROOT']); "
        "import gptoss_mlx.python_sandbox.linux as linux; real = linux.load_libc; "
        "C = type('C', (), {'__getattr__': lambda self, name: getattr(real(), name), 'unshare': lambda self, f: -1}); "
        "linux.load_libc = C; import gptoss_mlx.python_sandbox.cages as cages; cages.sys.platform = 'linux'; "
        "from gptoss_mlx.python_sandbox.keeper import main; main()",
    )
    monkeypatch.setattr(sessions, "_checked", set())
    with pytest.raises(SandboxError) as caught:
        make_python_tool()
    assert re.fullmatch(
        r"there is no sandbox for the python tool on this machine \(making a user namespace: .+\); it runs only if it "
        r"is told to do without: unsandboxed=True, or --python-unsandboxed",
        str(caught.value),
    )
    session = PythonSession(PythonLimits())
    mark = tmp_path / "ran"
    with pytest.raises(SandboxError, match="there is no sandbox"):
        session({"code": f"open({str(mark)!r}, 'w')"}, ())
    assert not mark.exists()
    assert session.process is None
    # Without a sandbox it runs only when that is said.
    assert make_python_tool(unsandboxed=True).name == "python"


@linux
@pytest.mark.slow
def test_a_machine_that_forbids_namespaces_is_found_out_by_trying():
    # Within a sandbox there can be no other: the filter refuses it, as that of a container does.
    need_sandbox()
    session = PythonSession(PythonLimits())
    root = Path(sessions.__file__).parent.parent.parent
    shown = find_interpreter().packages
    if not any((Path(folder) / "gptoss_mlx" / "python_sandbox").is_dir() for folder in shown):
        files = {path.name: path.read_text() for path in (root / "gptoss_mlx" / "python_sandbox").glob("*.py")}
        made = (
            f"import os\nfor name, text in {files!r}.items():\n"
            "    os.makedirs('gptoss_mlx/python_sandbox', exist_ok=True)\n"
            "    open(f'gptoss_mlx/python_sandbox/{name}', 'w').write(text)\n"
            "open('gptoss_mlx/__init__.py', 'w').close()"
        )
        session({"code": made}, ())
    said = session(
        {
            "code": """
import sys; sys.path.insert(0, '.')
from gptoss_mlx.python_sandbox.linux import Bounds, Ends, start
from gptoss_mlx.python_sandbox.linux_root import RootPlan
start(RootPlan([], '/root', '', 1 << 20, 1000), Bounds(None, None, None), ['/bin/true'], {}, Ends(0, 1, 2, 2))"""
        },
        (),
    )
    session.close()
    assert said.endswith("SandboxStep: making a user namespace: Operation not permitted")


# Without a sandbox


def test_without_a_sandbox_cells_run_with_limits_and_leave_nothing(tmp_path: Path):
    session = PythonSession(PythonLimits(seconds=1.0), unsandboxed=True)
    try:
        assert session({"code": "import os\nx = 20\nos.getcwd(), os.environ.get('PATH')"}, ()).count("gptoss-python-")
        folder = session({"code": "print(os.getcwd())"}, ())
        assert session({"code": f"open({str(tmp_path / 'f')!r}, 'w').write('x') + x"}, ()) == "21"
        assert session({"code": "while True: pass"}, ()).endswith("it took longer than 1 seconds.]")
        assert session({"code": "x"}, ()) == "20"
        if sys.platform == "linux":
            said = session({"code": "import subprocess\np = subprocess.Popen(['setsid', 'sleep', '100'])"}, ())
            assert "[1 process that the cell left running was ended.]" in said
        assert LOST in session({"code": "os._exit(0)"}, ())
        assert session({"code": "1"}, ("x = 20",)) == f"{ANEW}\n1"
    finally:
        session.close()
    assert not Path(folder).exists()


# Parts


def test_the_interpreter_is_the_installation_behind_the_virtual_environment():
    found = find_interpreter()
    assert Path(found.executable).is_file()
    assert not Path(found.executable).is_symlink()
    assert not is_below(found.executable, [sys.prefix]) or sys.prefix == sys.base_prefix
    home = os.path.realpath(os.path.expanduser("~"))
    assert not any(is_below(home, [folder]) for folder in found.folders)
    assert any((Path(folder) / "numpy").is_dir() for folder in found.packages)
    done = subprocess.run(
        [found.executable, "-I", "-S", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert os.path.realpath(done.stdout.strip()) == os.path.realpath(
        sysconfig.get_path("stdlib", vars={"base": sys.base_prefix})
    )


def test_paths_within_others_are_left_out():
    assert outermost(["/a/b", "/a", "/ab", "/c/d/e", "/c/d"]) == ["/a", "/ab", "/c/d"]


def test_messages_come_whole_however_they_are_cut():
    data = pack_frame({"do": "run", "code": "ü" * 300}) + pack_frame({"do": "stop"})
    reader = FrameReader()
    messages = [message for at in range(0, len(data), 7) for message in reader.feed(data[at : at + 7])]
    assert messages == [{"do": "run", "code": "ü" * 300}, {"do": "stop"}]


def run_filter(program: bytes, number: int, argument: int = 0, arch: int = 0xC000003E) -> int:
    """What the filter says to a system call: the kernel's machine, as far as it is used."""
    data = {0: number, 4: arch, 16: argument & 0xFFFFFFFF}
    instructions = [struct.unpack("=HBBI", program[at : at + 8]) for at in range(0, len(program), 8)]
    at = loaded = 0
    while True:
        code, yes, no, value = instructions[at]
        if code == 0x20:
            loaded = data[value]
        elif code == 0x06:
            return int(value)
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            at += yes if holds else no
        at += 1


EPERM, ENOSYS, EAFNOSUPPORT, ALLOW, KILL = 0x50001, 0x50026, 0x50061, 0x7FFF0000, 0x80000000


@pytest.mark.parametrize(
    ("machine", "arch", "read", "ptrace", "clone", "sockets"),
    [("x86_64", 0xC000003E, 0, 101, 56, 41), ("aarch64", 0xC00000B7, 63, 117, 220, 198)],
)
def test_the_filter_refuses_what_it_should_and_nothing_else(
    machine: str, arch: int, read: int, ptrace: int, clone: int, sockets: int
):
    program = make_filter(machine)

    def said(number: int, argument: int = 0) -> int:
        return run_filter(program, number, argument, arch)

    assert said(read) == ALLOW
    assert said(ptrace) == EPERM
    assert said(435) == ENOSYS
    assert said(clone, 0x3D0F00) == ALLOW  # a thread
    assert said(clone, 17) == ALLOW  # fork
    for namespace in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert said(clone, namespace | 17) == EPERM
    assert [said(sockets, family) for family in (1, 2, 10)] == [ALLOW] * 3
    assert [said(sockets, family) for family in (0, 3, 16, 17, 38, 40)] == [EAFNOSUPPORT] * 6
    assert run_filter(program, read, 0, arch ^ 1) == KILL
    if machine == "x86_64":
        assert said(0x40000000 | read) == EPERM


def test_the_mac_profile_refuses_by_itself_and_shows_what_it_is_told():
    profile = make_profile(
        executable="/Users/ann/py/bin/python3.12",
        readable=["/Users/ann/py/lib", '/Users/ann/"odd"\\/packages'],
        scratch="/private/var/folders/x/T/gptoss-python-1",
        home="/Users/ann",
    )
    assert profile.startswith("(version 1)\n(deny default)\n")
    bare = re.sub(r'"(\\.|[^"\\])*"', '""', profile)
    assert bare.count("(") == bare.count(")")
    depth = 0
    for sign in bare:
        depth += (sign == "(") - (sign == ")")
        assert depth >= 0
    # The last rule that fits counts: what is hidden comes after the system, what is shown of it after that.
    order = [
        profile.index("(allow file-read*)\n"),
        profile.index('(subpath "/Users")'),
        profile.index('(subpath "/Users/ann")'),
        profile.index('(subpath "/Users/ann/py/lib")'),
        profile.index('(allow file-read* file-write*\n    (subpath "/private/var/folders/x/T/gptoss-python-1"))'),
    ]
    assert order == sorted(order)
    assert '(subpath "/Users/ann/\\"odd\\"\\\\/packages")' in profile
    assert "(deny network*)" in profile
    assert "(deny process-fork)" in profile
    assert "procargs" not in profile
    # Nothing can be written but the scratch and devices.
    written = [line for line in profile.split("(allow ") if "file-write" in line.partition("\n")[0]]
    assert len(written) == 2
    for way in ("/", "/Users", "/Users/ann", "/Users/ann/py", "/private/var/folders/x/T"):
        assert f'(literal "{way}")' in profile


def test_a_path_cannot_end_the_text_that_it_stands_in():
    assert quoted('a") (allow default) ("') == '"a\\") (allow default) (\\""'
