"""What a supervised process is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelfleet.engines.local.confine import Confinement


@dataclass(frozen=True)
class ProcessSpec:
    name: str
    """names its log and its record"""
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """added to the agent's environment"""
    clean: bool = False
    """`env` is the whole environment"""
    cwd: Path | None = None
    ready_at: tuple[str, int] | None = None
    """ready once this host and port accept; without one, ready at once"""
    detached: bool = False
    """Started as an orphan, for a program that dies with its parent: it survives the agent."""
    last: bool = False
    """stopped after all others"""
    stop_seconds: float = 10.0
    """from SIGTERM to SIGKILL"""
    confinement: Confinement | None = None
    incarnation_from: int | None = None
    """place in `argv` that the incarnation takes"""
    successor: Callable[[int], tuple[str, ...]] | None = field(default=None, compare=False)
    """For a program that can hand over to a fresh process: (pid of the running one) -> the command
    line of the one that takes over from it and ends it."""

    def of(self, incarnation: int) -> ProcessSpec:
        if self.incarnation_from is None:
            return self
        argv = list(self.argv)
        argv[self.incarnation_from] = str(incarnation)
        return replace(self, argv=tuple(argv))

    def digest(self) -> str:
        """Differs when a running process no longer is what is wanted."""
        parts = (self.argv, sorted(self.env.items()), self.clean, str(self.cwd), self.confinement)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
