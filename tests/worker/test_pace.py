"""How long a batch takes, learnt from batches."""

from __future__ import annotations

import numpy as np
import pytest

from modelfleet_worker.pace import Pace


def test_before_anything_ran() -> None:
    pace = Pace(0.01)
    assert pace.takes(64) == 0.01
    assert pace.takes(128, batches=2) == 0.02
    assert pace.fits(0.001) > 1_000_000


def test_a_line_is_found() -> None:
    pace, random = Pace(0.5), np.random.default_rng(0)
    for _ in range(200):
        rows = int(random.integers(1, 64))
        pace.learn(rows, 0.02 + 0.001 * rows + random.normal(0, 0.0005))
    assert pace.fixed == pytest.approx(0.02, rel=0.1)
    assert pace.each == pytest.approx(0.001, rel=0.1)
    assert pace.takes(100, batches=2) == pytest.approx(0.14, rel=0.1)
    assert pace.fits(0.05) == pytest.approx(30, abs=4)
    assert pace.fits(0.0) == 1


@pytest.mark.parametrize(("fixed", "each"), [(0.05, 0.0), (0.0, 0.002)])
def test_parts_are_never_negative(fixed: float, each: float) -> None:
    pace, random = Pace(0.001), np.random.default_rng(1)
    for _ in range(100):
        rows = int(random.integers(1, 9))
        pace.learn(rows, max(fixed + each * rows + random.normal(0, 0.001), 1e-6))
        assert pace.fixed >= -1e-12
        assert pace.each >= 0
    assert pace.takes(4) == pytest.approx(fixed + 4 * each, rel=0.25)


def test_equal_sizes_tell_nothing_about_rows() -> None:
    pace = Pace(0.001)
    for _ in range(300):
        pace.learn(1, 0.03)
    assert pace.each == pytest.approx(0, abs=1e-3)
    assert pace.takes(1) == pytest.approx(0.03, rel=0.01)


def test_a_change_is_followed() -> None:
    pace = Pace(0.001)
    for seconds in (0.01, 0.1):
        for k in range(200):
            pace.learn(1 + k % 4, seconds)
    assert pace.takes(2) == pytest.approx(0.1, rel=0.05)
