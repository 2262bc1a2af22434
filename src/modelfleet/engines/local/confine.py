"""Making a worker somebody who may do little, and who still reaches what it needs.

Model code runs as an unprivileged user. When its interpreter, or the home, lies below a folder
that this user can't pass (an interpreter in /root, say), it gets a view of its own: in a private
mount namespace, such a folder is covered by an empty one, in which only the needed folders
appear at their old paths. The home is always covered where that is permitted, so that neither
keys nor databases are even there.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelfleet.core.errors import InvalidInput

_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
_MS_NOSUID, _MS_NODEV = 0x2, 0x4
_PR_SET_NO_NEW_PRIVS = 38
_CAP_SYS_ADMIN = 21
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Confinement:
    user: str | None
    """whom to become; None stays"""
    keep: tuple[Path, ...] = ()
    """folders that must be reachable"""
    hide: tuple[Path, ...] = ()
    """folders of which only what is kept may be seen, where the system permits it"""
    data_bytes: int | None = None
    """RLIMIT_DATA: allocations beyond it raise MemoryError"""


@dataclass(frozen=True)
class Plan:
    """What is left to do between fork and exec."""

    user: tuple[int, int] | None
    covers: tuple[tuple[Path, tuple[Path, ...]], ...]
    """(folder to cover, what must shine through)"""
    data_bytes: int | None


def plan(confinement: Confinement, program: str) -> Plan:
    """Raises `InvalidInput` if the user is unknown or can't reach what it needs."""
    if confinement.user is None:
        return Plan(None, (), confinement.data_bytes)
    ids = user_ids(confinement.user)
    needed = [*interpreter_folders(program), *confinement.keep]
    obstacles = {place for path in needed if (place := obstacle(path, ids)) is not None}
    if not may_mount():
        if obstacles:
            raise InvalidInput(
                f"The worker user {confinement.user} can't pass {', '.join(map(str, obstacles))}"
                f" to reach {program} or the home.",
                hint="Install Python and choose a home outside such folders, run modelfleet as"
                " an ordinary user, or set serving.allow_root_workers = true.",
            )
        return Plan(ids, (), confinement.data_bytes)
    if blocked := obstacles & set(needed):
        raise InvalidInput(f"{blocked.pop()} is closed to the worker user {confinement.user}.")
    tops = _outermost({*obstacles, *confinement.hide})
    covers = tuple(
        (top, tuple(sorted(_outermost({path for path in needed if path.is_relative_to(top)}))))
        for top in sorted(tops)
    )
    return Plan(ids, covers, confinement.data_bytes)


def enter(todo: Plan) -> None:
    """Runs in the new process, before its program."""
    if todo.covers:
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
        _mount("none", Path("/"), None, _MS_REC | _MS_PRIVATE)
        os.umask(0o022)
        for top, kept in todo.covers:
            _cover(top, kept)
    if todo.data_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (todo.data_bytes, todo.data_bytes))
    if todo.user is not None:
        user, group = todo.user
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    os.umask(0o077)


def _cover(top: Path, kept: Sequence[Path]) -> None:
    handles = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in kept]
    _mount("tmpfs", top, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=1m")
    for path, handle in handles:
        path.mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{handle}", path, None, _MS_BIND | _MS_REC)
        os.close(handle)


def user_ids(name: str) -> tuple[int, int]:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise InvalidInput(
            f"There is no user {name!r} for workers.", hint="Set serving.worker_user."
        ) from None
    return found.pw_uid, found.pw_gid


def interpreter_folders(program: str) -> list[Path]:
    """The folders that a Python needs: those of its virtual environment and of its base.

    A virtual environment's `bin/python` is a chain of links; each link's installation counts.
    """
    found: list[Path] = []
    here = Path(os.path.abspath(program))
    for _ in range(20):
        real_folder = here.parent.resolve()
        for folder in (here.parent, real_folder):
            found.append(folder.parent if folder.name == "bin" else folder)
        if not here.is_symlink():
            break
        here = Path(os.path.normpath(real_folder / os.readlink(here)))
    return [path for path in dict.fromkeys(found) if path != Path("/")]


def obstacle(path: Path, ids: tuple[int, int]) -> Path | None:
    """The outermost folder on the way to and including `path` that this user can't pass."""
    for folder in [*reversed(path.parents), path]:
        try:
            status = folder.stat()
        except FileNotFoundError:
            return None
        if status.st_uid == ids[0]:
            passable = status.st_mode & 0o100
        elif status.st_gid == ids[1]:
            passable = status.st_mode & 0o010
        else:
            passable = status.st_mode & 0o001
        if not passable:
            return folder
    return None


def may_mount() -> bool:
    """Does this process hold the capability that mount namespaces ask for?"""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def _outermost(paths: Iterable[Path]) -> set[Path]:
    everything = set(paths)
    return {path for path in everything if not everything & set(path.parents)}


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str = "") -> None:
    done = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else None,
        flags,
        options.encode() or None,
    )
    _check(done, f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
