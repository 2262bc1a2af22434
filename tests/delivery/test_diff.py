"""The three-way difference: what applying a plan leaves has nothing to do."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modelfleet.delivery.diff import DRIFT, FILE, Flat, compare, flat

PATHS = [("w", "a"), ("w", "b"), ("w", "c"), ("k", "a"), ("k", "b")]
WATCHED = (("w",),)
DEFAULTS: Flat = {("w", "a"): 0, ("w", "b"): None}
flats = st.dictionaries(st.sampled_from(PATHS), st.integers(0, 3), max_size=5)
seen = st.dictionaries(st.sampled_from(PATHS[:3]), st.integers(0, 3), max_size=3)


def carried_out(observed: Flat, changes: Any) -> Flat:
    found = dict(observed)
    for change in changes:
        if change.recorded_only:
            continue
        path = tuple(change.path.split("."))
        if change.after is None:
            found.pop(path, None)
        else:
            found[path] = change.after
    return found


@given(flats, st.none() | flats, seen)
def test_a_plan_that_was_carried_out_leaves_nothing(
    file: Flat, last: Flat | None, observed: Flat
) -> None:
    first = compare(file, last, observed, WATCHED, DEFAULTS)
    after = carried_out(observed, first.changes)
    second = compare(file, file, after, WATCHED, DEFAULTS)
    assert second.changes == ()
    assert not second.unrecorded


@given(flats, st.none() | flats, seen)
def test_what_a_file_never_named_is_not_touched(
    file: Flat, last: Flat | None, observed: Flat
) -> None:
    changed = {tuple(c.path.split(".")) for c in compare(file, last, observed, WATCHED, {}).changes}
    assert changed <= {*file, *(last or {})}


@given(flats, seen)
def test_drift_is_what_the_file_did_not_change(file: Flat, observed: Flat) -> None:
    found = compare(file, file, observed, WATCHED, DEFAULTS)
    assert {c.cause for c in found.changes} <= {DRIFT}
    fresh = compare(file, None, observed, WATCHED, DEFAULTS)
    assert {c.cause for c in fresh.changes} <= {FILE}


def test_documents_are_taken_apart() -> None:
    document = {"a": {"b": 1, "c": []}, "d": [{"e": 1}, {"e": 2}], "f": [1, 2]}
    assert flat(document) == {
        ("a", "b"): 1,
        ("a", "c"): [],
        ("d", "[0]", "e"): 1,
        ("d", "[1]", "e"): 2,
        ("f",): [1, 2],
    }
