"""What every Python must be able to read: itself, its libraries, a few facts of the machine."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator

LIBRARIES = (
    "/lib /lib32 /lib64 /usr/lib /usr/lib32 /usr/lib64 /usr/local/lib /usr/local/lib64 "
    "/etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/ld-musl-x86_64.path "
    "/usr/share/zoneinfo /etc/localtime /etc/os-release /usr/lib/locale"
).split()
MACHINE = (
    "/dev/null /dev/zero /dev/full /dev/random /dev/urandom "
    "/proc/self /proc/thread-self /proc/cpuinfo /proc/meminfo /proc/stat /proc/loadavg "
    "/proc/filesystems /proc/version /proc/sys/kernel/random /proc/sys/vm/overcommit_memory "
    "/sys/devices/system /sys/fs/cgroup /sys/kernel/mm/transparent_hugepage"
).split()
WRITABLE = ("/dev/null",)


def readable() -> list[str]:
    """The interpreter, everything it imports from, and what is common to all programs."""
    return [*_of_python(), *LIBRARIES, *MACHINE]


def _of_python() -> Iterator[str]:
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    roots.add(os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))))
    roots.add(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))  # may be behind a link
    users = {site.getuserbase(), os.path.expanduser("~"), "/"}
    for path in [*sorted(roots), *sys.path]:
        real = os.path.realpath(path)
        if path and os.path.exists(real) and real not in users:
            yield real


def without_current_folder() -> None:
    """`python -m` puts the current folder on the way of imports: nobody vouches for it."""
    here = os.path.realpath(os.getcwd())
    sys.path[:] = [path for path in sys.path if path and os.path.realpath(path) != here]
