"""Decisions from measured times."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import pytest

from modelfleet.serving.tuning import decide
from modelfleet.views.tuning import bars, svg
from modelfleet_worker.measure import Measured, Point

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Version:
    model, version = "m", "1.0.0"


def measured(fixed_us: float, row_us: float, runtime: str = "torch") -> Measured:
    """A call that takes so long for itself and for each row."""
    points = tuple(
        Point(k, (fixed_us + row_us * k) * 1e-6, (fixed_us + row_us * k) * 1.2e-6, 10)
        for k in SIZES
    )
    return Measured(points, runtime, True)


def test_fixed_costs_want_batches_of_the_clients_that_queue():
    found = decide(Version(), measured(2000, 10), 50, 512)
    assert (found.place, found.rows, found.now) == ("lane", 256, "lane")
    assert found.gain > 1.3
    assert decide(Version(), measured(2000, 10), 50, 64).gain == 1.0  # 64 hold them all


def test_the_objective_limits_the_batch():
    loose = decide(Version(), measured(500, 400), 1e6, 512)
    assert (loose.rows, all(size.fits for size in loose.sizes)) == (64, True)
    tight = decide(Version(), measured(500, 400), 1, 512)
    assert "no choice keeps p95 within 1 ms" in tight.sentence


def test_small_python_goes_to_the_loop_where_few_ask():
    few = decide(Version(), measured(15, 1, "python"), 50, 1)
    assert (few.now, few.place, few.gain > 1.5) == ("lane", "inline", True)
    slow = decide(Version(), measured(400, 1, "python"), 50, 1)
    assert (slow.place, slow.gain) == ("lane", 1.0)


def test_what_cannot_be_batched_has_one_size():
    one = measured(500, 10)
    found = decide(Version(), Measured(one.points[:1], "torch", False), 50, 64)
    assert (len(found.sizes), found.rows) == (1, 1)


@pytest.mark.parametrize("clients", [1, 64])
def test_the_curve_is_drawn(clients):
    plain = msgspec.to_builtins(decide(Version(), measured(50, 5), 1, clients))
    root = ElementTree.fromstring(svg(plain))
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == len(SIZES)
    assert sum(line.endswith("<") for line in bars(plain)) <= 1
    assert len(bars(plain)) == len(SIZES) + 1
