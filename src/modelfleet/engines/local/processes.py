"""Knowing a process again: pid and start time, kept in a file that the process itself wrote.

A pid alone is not enough, it may belong to somebody else by now; with the start time and the
boot it is unique. The record is written between fork and exec, so no started process is unknown
to a later agent, however the earlier one ended.
"""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modelfleet.core.files import write_atomically

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Record(msgspec.Struct, frozen=True):
    """One started process."""

    name: str
    pid: int
    start: int
    """clock ticks since boot"""
    boot: str
    incarnation: int
    digest: str

    def alive(self) -> bool:
        return self.boot == boot_id() and start_time(self.pid) == self.start

    def signal(self, number: signal.Signals) -> None:
        """Send it if the process is still the same one."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Files:
    """Where the agent keeps what it must know after its own death."""

    run: Path
    logs: Path

    @property
    def records(self) -> Path:
        return self.run / "processes"

    def record(self, name: str) -> Path:
        return self.records / f"{name}.json"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    @property
    def agent(self) -> Path:
        return self.run / "agent.json"

    @property
    def keeper(self) -> Path:
        return self.run / "keeper.json"

    @property
    def agent_lock(self) -> Path:
        return self.run / "agent.lock"

    @property
    def keeper_lock(self) -> Path:
        return self.run / "keeper.lock"

    @property
    def observed(self) -> Path:
        return self.run / "observed.json"

    @property
    def desired(self) -> Path:
        return self.run / "desired"


def myself(name: str, incarnation: int = 0, digest: str = "") -> Record:
    pid = os.getpid()
    start = start_time(pid)
    if start is None:
        raise RuntimeError("/proc doesn't show this process")
    return Record(name, pid, start, boot_id(), incarnation, digest)


def write_record(path: Path, record: Record) -> None:
    write_atomically(path, msgspec.json.encode(record))


def read_record(path: Path) -> Record | None:
    """None if there is none, or none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def records(files: Files) -> Iterator[Record]:
    """Everything that was started, alive or not."""
    for path in sorted(files.records.glob("*.json")):
        found = read_record(path)
        if found is not None:
            yield found


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it is gone or a zombie."""
    fields = _stat(pid)
    return None if not fields or fields[0] in (b"Z", b"X") else int(fields[19])


def zombie_status(pid: int) -> int | None:
    """How a process ended that is somebody else's to reap, as `os.waitpid` would say it.

    None if it was reaped already; 0, too, if this system doesn't tell us.
    """
    fields = _stat(pid)
    return int(fields[49]) if len(fields) > 49 and fields[0] == b"Z" else None


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on; none if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return stat[stat.rindex(b")") + 2 :].split()  # the name before it may hold anything


def out_of_memory_kills() -> int:
    """Processes that the kernel has killed since boot because memory ran out."""
    try:
        counters = Path("/proc/vmstat").read_bytes()
    except OSError:
        return 0
    found = re.search(rb"^oom_kill (\d+)$", counters, re.MULTILINE)
    return int(found[1]) if found else 0


def resident_bytes(pid: int) -> int:
    """Memory that the process really holds; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def ended(handle: int) -> bool:
    """Has the process of this pidfd ended? It may not have been reaped yet."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))
