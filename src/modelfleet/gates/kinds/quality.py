"""How good the version is on a data set, alone and beside the champion, on the same rows.

The gate passes when every bound is on the right side: all claims must hold, so none is corrected.
It fails when any is proven wrong, and there are as many chances for that as slices: Holm corrects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelfleet.core.errors import InvalidInput
from modelfleet.fleetfile.gates import LOSSES, Quality
from modelfleet.gates import answers, statistics
from modelfleet.gates.kinds.base import Case, Kind, bound, inconclusive, nothing_beside, plain, run
from modelfleet.gates.statistics import Bounds, Estimate, Undefined
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.serving.lab import Subject, Table

_MOST_ROWS = 200_000
_MOST_SLICES = 200
_REGRESSION = frozenset({"rmse", "mae", "mape", "r2"})
_LABELS = frozenset({"accuracy", "balanced_accuracy", "f1", "precision", "recall"})
_SHOWN_ROWS = 10
_CURVE = 60
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Claim:
    """One thing that must hold: larger than `limit` is fine (losses are turned around)."""

    where: str
    what: str
    bounds: Bounds | None
    limit: float
    rows: int
    sign: int
    note: str = ""

    @property
    def proof(self) -> float:
        """p-value of the claim that it is fine."""
        return self.bounds.proof_above(self.limit) if self.bounds else 1.0

    @property
    def harm(self) -> float:
        return self.bounds.proof_below(self.limit) if self.bounds else 1.0


class Measure:
    """The metric of one model on any of the rows."""

    def __init__(self, spec: Quality, target: NDArray[Any], subject: Subject, out: Table) -> None:
        self._spec = spec
        metric = spec.metric
        self.found: NDArray[Any]
        self.score: NDArray[np.float64] | None = None
        self._truth = None
        if metric in _REGRESSION:
            self.truth: NDArray[Any] = answers.numbers(target, f"The target {spec.target!r}")
            self.found = answers.number(out, subject.info, spec.output)
            return
        truth = answers.truth_of(target, subject.info.options.get("classes"))
        self._truth = truth
        self.truth = truth.codes
        many = len(truth.classes) > 2
        averaged = metric in ("f1", "precision", "recall") and many and spec.positive is None
        self._positive = (
            None
            if averaged or (many and metric == "log_loss")
            else (
                truth.positive(spec.positive)
                if metric not in ("accuracy", "balanced_accuracy")
                else None
            )
        )
        if metric in _LABELS:
            self.found = answers.labels(out, subject.info, spec.output, truth)
        elif many and metric == "log_loss":
            self.found = answers.probabilities(out, spec.output, truth)
        else:
            assert self._positive is not None
            self.found = self.score = answers.scores(
                out, subject.info, spec.output, truth, self._positive
            )

    def on(self, mask: Mask) -> Estimate:
        """Raises `Undefined`."""
        metric, truth, found = self._spec.metric, self.truth[mask], self.found[mask]
        if metric in _REGRESSION:
            return statistics.regression(metric, truth, found)
        assert self._truth is not None
        if metric in _LABELS:
            count = len(self._truth.classes)
            return statistics.classification(metric, truth, found, count, self._positive)
        if found.ndim == 2:
            return statistics.likelihood(truth, found)
        return statistics.scored(metric, truth == self._positive, found)

    def curve(self) -> tuple[list[float], list[float]] | None:
        """The receiver operating characteristic of scores."""
        if self.score is None:
            return None
        good = self.truth == self._positive
        cuts = np.unique(np.quantile(self.score, np.linspace(1, 0, _CURVE)))[::-1]
        x = [0.0, *(float((self.score[~good] >= cut).mean()) for cut in cuts), 1.0]
        y = [0.0, *(float((self.score[good] >= cut).mean()) for cut in cuts), 1.0]
        return x, y

    def wrong(self) -> NDArray[np.float64]:
        """How wrong each row is; only for showing some."""
        if self._spec.metric in _REGRESSION:
            found = np.abs(self.found - self.truth)
        elif self.score is not None:
            found = np.abs(self.score - (self.truth == self._positive))
        elif self.found.ndim == 2:
            found = 1 - self.found[np.arange(len(self.truth)), self.truth]
        else:
            found = self.found != self.truth
        return np.asarray(found, dtype=np.float64)

    def shown(self, row: int) -> object:
        if self.found.ndim == 2:
            return plain(self.found[row])
        if self._truth is not None and self.score is None:
            code = int(self.found[row])
            return plain(self._truth.classes[code]) if code >= 0 else "another"
        return plain(self.found[row])


def check(spec: Quality, case: Case) -> GateRun:
    if spec.vs and case.champion is None and spec.minimum is None:
        return nothing_beside("quality", case)
    case.say("reading the data")
    data = case.around.dataset(spec.dataset)
    table, notes = _rows(data.table, spec)
    target = answers.column(table, spec.target, "the target")
    for name in spec.slices:
        answers.column(table, name, "a slice")
    if len(target) < spec.min_support:
        return inconclusive(
            "quality",
            f"{data.name} has {len(target)} rows with a target; {spec.min_support} are needed.",
            facts={"dataset": data.name, "digest": data.digest, "rows": len(target)},
        )
    champion = case.champion if spec.vs else None
    measures = []
    for subject in (case.candidate, champion):
        if subject is not None:
            case.say(f"scoring with {subject.name}")
            [told] = case.lab.score(subject, [table], case.deadline)
            if told.error:
                raise InvalidInput(f"{subject.name} can't score {data.name}: {told.error}")
            measures.append(Measure(spec, target, subject, told.outputs))
    case.say("judging")
    claims = list(_claims(spec, measures, table))
    evidence = _evidence(spec, case, claims, measures, table)
    evidence["facts"] = {"dataset": data.name, "digest": data.digest, "rows": len(target)} | (
        {"champion": champion.name} if champion else {}
    )
    if spec.vs and champion is None:
        notes.append(f"It was not compared with a champion: {case.no_champion}")
    evidence["notes"] = [*notes, *evidence.get("notes", ())]
    return _verdict(spec, claims, evidence, compared=champion is not None)


def _rows(table: Table, spec: Quality) -> tuple[Table, list[str]]:
    """The rows with a target; a fixed sample of very many."""
    target = answers.column(table, spec.target, "the target")
    known = np.array([one is not None and one == one for one in target.tolist()], dtype=bool)
    keep = np.flatnonzero(known)
    notes = []
    if len(keep) < len(target):
        notes.append(f"{len(target) - len(keep)} rows have no target and were left out.")
    if len(keep) > _MOST_ROWS:
        keep = np.sort(np.random.default_rng(0).choice(keep, _MOST_ROWS, replace=False))
        notes.append(f"A fixed sample of {_MOST_ROWS} rows was used.")
    return {name: values[keep] for name, values in table.items()}, notes


def _claims(spec: Quality, measures: list[Measure], table: Table) -> Iterator[Claim]:
    rows = len(measures[0].truth)
    yield from _of("all rows", spec, measures, np.ones(rows, dtype=bool))
    for name in spec.slices:
        values = np.array(answers.texts(table[name]), dtype=object)
        found, counts = np.unique(values.astype(str), return_counts=True)
        if len(found) > _MOST_SLICES:
            raise InvalidInput(
                f"The column {name!r} has {len(found)} values: too many slices.",
                hint=f"At most {_MOST_SLICES}; make a column of groups.",
            )
        for value, count in zip(found.tolist(), counts.tolist(), strict=True):
            if count < spec.min_support:
                yield Claim(f"{name}={value}", "", None, 0.0, count, 1, "too few rows to count")
            else:
                yield from _of(f"{name}={value}", spec, measures, values.astype(str) == value)


def _of(where: str, spec: Quality, measures: list[Measure], mask: Mask) -> Iterator[Claim]:
    sign = -1 if spec.metric in LOSSES else 1
    rows = int(mask.sum())
    try:
        mine = _turned(measures[0].on(mask), sign)
        if spec.minimum is not None:
            found = statistics.bounds(mine, spec.confidence)
            yield Claim(where, "minimum", found, sign * spec.minimum, rows, sign)
        if len(measures) > 1:
            theirs = _turned(measures[1].on(mask), sign)
            apart = statistics.difference(mine, theirs, spec.confidence)
            yield Claim(where, "champion", apart, -spec.noninferior, rows, sign)
    except Undefined as error:
        yield Claim(where, "undefined", None, 0.0, rows, sign, str(error))


def _turned(one: Estimate, sign: int) -> Estimate:
    if sign > 0:
        return one
    return Estimate(-one.value, -one.influence, one.lumpy)


def _evidence(
    spec: Quality, case: Case, claims: list[Claim], measures: list[Measure], table: Table
) -> dict[str, Any]:
    alpha = 1 - spec.confidence
    harms = statistics.holm([claim.harm for claim in claims])
    groups: dict[str, list[dict[str, object]]] = {"champion": [], "minimum": []}
    small = []
    for claim, harm in zip(claims, harms, strict=True):
        if claim.bounds is None:
            small.append(f"{claim.where}: {claim.rows} rows, {claim.note}.")
            continue
        b, sign = claim.bounds, claim.sign
        # Shown as the metric itself, or as how much worse (positive) a champion's rival is.
        low, high = sorted((sign * b.low, sign * b.high))
        verdict = "fail" if harm < alpha else "pass" if claim.proof <= alpha else "inconclusive"
        label = claim.where
        groups[claim.what].append(bound(label, sign * b.value, low, high, claim.rows, verdict))
    sign = claims[0].sign
    found: dict[str, Any] = {"metric": spec.metric, "confidence": spec.confidence, "notes": small}
    found["panels"] = [
        {
            "title": title,
            "bounds": sorted(groups[what], key=lambda one: one["label"] != "all rows"),
            "limit": limit,
            "better": "less" if sign < 0 else "more",
        }
        for what, title, limit in (
            ("champion", f"{spec.metric} less that of the champion", -sign * spec.noninferior),
            ("minimum", spec.metric, spec.minimum),
        )
        if groups[what]
    ]
    names = [case.candidate.name, case.champion.name if case.champion else ""]
    curves = [(name, one.curve()) for name, one in zip(names, measures, strict=False)]
    found["curves"] = [
        {"name": name, "x": [plain(v) for v in xy[0]], "y": [plain(v) for v in xy[1]]}
        for name, xy in curves
        if xy is not None
    ]
    found["axes"] = ["false alarms", "found"]
    worse = measures[0].wrong() - (measures[1].wrong() if len(measures) > 1 else 0.0)
    order = [row for row in np.argsort(-worse, kind="stable")[:_SHOWN_ROWS] if worse[row] > 0]
    found["rows"] = [
        {
            "row": int(row),
            "target": plain(table[spec.target][row]),
            "candidate": measures[0].shown(row),
        }
        | ({"champion": measures[1].shown(row)} if len(measures) > 1 else {})
        | {name: plain(table[name][row]) for name in spec.slices}
        for row in order
    ]
    return found


def _verdict(
    spec: Quality, claims: list[Claim], evidence: dict[str, Any], *, compared: bool
) -> GateRun:
    alpha = 1 - spec.confidence
    counted = [claim for claim in claims if claim.note != "too few rows to count"]
    harms = statistics.holm([claim.harm for claim in counted])
    broken = [c for c, harm in zip(counted, harms, strict=True) if harm < alpha]
    if broken:
        worst = max(
            broken, key=lambda claim: claim.limit - (claim.bounds.value if claim.bounds else 0)
        )
        more = f" ({len(broken)} of {len(counted)} checks failed)" if len(broken) > 1 else ""
        return run("quality", Verdict.FAIL, f"{_told(spec, worst)}{more}.", evidence)
    open_ones = [claim for claim in counted if claim.proof > alpha]
    overall = [claim for claim in open_ones if claim.where == "all rows"]
    if overall:
        return run("quality", Verdict.INCONCLUSIVE, f"{_told(spec, overall[0])}.", evidence)
    if open_ones and spec.slices_need == "proof":
        names = ", ".join(sorted({claim.where for claim in open_ones})[:5])
        sentence = f"All rows are fine, but these slices can't be proven so: {names}."
        return run("quality", Verdict.INCONCLUSIVE, sentence, evidence)
    if spec.vs and not compared:
        sentence = f"{_told(spec, counted[0])}; there was no champion to compare with."
        return run("quality", Verdict.INCONCLUSIVE, sentence, evidence)
    told = _told(spec, counted[0])
    if len(counted) > 1:
        told += f"; {len(counted) - len(open_ones)} of {len(counted)} checks are proven"
    if open_ones:
        return run(
            "quality", Verdict.WARN, f"{told}; {len(open_ones)} slices are undecided.", evidence
        )
    return run("quality", Verdict.PASS, f"{told}.", evidence)


def _told(spec: Quality, claim: Claim) -> str:
    if claim.bounds is None:
        return f"Over {claim.where}: {claim.note}"
    b, sign = claim.bounds, claim.sign
    low, high = sorted((sign * b.low, sign * b.high))
    span = f"{sign * b.value:.4g} (from {low:.4g} to {high:.4g})"
    over = f"Over {claim.where} ({claim.rows})"
    if claim.what == "champion":
        allowed = f"{-sign * spec.noninferior:+.4g} is allowed"
        return f"{over} {spec.metric} differs from the champion's by {span}; {allowed}"
    return f"{over} {spec.metric} is {span}; the limit is {spec.minimum:.4g}"


KIND = Kind("quality", Quality, check, frozenset({"champion", "dataset"}), title="Quality")
