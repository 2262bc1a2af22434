"""Landlock: a process gives up files, TCP and neighbours for good. No privilege is needed.

The mask is built for the ABI that the kernel has: 1 files, 2 moving between folders, 3
truncation, 4 TCP, 5 device ioctls, 6 abstract sockets and signals.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable

from modelfleet_worker.sandbox.system import call, libc

NEWEST = 6
_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # on every machine
_VERSION = 1
_PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << k for k in range(6))
MAKE_DIR, MAKE_REG = 1 << 7, 1 << 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_TCP = 0b11
_SCOPES = 0b11
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE


class _Ruleset(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def abi() -> int:
    """The kernel's, 0 if it has no Landlock or it is switched off."""
    return max(int(libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)), 0)


def handled(version: int) -> int:
    """All rights over files that this ABI can take away."""
    rights = (1 << 13) - 1
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        if version >= since:
            rights |= right
    return rights


def restrict(version: int, read: Iterable[str], write: Iterable[str]) -> list[int]:
    """Leave this thread, and what it starts, these paths alone. OSError if the kernel refuses.

    Gives descriptors that must stay open: rules on /proc hold as long as somebody holds them.
    """
    rights = handled(version)
    ruleset = _Ruleset(rights, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    handle = call(_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), 0, what="landlock")
    pinned: list[int] = []
    try:
        for paths, allowed in ((read, READ), (write, WRITE)):
            for path in dict.fromkeys(paths):
                pinned += _allow(handle, path, allowed & rights)
        call(_RESTRICT, handle, 0, what="landlock")
    finally:
        os.close(handle)
    return pinned


def _allow(ruleset: int, path: str, rights: int) -> list[int]:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return []  # what is not there, or not ours, need not be allowed
    if not stat.S_ISDIR(os.fstat(opened).st_mode):
        rights &= _OF_FILES
    rule = _Beneath(rights, opened)
    try:
        call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0, what=f"landlock: {path}")
    except OSError:
        os.close(opened)
        raise
    if path.startswith("/proc/"):
        return [opened]
    os.close(opened)
    return []
