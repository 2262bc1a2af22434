from __future__ import annotations

import math

from modelfleet.registry.tracking.types import Point
from modelfleet.views.experiments import Axis
from modelfleet.web.plots import parallel_chart, step_chart


def test_a_line_for_each_run() -> None:
    first = [Point("loss", 1.0 / (step + 1), 0, step) for step in range(5)]
    second = [Point("loss", 0.5, 0, 0), Point("loss", math.nan, 0, 1)]
    drawn = str(step_chart("loss", ["<b>one", "two", "none"], [first, second, []]))
    assert drawn.count("<polyline") == 1  # a single value is a dot
    assert drawn.count("<circle") == 2
    assert "&lt;b&gt;one" in drawn
    assert "<b>" not in drawn
    assert "nan" not in drawn.replace("last nan", "")


def test_nothing_was_logged() -> None:
    assert "Nothing" in str(step_chart("loss", ["one"], [[]]))


def test_runs_over_axes() -> None:
    axes = [
        Axis("depth", "parameter", (2.0, 4.0, None)),
        Axis("kind", "parameter", ("a", "b", "a")),
        Axis("auc", "metric", (0.5, 0.5, 0.9)),
    ]
    drawn = str(parallel_chart(["one", "two", "three"], axes, {0: 0}))
    assert drawn.count("<polyline") == 3
    assert 'class="line r1"' in drawn
    assert drawn.count("line faint") == 2
    assert "nan" not in drawn


def test_too_little_to_compare() -> None:
    axis = Axis("depth", "parameter", (2.0,))
    assert "At least two" in str(parallel_chart(["one"], [axis, axis], {}))
