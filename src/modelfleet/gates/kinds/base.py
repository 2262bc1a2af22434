"""What a kind of gate gets, and what it gives back.

Evidence is JSON that one page draws, whatever the kind. Of these parts it holds what it has:

    facts    {name: number or text}
    bounds   [{label, value, low, high, rows, verdict, note}], with limit: where "fine" ends
    curves   [{name, x: [...], y: [...]}], with axes: [x, y]
    bars     [{label, value, note, verdict}], with limit
    rows     [{column: value}]: single rows that say more than numbers
    notes    [text]: what was left out, and why
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from modelfleet.core.errors import FleetError
from modelfleet.fleetfile.gates import Gate
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.registry.signature import Signature
from modelfleet.serving.lab import Deadline, Lab, Subject, Table
from modelfleet.serving.progress import Progress, Report


class Unknown(FleetError):
    """What the check needs can't be known here."""

    status = 409
    slug = "unknown"
    exit_code = 5


@dataclass(frozen=True)
class Dataset:
    name: str
    """with its version"""
    digest: str
    table: Mapping[str, NDArray[Any]]
    path: Path
    format: str = "csv"
    """or parquet"""

    @property
    def rows(self) -> int:
        return len(next(iter(self.table.values()), ()))


@dataclass(frozen=True)
class Consumer:
    """Somebody who calls the model: an application, a pipeline, another model."""

    kind: str
    name: str
    problem: str = ""
    """why it can't go on with the candidate, if that is known by itself (a pipeline's own check)"""
    checked: bool = False
    """its own check was made; else it is taken to rely on the champion's signature"""


@dataclass(frozen=True)
class Replayed:
    """Recorded inputs through a dependent, once with the champion and once with the candidate."""

    kind: str
    name: str
    rows: int
    before: Table
    """outputs by name"""
    after: Table
    inputs: Table = field(default_factory=dict)
    problem: str = ""
    """why it could not be replayed"""


@dataclass(frozen=True)
class FeatureCounts:
    """A feature's bins in the training reference, and how recent requests fill them."""

    name: str
    numeric: bool
    labels: Sequence[str]
    reference: NDArray[Any]
    recent: NDArray[Any]


class Around(Protocol):
    """What a case sees of the world. All of it may raise `Unknown`."""

    def dataset(self, reference: str) -> Dataset: ...

    def file(self, reference: str) -> Path: ...

    def consumers(self) -> Sequence[Consumer]: ...

    def recorded(self, rows: int) -> Table: ...

    def recent(self, seconds: float) -> Sequence[FeatureCounts]: ...

    def replay(self, rows: int) -> Sequence[Replayed]: ...

    def python(self, report: Report) -> Path:
        """The interpreter of the version's own environment, whatever form serves."""

    def rebuilt(self, report: Report) -> tuple[Subject, Path]:
        """The candidate's source form, and the interpreter of an environment that was made anew
        from its lock."""

    def variables(self) -> Mapping[str, str]:
        """`MODELFLEET_*` that say where the platform is."""


@dataclass(frozen=True)
class Case:
    candidate: Subject
    champion: Subject | None
    no_champion: str
    """why there is none"""
    around: Around
    lab: Lab
    deadline: Deadline
    registered: Path
    """folder of the bundle as it was registered; the candidate may be its compiled form"""
    folder: Path
    """for files of this run alone; it goes afterwards"""
    report: Report
    first: bool = False
    """nothing serves that it could be compared with; else there is one, or nobody knows"""

    def say(self, phase: str, done: int = 0, total: int = 0) -> None:
        self.report(Progress(phase, done, total))

    def champion_signature(self) -> Signature | None:
        return self.champion.info.signature if self.champion else None


Check = Callable[[Any, Case], GateRun]


@dataclass(frozen=True)
class Kind:
    """uses: what its verdict depends on beside the candidate and its settings: some of `champion`,
    `dataset`, `consumers`, `recorded`, `file`, `lock`, `moment`. version: raised when the check
    changes, so that earlier verdicts don't stand for it."""

    name: str
    spec: type[Gate]
    check: Check
    uses: frozenset[str] = frozenset()
    version: int = 1
    title: str = ""


def run(
    kind: str, verdict: Verdict, sentence: str, evidence: Mapping[str, object] | None = None
) -> GateRun:
    return GateRun(kind, verdict, sentence, dict(evidence or {}))


def nothing_beside(kind: str, case: Case) -> GateRun:
    """A first version is worse than nobody, which is worth a warning: nothing was compared. Where a
    champion is but can't be had, nothing is known."""
    verdict = Verdict.WARN if case.first else Verdict.INCONCLUSIVE
    return run(kind, verdict, f"There is nothing to compare with: {case.no_champion}", {})


def inconclusive(kind: str, sentence: str, **evidence: object) -> GateRun:
    return run(kind, Verdict.INCONCLUSIVE, sentence, evidence)


def bound(
    label: str, value: float, low: float, high: float, rows: int, verdict: str, note: str = ""
) -> dict[str, object]:
    """A row of `bounds`; infinities have no place in JSON."""
    return {
        "label": label,
        "value": plain(value),
        "low": plain(low),
        "high": plain(high),
        "rows": rows,
        "verdict": verdict,
        "note": note,
    }


def plain(value: object) -> object:
    """As JSON can hold it."""
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return float(f"{value:.6g}") if value == value and abs(value) != float("inf") else None
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if isinstance(value, (int, str, bool)) or value is None else str(value)
