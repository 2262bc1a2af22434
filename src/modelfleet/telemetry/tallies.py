"""What some records of one version add to a state. Nothing is kept here."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry import latency
from modelfleet.telemetry.batches import Batch, Places
from modelfleet.telemetry.layouts import VersionLayout
from modelfleet.telemetry.states import State

Scores = NDArray[np.float64]
_UNREADABLE = (ValueError, IndexError, TypeError, msgspec.DecodeError)


def operations(batch: Batch, places: Places, sizes: tuple[int, ...]) -> State:
    """Requests, codes and latency, without rows and bins."""
    state = State.empty(sizes)
    state.requests = len(places)
    status = batch.status[places]
    answered = status == 200
    if answered.all():
        state.codes = {200: len(places)} if len(places) else {}
    else:
        state.codes = dict(Counter(status.tolist()))
        state.errors = int((status >= 500).sum())
    taken = latency.bucket(batch.latency_ns[places[answered]])
    state.latency[:] = np.bincount(taken, minlength=len(state.latency))
    return state


def everything(batch: Batch, places: Places, layout: VersionLayout) -> tuple[State, Scores, int]:
    """The whole state, the score of each record's first row (NaN if it has none), and how many
    answers didn't fit the signature: they count as requests, without rows."""
    state = operations(batch, places, layout.sizes)
    scores = np.full(len(places), np.nan)
    answered = np.flatnonzero(batch.status[places] == 200)
    unreadable = 0
    try:
        scores[answered] = _count_rows(state, layout, batch, places[answered])
    except _UNREADABLE:
        state = operations(batch, places, layout.sizes)
        for place in answered.tolist():
            single = State.empty(layout.sizes)
            try:
                scores[place] = _count_rows(single, layout, batch, places[[place]])[0]
            except _UNREADABLE:
                unreadable += 1
                continue
            state.merge(single)
    return state, scores, unreadable


def _count_rows(state: State, layout: VersionLayout, batch: Batch, places: Places) -> Scores:
    """Count features and scores of all rows; returns the score of each record's first row."""
    rows = batch.rows[places]
    total = state.rows = int(rows.sum())
    at = places.tolist()
    if layout.binner is not None and at:
        columns = layout.columns([batch.inputs[place] for place in at], total)
        state.feature_counts[:] = layout.binner.count(columns)
    if layout.score is None or not at:
        return np.full(len(at), np.nan)
    scores = layout.score.read([batch.outputs[place] for place in at], total)
    add_scores(state, scores)
    if layout.profile is not None and layout.profile.score is not None:
        state.score[:] = layout.profile.score.count(scores)
    first: Scores = scores[np.cumsum(rows) - rows]
    return first


def add_scores(state: State, scores: Scores) -> None:
    """Their sums, without bins."""
    finite = scores[np.isfinite(scores)]
    state.scored = len(finite)
    state.score_sum = float(finite.sum())
    state.score_squares = float(finite @ finite)
