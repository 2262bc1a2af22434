from __future__ import annotations

import pytest

from modelfleet.core.errors import InvalidInput
from modelfleet.registry import ranges, semver


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("1", ["1.0.0", "1.9.9"], ["0.9.9", "2.0.0", "1.0.0-rc.1"]),
        ("1.2", ["1.2.0", "1.2.9"], ["1.1.9", "1.3.0", "1.20.0"]),
        ("1.2.x", ["1.2.0", "1.2.9"], ["1.3.0"]),
        ("^1.2", ["1.2.0", "1.9.0"], ["1.1.9", "2.0.0", "2.0.0-rc.1"]),
        ("^1.2.3", ["1.2.3", "1.9.0"], ["1.2.2", "2.0.0"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "1.0.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.3.0", "1.2.2"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        (">=1,<3", ["1.0.0", "2.9.9"], ["0.9.9", "3.0.0", "3.0.0-rc.1"]),
        (">1.2", ["1.3.0"], ["1.2.0", "1.2.9"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        ("<=1.2", ["1.2.9", "0.1.0"], ["1.3.0"]),
        ("<=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("=1.2.3", ["1.2.3"], ["1.2.4"]),
        (">=1.0.0-rc.1", ["1.0.0-rc.2", "1.0.0"], ["1.0.0-beta"]),
    ],
)
def test_what_a_range_holds(text: str, inside: list[str], outside: list[str]) -> None:
    bounds = ranges.parse(text)
    assert [v for v in inside + outside if bounds.holds(semver.parse(v))] == inside


@pytest.mark.parametrize("text", ["", "a", "1.2.3.4", "^", ">=", "1,,2", "1 2", "x" * 300, "-1"])
def test_ranges_that_are_not(text: str) -> None:
    with pytest.raises(InvalidInput):
        ranges.parse(text)
