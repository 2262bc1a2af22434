"""Starting one process: fork, record, confine, exec.

Done by hand and not by `subprocess`, because the new process must write its record itself and
may have to become an orphan or somebody else first. The caller has one thread only.
"""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import NoReturn

from modelfleet.core.errors import FleetError
from modelfleet.engines.local import confine
from modelfleet.engines.local.processes import Files, Record, myself, read_record, write_record
from modelfleet.engines.local.spec import ProcessSpec

_LOG_BYTES = 10_000_000
_OPEN_FILES = 1 << 20


class LaunchFailed(FleetError):
    """A process could not be started."""

    slug = "launch-failed"


def launch(
    spec: ProcessSpec, incarnation: int, files: Files, argv: tuple[str, ...] | None = None
) -> Record:
    """Start it in a session of its own; its output goes to its log. Raises `LaunchFailed`.

    argv: instead of that of the spec.
    """
    files.records.mkdir(parents=True, exist_ok=True)
    todo = confine.plan(spec.confinement, spec.argv[0]) if spec.confinement else None
    log = _open_log(files.log(spec.name))
    path = files.record(spec.name)
    reader, writer = os.pipe()  # closed by a good exec, else carries the error
    child = os.fork()
    if child == 0:
        _run(spec, incarnation, path, log, writer, todo, argv or spec.of(incarnation).argv)
    os.close(log)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        complaint = stream.read().decode(errors="replace")
    if spec.detached or complaint:
        os.waitpid(child, 0)
    if complaint:
        raise LaunchFailed(f"{spec.name}: {complaint}")
    record = read_record(path)
    if record is None:
        raise LaunchFailed(f"{spec.name}: it left no record")
    return record


def _run(
    spec: ProcessSpec,
    incarnation: int,
    path: Path,
    log: int,
    writer: int,
    todo: confine.Plan | None,
    argv: tuple[str, ...],
) -> NoReturn:
    """The new process. It never returns into the caller's code."""
    try:
        os.setsid()
        if spec.detached and os.fork() != 0:
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        write_record(path, myself(spec.name, incarnation, spec.digest()))
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if todo is not None:
            confine.enter(todo)
        _allow_many_files()
        os.chdir(spec.cwd or "/")
        env = dict(spec.env) if spec.clean else {**os.environ, **spec.env}
        os.execve(argv[0], argv, env)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear it
        os.write(writer, f"{type(error).__name__}: {error}".encode()[:1000])
    finally:
        os._exit(127)


def _allow_many_files() -> None:
    """Each client's connection is an open file of the gateway; shells often allow 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open_log(path: Path) -> int:
    """Open for appending. A log over ten megabytes becomes `.1` first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
