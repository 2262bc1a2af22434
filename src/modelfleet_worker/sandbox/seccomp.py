"""seccomp: a filter over system calls, assembled here for x86-64 and aarch64.

What is denied answers EPERM; clone3, whose flags a filter can't see, ENOSYS, so that libc falls
back to clone, which may start threads and nothing else. Signals go to this process only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import NamedTuple, Optional

from modelfleet_worker.sandbox import syscalls
from modelfleet_worker.sandbox.system import call

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCH = 0, 4
_CLONE_THREAD = 0x10000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_X32 = 0x40000000
_SET_FILTER, _TSYNC = 1, 1
DENY, UNKNOWN, ALLOW = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ALLOW


class Machine(NamedTuple):
    column: int
    audit: int


MACHINES = {"x86_64": Machine(0, 0xC000003E), "aarch64": Machine(1, 0xC00000B7)}


class Step(NamedTuple):
    """One instruction: jumps skip as many of the following."""

    code: int
    then: int
    otherwise: int
    value: int


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]


def machine() -> Optional[Machine]:
    """None where no filter can be made."""
    return MACHINES.get(os.uname().machine)


def program(here: Machine, pid: int) -> list[Step]:
    """The filter for that machine and process."""
    steps = [
        Step(_LOAD, 0, 0, _ARCH),
        Step(_EQUAL, 1, 0, here.audit),  # else 32-bit calls, which have other numbers
        Step(_RETURN, 0, 0, DENY),
        Step(_LOAD, 0, 0, _NUMBER),
    ]
    if here.column == 0:
        steps += [Step(_AT_LEAST, 0, 1, _X32), Step(_RETURN, 0, 0, DENY)]
    for numbers in syscalls.DENIED.values():
        number = numbers[here.column]
        if number is not None:
            steps += _when(number, [Step(_RETURN, 0, 0, DENY)])
    at = here.column
    steps += _when(syscalls.CLONE3[at], [Step(_RETURN, 0, 0, UNKNOWN)])
    steps += _when(syscalls.CLONE[at], _only(0, Step(_ANY_BIT, 0, 1, _CLONE_THREAD)))
    for number in (syscalls.KILL[at], syscalls.TGKILL[at]):
        steps += _when(number, _only(0, Step(_EQUAL, 0, 1, pid)))
    for number in (syscalls.PRLIMIT[at], syscalls.AFFINITY[at]):
        steps += _when(number, _only(0, Step(_EQUAL, 0, 1, 0)))
    for wanted in (_TIOCSTI, _TIOCLINUX):
        asked = [_argument(1), Step(_EQUAL, 0, 1, wanted), Step(_RETURN, 0, 0, DENY)]
        steps += _when(syscalls.IOCTL[at], [*asked, Step(_LOAD, 0, 0, _NUMBER)])
    return [*steps, Step(_RETURN, 0, 0, ALLOW)]


def _when(number: int, block: list[Step]) -> list[Step]:
    return [Step(_EQUAL, 0, len(block), number), *block]


def _only(argument: int, test: Step) -> list[Step]:
    """Allowed if the low word of that argument passes the test, else denied."""
    allow, deny = Step(_RETURN, 0, 0, ALLOW), Step(_RETURN, 0, 0, DENY)
    return [_argument(argument), test, allow, deny]


def _argument(index: int) -> Step:
    return Step(_LOAD, 0, 0, 16 + 8 * index)  # both machines are little-endian


def install(here: Machine) -> None:
    """For all threads of this process. OSError if the kernel has no seccomp."""
    steps = program(here, os.getpid())
    content = b"".join(struct.pack("=HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(content, len(content))
    packed = _Program(len(steps), ctypes.cast(buffer, ctypes.c_void_p))
    number = syscalls.SECCOMP[here.column]
    found = call(number, _SET_FILTER, _TSYNC, ctypes.byref(packed), what="seccomp")
    if found != 0:
        raise OSError(0, f"seccomp: thread {found} can't be held")
