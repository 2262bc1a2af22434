"""What each kind of gate can be told. How it checks stands in `modelfleet.gates.kinds`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelfleet.fleetfile.units import Duration, Fraction, Ratio, Size


class Strict(BaseModel):
    """A part of a document: an unknown key is an error, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Gate(Strict):
    blocking: bool = True
    """false: shown, but it stops nothing"""
    timeout: Duration = 600.0
    name: str = Field("", max_length=50, pattern=r"^[A-Za-z0-9._-]*$")
    """what the gate is called; empty: after its kind"""


UNIT_INTERVAL = frozenset(
    "accuracy balanced_accuracy f1 precision recall roc_auc average_precision brier".split()
)
"""metrics that lie between 0 and 1"""
LOSSES = frozenset("log_loss brier rmse mae mape".split())
"""metrics of which less is better"""


class Quality(Gate):
    """How good the version is on a data set, alone and beside the champion, on the same rows."""

    dataset: str
    """`NAME@VERSION` of a registered data set, or a CSV or Parquet file beside the document"""
    target: str = "target"
    """column of the truth"""
    metric: Literal[
        "accuracy", "balanced_accuracy", "f1", "precision", "recall", "roc_auc",
        "average_precision", "log_loss", "brier", "rmse", "mae", "mape", "r2",
    ]  # fmt: skip
    minimum: float | None = None
    """the metric's confidence bound must be no worse than this (a loss: no larger)"""
    vs: Literal["champion"] | None = None
    noninferior: float = Field(0.0, ge=0)
    """how much worse than the champion is still fine, in units of the metric"""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    slices: tuple[str, ...] = ()
    """columns; each of their values is a slice that must be fine by itself"""
    slices_need: Literal["proof", "no_harm"] = "proof"
    """proof: a slice that can't be proven fine makes the gate inconclusive; no_harm: only one that
    is proven worse counts, the others are named in a warning"""
    min_support: int = Field(100, ge=2)
    """rows below which nothing is concluded; smaller slices are shown, but don't count"""
    output: str = ""
    """of the model, to compare with the target; empty: the one that fits the metric"""
    positive: str | int | float | bool | None = None
    """the class that counts in precision, recall, f1 and scores; none: the larger of two"""

    @model_validator(mode="after")
    def _something_to_show(self) -> Quality:
        if self.minimum is None and self.vs is None:
            raise ValueError("quality needs a minimum, or vs: champion")
        if self.noninferior and self.vs is None:
            raise ValueError("noninferior says how far below the champion: it needs vs: champion")
        if self.metric in UNIT_INTERVAL:
            if self.minimum is not None and not 0 <= self.minimum <= 1:
                raise ValueError(f"{self.metric} lies between 0 and 1; {self.minimum} can't be met")
            if self.noninferior >= 1:
                raise ValueError(f"{self.metric} can't differ by 1 or more: this would say nothing")
        if self.minimum is not None and self.minimum < 0 and self.metric in LOSSES:
            raise ValueError(f"{self.metric} is never negative; {self.minimum} can't be met")
        if self.target in self.slices:
            raise ValueError(f"the target {self.target!r} can't be a slice, too")
        return self


class Signature(Gate):
    """Whether those who call the model can go on calling it."""

    compatible_with: Literal["consumers", "champion"] = "consumers"


class Drift(Gate):
    """Whether the data it was trained on look like what is asked of it now."""

    recent: Duration = 7 * 86400.0
    max_distance: float = Field(0.2, gt=0)
    """population stability index of a feature"""
    min_rows: int = Field(500, ge=1)
    features: tuple[str, ...] = ()
    """none: all"""
    confidence: float = Field(0.95, gt=0.5, lt=1)


class Latency(Gate):
    """Measured side by side with the champion, in turns, in workers of their own."""

    p95: Duration | None = None
    vs_champion: Ratio | None = None
    memory: Size | None = None
    memory_vs_champion: Ratio | None = None
    cold_load: Duration | None = None
    rows: int = Field(1, ge=1, le=4096)
    """rows in a request"""
    seconds: Duration = Field(5.0, ge=0.5, le=300)
    """of measuring, for each"""
    confidence: float = Field(0.95, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _a_limit(self) -> Latency:
        limits = (self.p95, self.vs_champion, self.memory, self.memory_vs_champion, self.cold_load)
        if all(limit is None for limit in limits):
            raise ValueError("latency needs a limit, such as p95: 30ms or vs_champion: 1.2x")
        return self


class Dependencies(Gate):
    """Whether the lock resolves, agrees with itself and holds nothing that is forbidden."""

    forbidden: tuple[str, ...] = ()
    """requirements, such as `pillow<10` or `tensorflow`"""

    @model_validator(mode="after")
    def _can_hold(self) -> Dependencies:
        for one in self.forbidden:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*([<>=!~].*)?", one):
                raise ValueError(f"{one!r} is no requirement: write `tensorflow` or `pillow<10`")
            if one.strip().lower() in WORKER_NEEDS:
                raise ValueError(f"every worker needs {one}: it can't be forbidden as a whole")
        return self


class Reproducibility(Gate):
    """Rebuilt from its lock, it gives the same answers."""

    tolerance: float = Field(0.0, ge=0)
    """largest absolute difference of an output; 0: bitwise"""


class Dependents(Gate):
    """What the models and pipelines that use this one would answer, on recorded inputs."""

    rows: int = Field(500, ge=1)
    max_changed: Fraction = 0.05
    """share of rows whose answers may change"""
    tolerance: float = Field(1e-6, ge=0)
    """relative difference of a number that is no change"""


class Robustness(Gate):
    """Small changes of the input change little, and strange input is answered or refused."""

    noise: float = Field(0.01, ge=0)
    """in standard deviations of each numeric feature"""
    max_changed: Fraction = 0.05
    """share of rows whose label may flip (or whose number may move by a tenth of its spread)"""
    missing: bool = True
    """ask with missing values and extremes, too"""
    rows: int = Field(500, ge=1, le=100_000)
    dataset: str | None = None
    """rows to begin with; none: recorded requests, or else the golden rows"""


class Fairness(Gate):
    """Differences between groups, on their confidence bounds."""

    dataset: str
    target: str = "target"
    sensitive: tuple[str, ...] = Field(min_length=1)
    output: str = ""
    """of the model; empty: the label, or a score of at least a half"""
    positive: str | int | float | bool | None = None
    """the class that people want; none: the larger of two"""
    intersections: bool = True
    """look at the combinations of several sensitive columns, too"""
    metric: Literal[
        "demographic_parity_difference",
        "demographic_parity_ratio",
        "equalized_odds_difference",
        "equalized_odds_ratio",
        "equal_opportunity_difference",
    ] = "demographic_parity_difference"
    limit: float = Field(ge=0, le=1)
    """a difference is at most this, a ratio at least"""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    min_support: int = Field(100, ge=2)

    @model_validator(mode="after")
    def _says_something(self) -> Fairness:
        if len(set(self.sensitive)) < len(self.sensitive):
            raise ValueError("a sensitive column is named twice")
        if self.target in self.sensitive:
            raise ValueError(f"the target {self.target!r} can't be sensitive, too")
        return self


class Security(Gate):
    """Pickles, secrets, known vulnerabilities."""

    blocking: bool = False


class LlmSafety(Gate):
    """Prompts that must not be answered; for models of that kind."""

    dataset: str | None = None
    blocking: bool = False


class Infrastructure(Gate):
    """Boots in a real worker, loads, answers its golden requests."""

    cold_load: Duration | None = None
    memory: Size | None = None


class Approval(Gate):
    """People say yes; never who registered the version or asked for the rollout."""

    role: str = "approver"
    quorum: int = Field(1, ge=1)
    expires: Duration = 7 * 86400.0


class Run(Gate):
    """The team's own check: a program that exits with 0 and may write `evidence.json`."""

    uses: str = Field(min_length=1)
    """a file beside the document; once uploaded `NAME@sha256:DIGEST`"""
    args: tuple[str, ...] = ()
    dataset: str | None = None
    """given to the program as a file"""
    serve: bool = False
    """start a worker with the version, and tell the program its address"""
    environment: dict[str, str] = {}
    """further variables"""

    @model_validator(mode="after")
    def _own_variables(self) -> Run:
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} can't name a variable")
            if name.startswith(("MODELFLEET_", "LD_", "PYTHON")) or name == "PATH":
                raise ValueError(f"the variable {name} is not yours to set")
        return self


KINDS: dict[str, type[Gate]] = {
    "quality": Quality,
    "signature": Signature,
    "drift": Drift,
    "latency": Latency,
    "dependencies": Dependencies,
    "reproducibility": Reproducibility,
    "dependents": Dependents,
    "robustness": Robustness,
    "fairness": Fairness,
    "security": Security,
    "llm_safety": LlmSafety,
    "infrastructure": Infrastructure,
    "approval": Approval,
    "run": Run,
}
"""in the order in which they run unless a document says otherwise: a list keeps its own order"""


WORKER_NEEDS = frozenset({"numpy", "msgspec", "httptools"})
UNTOLD = ("signature", "dependencies", "infrastructure", "robustness", "security")
"""kinds that need no settings: what is checked if nobody says what"""
ENTRY_POINTS = "modelfleet.gates"
"""of plug-ins: NAME = MODULE:KIND; see `modelfleet.gates.kinds`"""


def kinds() -> dict[str, type[Gate]]:
    """Ours, and those that installed packages bring."""
    found = dict(KINDS)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name not in found:
            found[point.name] = point.load().spec
    return found


def parse(entry: object) -> tuple[str, Gate]:
    """One entry of a list of gates, `{kind: {...}}` or just the kind's name.

    Raises `pydantic.ValidationError` for what the kind can't be told, `ValueError` for no kind.
    """
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValueError("a gate is written as `- kind: {...}`, one kind an entry")
    [(kind, told)] = entry.items()
    known = KINDS if kind in KINDS else kinds()
    if kind not in known:
        raise ValueError(f"there is no gate {kind!r}; there are {', '.join(known)}")
    return str(kind), known[kind].model_validate(told or {})
