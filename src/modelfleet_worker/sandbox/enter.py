"""Giving up rights, in the order that frameworks survive: begin, import, seal, load."""

from __future__ import annotations

import importlib
import os

import msgspec

from modelfleet_worker.sandbox import landlock, limits, places, seccomp, system
from modelfleet_worker.sandbox.policy import Policy, Report


class Sandbox:
    """A process on its way in. Use `begin`; call `seal` before the first untrusted byte."""

    def __init__(self, report: Report, pinned: list[int]) -> None:
        self.report = report
        self._pinned = pinned

    def seal(self) -> Report:
        """No programs, processes, sockets or foreign memory from here on."""
        self.report = _sealed(self.report)
        return self.report


def begin(policy: Policy) -> Sandbox:
    """Leave this process the policy's paths and limits, and nothing of its environment.

    There must be one thread only. OSError if something fails that every Linux can do.
    """
    places.without_current_folder()
    readable = [*places.readable(), *policy.read]
    limits.clear_environment(policy)
    limits.close_descriptors(policy)
    applied = limits.apply(policy)
    missing = []
    if system.threads() > 1:
        missing.append("threads that ran before are not held")
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    report, pinned = _landlock(readable, [*policy.write, *places.WRITABLE], missing)
    try:
        system.drop_capabilities()
    except OSError as error:
        missing.append(str(error.strerror))
    return Sandbox(
        msgspec.structs.replace(
            report, limits=applied, uid=os.getuid(), missing=(*report.missing, *missing)
        ),
        pinned,
    )


def import_all(modules: tuple[str, ...]) -> None:
    """Those that are there: the model will say what it lacks."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            continue


def _landlock(read: list[str], write: list[str], missing: list[str]) -> tuple[Report, list[int]]:
    version = landlock.abi()
    if version == 0:
        what = "no Landlock: files of this user, TCP and other processes are in reach"
        return Report(missing=(what,)), []
    try:
        pinned = landlock.restrict(version, read, write)
    except OSError as error:
        return Report(version, missing=(f"Landlock failed ({error.strerror})",)), []
    lacks = [
        text
        for since, text in (
            (3, "truncation of files is not denied by Landlock"),
            (4, "TCP is not denied by Landlock"),
            (6, "signals and abstract sockets are not scoped by Landlock"),
        )
        if version < since
    ]
    found = Report(version, True, version >= 4, version >= 6, missing=tuple(lacks))
    return found, pinned


def _sealed(report: Report) -> Report:
    here = seccomp.machine()
    if here is None:
        what = f"no seccomp filter for {os.uname().machine}: programs and sockets are not denied"
    else:
        try:
            seccomp.install(here)
            return msgspec.structs.replace(report, seccomp=os.uname().machine)
        except OSError as error:
            what = f"no seccomp ({error.strerror}): programs and sockets are not denied"
    return msgspec.structs.replace(report, missing=(*report.missing, what))
