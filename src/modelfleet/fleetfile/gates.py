"""What each kind of gate can be told. How it checks stands in `modelfleet.gates.kinds`."""

from __future__ import annotations

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
    min_support: int = Field(100, ge=2)
    """rows below which nothing is concluded"""

    @model_validator(mode="after")
    def _something_to_show(self) -> Quality:
        if self.minimum is None and self.vs is None:
            raise ValueError("quality needs a minimum, or vs: champion")
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


class Latency(Gate):
    """Measured side by side with the champion, in turns, in workers of their own."""

    p95: Duration | None = None
    vs_champion: Ratio | None = None
    memory: Size | None = None
    memory_vs_champion: Ratio | None = None
    cold_load: Duration | None = None
    rows: int = Field(1, ge=1)
    """rows in a request"""
    seconds: Duration = 5.0
    """of measuring, for each"""


class Dependencies(Gate):
    """Whether the lock resolves, agrees with itself and holds nothing that is forbidden."""

    forbidden: tuple[str, ...] = ()
    """requirements, such as `numpy<2` or `tensorflow`"""


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
    rows: int = Field(500, ge=1)


class Fairness(Gate):
    """Differences between groups, on their confidence bounds."""

    dataset: str
    target: str = "target"
    sensitive: tuple[str, ...] = Field(min_length=1)
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

    uses: str
    """a file beside the document"""
    args: tuple[str, ...] = ()
    name: str = ""
    """of the gate; the file's name if it is empty"""


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


def parse(entry: object) -> tuple[str, Gate]:
    """One entry of a list of gates, `{kind: {...}}` or just the kind's name.

    Raises `pydantic.ValidationError` for what the kind can't be told, `ValueError` for no kind.
    """
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError("a gate is written as `- kind: {...}`, one kind an entry")
    [(kind, told)] = entry.items()
    if kind not in KINDS:
        raise ValueError(f"there is no gate {kind!r}; there are {', '.join(KINDS)}")
    return str(kind), KINDS[kind].model_validate(told or {})
