from __future__ import annotations

import math

import pytest

from modelfleet.core.errors import InvalidInput
from modelfleet.registry.tracking import limits
from modelfleet.registry.tracking.types import Point
from modelfleet.registry.tracking.words import random_name


@pytest.mark.parametrize("name", ["a", "a b", "a/b", "a.b-c_d:e", "größe", "a..b"])
def test_names_that_are_fine(name: str) -> None:
    limits.check_name(name, "key")


@pytest.mark.parametrize(
    "name", ["a@b", "a\n", "", "..a", ".", "..", "../a", "/a", "a/", "a//b", "a/../b", "a'b", "a%b"]
)
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(InvalidInput, match="for parameter 'key' supplied: Names may"):
        limits.check_name(name, "key")


def test_long_values_are_cut_and_long_keys_refused() -> None:
    assert limits.parameter("k", "x" * 7000)[1] == "x" * 6000
    assert limits.tag("k", "x" * 9000)[1] == "x" * 8000
    with pytest.raises(InvalidInput, match="'Param key' exceeds the maximum length of 250"):
        limits.parameter("k" * 251, "")
    with pytest.raises(InvalidInput, match="'value' exceeds the maximum length of 20000"):
        limits.experiment_tag("k", "x" * 20_001)


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (Point("m", 1.0, -1), "Timestamp must be a nonnegative"),
        (Point("m", 1.0, 2**63), "Timestamp must be a nonnegative"),
        (Point("m", 1.0, 0, 2**63), "Step must be a valid long"),
        (Point("m" * 251, 1.0, 0), "'Metric name' exceeds the maximum length of 250"),
        (Point("m?", 1.0, 0), r"parameter 'metrics\[3\].name'"),
    ],
)
def test_points_that_are_refused(one: Point, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        limits.point(one, "metrics[3].")


def test_what_no_database_holds_is_stored_as_something_else() -> None:
    assert limits.stored(math.nan) == (True, 0.0)
    assert limits.stored(math.inf) == (False, 1.7976931348623157e308)
    assert limits.stored(-math.inf) == (False, -1.7976931348623157e308)
    assert limits.stored(-1.5) == (False, -1.5)


def test_batches_are_limited() -> None:
    limits.batch([0] * 900, [0] * 100, [])
    for counts in ((1001, 0, 0), (0, 101, 0), (0, 0, 101), (950, 51, 0)):
        with pytest.raises(InvalidInput, match="A batch logging request can contain at most"):
            limits.batch(*([0] * n for n in counts))


def test_random_names_have_three_parts() -> None:
    found = {random_name() for _ in range(50)}
    assert len(found) > 40
    assert all(name.count("-") == 2 and name.rpartition("-")[2].isdigit() for name in found)
