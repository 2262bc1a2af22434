"""Calls into the kernel that Python has no names for."""

from __future__ import annotations

import ctypes
import os
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE, PR_CAP_AMBIENT = 38, 4, 47
_CAPSET = {"x86_64": 126, "aarch64": 91}


class _Head(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("words", ctypes.c_uint32 * 6)]


def call(number: int, *arguments: Any, what: str) -> int:
    """A system call; OSError names `what`."""
    found = int(libc.syscall(number, *arguments))
    if found < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return found


def prctl(option: int, value: int, what: str) -> None:
    zero = ctypes.c_ulong(0)
    if libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def drop_capabilities() -> None:
    """All of them, also root's. OSError if that fails."""
    number = _CAPSET.get(os.uname().machine)
    if number is None:
        raise OSError(0, "capabilities: this machine's calls are not known")
    head, sets = _Head(0x20080522, 0), _Sets()
    call(number, ctypes.byref(head), ctypes.byref(sets), what="capabilities")


def threads() -> int:
    """Of this process."""
    return len(os.listdir("/proc/self/task"))
