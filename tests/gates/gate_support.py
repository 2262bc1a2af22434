"""A case without processes: what the models answer and what is around is given by the test."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from modelfleet.core.errors import NotFound
from modelfleet.gates.kinds.base import Case, Consumer, Dataset, FeatureCounts, Replayed, Unknown
from modelfleet.registry.signature import BundleInfo, Score, Signature, Tensor
from modelfleet.serving.lab import Answers, Deadline, Lab, Subject
from modelfleet.serving.progress import nobody

CLASSIFIER = BundleInfo(
    1,
    "sklearn",
    "model.joblib",
    Signature(
        [Tensor("x", "FP64", [-1, 2], ["a", "b"])],
        [Tensor("label", "INT64", [-1]), Tensor("probability", "FP64", [-1, 2])],
    ),
    score=Score("probability", 1),
)
REGRESSOR = replace(
    CLASSIFIER,
    signature=Signature(
        [Tensor("x", "FP64", [-1, 2], ["a", "b"])], [Tensor("prediction", "FP64", [-1])]
    ),
    score=Score("prediction"),
)


def subject(version: str = "1.1.0", info: BundleInfo = CLASSIFIER, **given: Any) -> Subject:
    known = {"digest": "b" * 64, "folder": Path("/nowhere"), "python": Path("/nowhere/python")}
    return Subject("churn", version, info=info, **{**known, **given})


@dataclass
class FakeLab:
    """answers: outputs by version, or a refusal."""

    answers: dict[str, Mapping[str, Any] | str]
    worker_package: Path = Path("/nowhere")
    owner: None = None

    def score(self, one: Subject, tables: Sequence[Any], deadline: Deadline) -> list[Answers]:
        found = self.answers[one.version]
        if isinstance(found, str):
            return [Answers({}, 0.0, found) for _ in tables]
        return [Answers(found, 0.01) for _ in tables]

    def confined(self, argv: Sequence[str]) -> Sequence[str]:
        return argv


@dataclass
class FakeAround:
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    known_consumers: Sequence[Consumer] = ()
    features: Sequence[FeatureCounts] = ()
    replayed: Sequence[Replayed] = ()
    requests: dict[str, Any] | None = None

    def dataset(self, reference: str) -> Dataset:
        if reference not in self.tables:
            raise NotFound(f"There is no data set {reference}.")
        return Dataset(reference, "d" * 64, self.tables[reference], Path("/nowhere/data.csv"))

    def file(self, reference: str) -> Path:
        return self.files[reference]

    def consumers(self) -> Sequence[Consumer]:
        return self.known_consumers

    def recorded(self, rows: int) -> Any:
        if self.requests is None:
            raise Unknown("No requests are recorded yet.")
        return self.requests

    def recent(self, seconds: float) -> Sequence[FeatureCounts]:
        return self.features

    def replay(self, rows: int) -> Sequence[Replayed]:
        return self.replayed

    def python(self, report: Any) -> Path:
        return Path(sys.executable)

    def rebuilt(self, report: Any) -> Any:
        raise Unknown("Nothing is rebuilt here.")

    def variables(self) -> Mapping[str, str]:
        return {"MODELFLEET_URL": "http://there"}


def case(
    lab: Any,
    around: Any,
    folder: Path = Path("/nowhere"),
    *,
    info: BundleInfo = CLASSIFIER,
    champion: Subject | None = None,
    seconds: float = 60.0,
    **given: Any,
) -> Case:
    return Case(
        subject(info=info, **given),
        champion,
        "churn serves no other version.",
        around,
        cast(Lab, lab),
        Deadline.after(seconds),
        folder,
        folder,
        nobody,
    )


def outputs(score: Any) -> dict[str, Any]:
    score = np.asarray(score, dtype=np.float64)
    both = np.stack([1 - score, score], axis=1)
    return {"label": (score >= 0.5).astype(np.int64), "probability": both}
