"""Charts are sound SVG, to scale, and escape what they are told."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet.views.histograms import Bin
from modelfleet.views.replay import Replay
from modelfleet.web.axes import round_ticks, short, time_labels
from modelfleet.web.charts import (
    HEIGHT,
    WIDTH,
    Limit,
    Mark,
    Series,
    histogram_chart,
    line_chart,
    sparkline,
    split_bar,
)

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
values = st.lists(
    st.one_of(st.floats(-1e12, 1e12), st.sampled_from([math.nan, math.inf, 0.0])), max_size=30
)


@given(values, st.text(max_size=20))
def test_any_numbers_and_names_give_sound_charts(numbers, name):
    times = [START + k * SECOND for k in range(len(numbers))]
    chart = line_chart(
        f"{name}<", times, [Series(name, "s1", numbers)], unit="<", step_us=SECOND,
        limits=[Limit(f"{name}&", "bad", 1.0)], marks=[Mark(START, f'{name}"')],
    )  # fmt: skip
    text = "".join(c if c.isprintable() else "?" for c in str(chart))
    root = ET.fromstring(text)
    for line in root.iter("polyline"):
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert -0.1 <= y <= HEIGHT + 0.1
    assert "style" not in {key for one in root.iter() for key in one.attrib}


def test_a_gap_breaks_the_line():
    numbers = [1.0, 2.0, math.nan, 3.0, 4.0, math.nan, 5.0]
    times = [START + k * SECOND for k in range(len(numbers))]
    chart = ET.fromstring(str(line_chart("t", times, [Series("a", "s1", numbers)])))
    assert len(list(chart.iter("polyline"))) == 2
    assert len(list(chart.iter("circle"))) == 1
    assert len([g for g in chart.iter("g") if g.get("class") == "slot"]) == len(numbers)


def test_a_screen_reader_hears_the_numbers():
    chart = line_chart("Speed", [START, START + SECOND], [Series("p50", "s1", [4, 2])], unit=" ms")
    assert 'aria-label="Speed. p50: last 2 ms, highest 4 ms."' in chart


def test_days_of_a_replay_stand_below_the_clock():
    replay = Replay(START, date(2013, 7, 1), 1.0)
    labels = time_labels(START, START + 60 * SECOND, replay)
    assert [one.date for one in labels][:2] == ["1 Jul", "11 Jul"]
    assert {one.date for one in time_labels(START - 60 * SECOND, START - SECOND, replay)} == {""}


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_ticks_enclose_what_they_scale(a, b):
    low, high = min(a, b), max(a, b)
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * max(abs(low), abs(high), 1e-300)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack


def test_short_numbers():
    told = [short(v) for v in (0, 0.05, 0.0001, 12, 12_345, 2e6, 3e9)]
    assert told == ["0", "0.05", "1e-04", "12", "12.35k", "2M", "3G"]


def test_a_histogram_shows_both_sides():
    bins = [Bin("a<b", 0.75, 0.25), Bin("c", 0.25, 0.75)]
    chart = ET.fromstring(str(histogram_chart("x", bins)))
    bars = [r for r in chart.iter("rect") if "fill" in r.get("class", "")]
    heights = [float(bar.get("height", "0")) for bar in bars]
    assert heights == pytest.approx([116.0, 38.7, 38.7, 116.0])
    assert chart.get("aria-label") == "x. Most different: a<b, 75.0% before, 25.0% now."
    assert "rect" not in histogram_chart("none", [])


def test_small_drawings():
    assert sparkline([]) == sparkline([0, 0]) == sparkline([None]) == ""
    assert "polyline" in sparkline([0, 3, None, 2])
    assert "limit" in sparkline([0.0], 0.1)
    widths = [r.get("width") for r in ET.fromstring(str(split_bar([(0.9, "s1"), (0.1, "s2")])))]
    assert widths == ["90.0", "10.0"]
