"""The namespaces of a Linux sandbox, and the processes that make it.

    keeper ──fork──> maker: a user namespace, then all others ──fork──> process 1 ──fork──> worker
                     ends at once                                       makes the root, reaps, ends with the worker

The maker asks the keeper to write down who its users are on the machine, since only somebody outside may say so. Where
the keeper is root, the code runs as nobody; else as the user, who in there is nobody else's equal. Process 1 dies with
the keeper (the kernel sees to that), and with process 1 everything in its namespace. Process 1 and the worker have no
privileges left when the worker begins, and cannot get any.
"""

import ctypes
import os
import signal
import socket
import struct
from dataclasses import dataclass
from typing import Final, NoReturn

from gptoss_mlx.python_sandbox.linux_root import RootPlan, SandboxStep, make_root
from gptoss_mlx.python_sandbox.processes import count_tasks
from gptoss_mlx.python_sandbox.seccomp import install_filter, knows_machine
from gptoss_mlx.python_sandbox.worker_process import Bounds, Ends, become, die_with_parent, load_libc

USER: Final = 1000
"""Number of the user in the sandbox."""

_NOBODY: Final = 65534
_NEWUSER, _NEWNS, _NEWPID, _NEWNET, _NEWIPC = 0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000
_NEWUTS, _NEWCGROUP = 0x4000000, 0x2000000
_DUMPABLE, _NO_NEW_PRIVS = 4, 38
_SYS_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION: Final = 0x20080522
_PER_NAMESPACE: Final = (5, 14)
"""The Linux from which on a namespace's processes are counted apart."""


@dataclass(frozen=True, slots=True)
class Started:
    """The processes, by the machine's numbers."""

    first: int
    """Process 1 of the sandbox: all of it ends when this one is killed; it is a child of the keeper."""
    worker: int


def start(plan: RootPlan, bounds: Bounds, command: list[str], environment: dict[str, str], ends: Ends) -> Started:
    """Makes a sandbox, and `command` in it. Call `adopt_orphans` before. Raises SandboxStep."""
    if not knows_machine():
        raise SandboxStep(f"the system calls of {os.uname().machine} are not known here")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours.settimeout(20)
    maker = os.fork()
    if maker == 0:
        ours.close()
        _make(theirs, plan, bounds, command, environment, ends)
    theirs.close()
    with ours:
        try:
            _heard(ours, b"maker")
            _write_maps(maker)
            ours.send(b"go")
            first = _heard(ours, b"first")
        except SandboxStep:
            os.waitpid(maker, 0)
            raise
        os.waitpid(maker, 0)
        try:
            ours.send(b"go")
            return Started(first, _heard(ours, b"worker"))
        except SandboxStep:
            os.kill(first, 9)
            os.waitpid(first, 0)
            raise


def _heard(ours: socket.socket, word: bytes) -> int:
    """Waits for the word; gives the number of who said it."""
    try:
        said, extra, _, _ = ours.recvmsg(4096, socket.CMSG_SPACE(12))
    except OSError as error:
        raise SandboxStep(f"a process of the sandbox says nothing ({error})") from error
    if said != word or not extra:
        raise SandboxStep(said.decode("utf-8", "replace") or "a process of the sandbox ended early")
    number: int = struct.unpack("=iII", extra[0][2])[0]
    return number


def _write_maps(maker: int) -> None:
    """Who the users of the maker's namespace are."""

    def write(name: str, text: str) -> None:
        with open(f"/proc/{maker}/{name}", "w") as file:
            file.write(text)

    user, group = os.geteuid(), os.getegid()
    try:
        if user == 0:
            try:
                write("uid_map", f"0 0 1\n{USER} {_NOBODY} 1\n")
                write("gid_map", f"0 {group} 1\n{USER} {_NOBODY} 1\n")
                return
            except OSError:
                # A root that is no more than a user of a container: it cannot become somebody else.
                pass
        write("setgroups", "deny")
        write("uid_map", f"{USER} {user} 1\n")
        write("gid_map", f"{USER} {group} 1\n")
    except OSError as error:
        raise SandboxStep(f"naming the users of a namespace: {error.strerror}") from error


def _make(
    theirs: socket.socket, plan: RootPlan, bounds: Bounds, command: list[str], environment: dict[str, str], ends: Ends
) -> NoReturn:
    """The maker, and in a fork of it process 1."""
    try:
        libc = load_libc()
        _unshare(libc, _NEWUSER, "making a user namespace")
        theirs.send(b"maker")
        if not theirs.recv(16):
            os._exit(1)
        _unshare(libc, _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS, "making namespaces")
        # Old systems have none of these.
        libc.unshare(_NEWCGROUP)
        if os.fork():
            os._exit(0)
        theirs.send(b"first")
        if not theirs.recv(16):
            os._exit(1)
        _be_first(libc, theirs, plan, bounds, command, environment, ends)
    except BaseException as error:
        theirs.send(str(error).encode()[:2000] or b"?")
    finally:
        os._exit(1)


def _unshare(libc: ctypes.CDLL, flags: int, what: str) -> None:
    if libc.unshare(flags):
        raise SandboxStep(f"{what}: {os.strerror(ctypes.get_errno())}")


def _be_first(
    libc: ctypes.CDLL,
    theirs: socket.socket,
    plan: RootPlan,
    bounds: Bounds,
    command: list[str],
    environment: dict[str, str],
    ends: Ends,
) -> NoReturn:
    """Process 1: makes the root, begins the worker, and ends with it."""
    processes = None if bounds.processes is None else bounds.processes + _counted_outside()
    os.setsid()
    make_root(libc, plan)
    socket.sethostname("sandbox")
    _drop_privileges(libc)
    # Set when the user is who it stays: changing it would undo this.
    die_with_parent()
    install_filter(libc)
    worker = os.fork()
    if worker == 0:
        theirs.send(b"worker")
        die_with_parent()
        os.setsid()
        become(command, environment, ends, Bounds(bounds.memory_bytes, processes, bounds.file_bytes))
    libc.prctl(_DUMPABLE, 0, 0, 0, 0)
    # What has no handler does not reach process 1.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.closerange(0, 256)
    while True:
        try:
            ended, status = os.wait()
        except InterruptedError:
            continue
        if ended == worker:
            os._exit(status >> 8 if status & 0x7F == 0 else 128 + (status & 0x7F))


def _counted_outside() -> int:
    """Processes of the user that count against a limit in the sandbox, on a Linux that counts them together."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit())
    return 0 if release >= _PER_NAMESPACE else count_tasks(os.geteuid())


def _drop_privileges(libc: ctypes.CDLL) -> None:
    """Becomes the sandbox's user, for good."""
    if os.getuid() != USER:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    number = ctypes.c_long(_SYS_CAPSET[os.uname().machine])
    if libc.syscall(number, ctypes.c_char_p(header), ctypes.c_char_p(bytes(24))):
        raise SandboxStep(f"giving privileges up: {os.strerror(ctypes.get_errno())}")
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise SandboxStep(f"refusing privileges: {os.strerror(ctypes.get_errno())}")
