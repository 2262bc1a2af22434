"""What hostile model code tries: `python -m attacks NAME` prints `done` or the errno."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = {
    "x86_64": {
        "ptrace": 101,
        "uring": 425,
        "unshare": 272,
        "readv": 310,
        "clone3": 435,
        "bpf": 321,
    },
    "aarch64": {
        "ptrace": 117,
        "uring": 425,
        "unshare": 97,
        "readv": 270,
        "clone3": 435,
        "bpf": 280,
    },
}
HERE = NUMBERS.get(os.uname().machine, {})


def syscall(name: str, *arguments: Any) -> int:
    found = int(libc.syscall(HERE[name], *arguments))
    if found < 0:
        raise OSError(ctypes.get_errno(), name)
    return found


def read(path: str) -> None:
    Path(path).read_bytes()


def write(path: str) -> None:
    Path(path).write_text("mine")


def shorten(path: str) -> None:
    os.truncate(path, 0)


def remove(path: str) -> None:
    os.unlink(path)


def permit(path: str) -> None:
    os.chmod(path, 0o777)


def backdate(path: str) -> None:
    os.utime(path, (0, 0))


def link(path: str) -> None:
    os.symlink("/etc", path)


def execute() -> None:
    os.execv("/bin/echo", ["echo", "done"])


def fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def shell() -> None:
    if os.system("exit 7") != 7 << 8:
        raise OSError(errno.EPERM, "no shell")


def unix_socket() -> None:
    socket.socket(socket.AF_UNIX).close()


def connect(port: str) -> None:
    socket.create_connection(("127.0.0.1", int(port)), 5).close()


def abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect("\0" + name)


def ptrace() -> None:
    syscall("ptrace", 0, 0, 0, 0)


def end(pid: str) -> None:
    os.kill(int(pid), signal.SIGTERM)


def end_group() -> None:
    signal.signal(signal.SIGURG, signal.SIG_IGN)
    os.kill(0, signal.SIGURG)


def starve(pid: str) -> None:
    resource.prlimit(int(pid), resource.RLIMIT_NOFILE, (4, 4))


def peek(pid: str) -> None:
    """Memory of another process: its first mapping."""
    place = int(Path(f"/proc/{os.getpid()}/maps").read_text().split("-")[0], 16)

    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

    none = ctypes.c_ulong(0)
    mine = Vector(ctypes.cast(ctypes.create_string_buffer(8), ctypes.c_void_p), 8)
    try:
        syscall("readv", int(pid), ctypes.byref(mine), 1, ctypes.byref(Vector(place, 8)), 1, none)
    except OSError as error:
        if error.errno != errno.EFAULT:  # we may; there is just nothing at that place
            raise


def environment_of(pid: str) -> None:
    Path(f"/proc/{pid}/environ").read_bytes()


def command_of(pid: str) -> None:
    Path(f"/proc/{pid}/cmdline").read_bytes()


def uring() -> None:
    os.close(syscall("uring", 4, ctypes.create_string_buffer(120)))


def memfd() -> None:
    os.close(os.memfd_create("code"))


def own_memory() -> None:
    place = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(place))
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(address)
        memory.write(b"x")


def user_namespace() -> None:
    syscall("unshare", 0x10000000)


def clone3() -> None:
    """With a size that is too small: EINVAL where it exists."""
    try:
        syscall("clone3", 0, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def memory() -> None:
    mmap.mmap(-1, 6 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000).close()  # not reserved


def inherited(number: str) -> None:
    os.read(int(number), 1)


def secret_variable() -> None:
    if "SECRET" not in os.environ:
        raise OSError(errno.ENOENT, "SECRET")


def first_environment() -> None:
    if b"SECRET=" not in Path("/proc/self/environ").read_bytes():
        raise OSError(errno.ENOENT, "SECRET")


def thread() -> None:
    """Not an attack: it must work."""
    found: list[int] = []
    one = threading.Thread(target=found.append, args=(1,))
    one.start()
    one.join()
    if not found:
        raise OSError(errno.EAGAIN, "no thread")


if __name__ == "__main__":
    try:
        globals()[sys.argv[1]](*sys.argv[2:])
        print("done")  # noqa: T201
    except OSError as error:
        print(errno.errorcode.get(error.errno or 0, "none"))  # noqa: T201
    except MemoryError:
        print("ENOMEM")  # noqa: T201
