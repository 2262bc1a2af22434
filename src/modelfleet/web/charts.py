"""Charts as SVG text, drawn on the server: they work without JavaScript and follow the theme.

Colours come from the style sheet by class (`s1`, `s2`, ...), never from style attributes. All text
is escaped. Histories have axes and a cursor: every point in time is a slot that shows its line and
its numbers while the pointer is over it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from modelfleet.core.clock import from_us
from modelfleet.views.histograms import Bin
from modelfleet.views.replay import Replay
from modelfleet.web.axes import Scale, finite, replay_date, round_ticks, short, time_labels

WIDTH, HEIGHT = 640, 232
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 26, 44


@dataclass(frozen=True)
class Series:
    name: str
    css: str
    """class that colours it"""
    values: Sequence[float]
    """one for each time; NaN leaves a gap"""


@dataclass(frozen=True)
class Limit:
    """A value that must (not) be crossed, drawn across."""

    name: str
    css: str
    value: float


@dataclass(frozen=True)
class Mark:
    """Something that happened, drawn as a line upwards."""

    at_us: int
    name: str


def line_chart(
    title: str,
    times_us: Sequence[int],
    series: Sequence[Series],
    *,
    unit: str = "",
    limits: Sequence[Limit] = (),
    marks: Sequence[Mark] = (),
    replay: Replay | None = None,
    step_us: int = 0,
    floor: float | None = 0.0,
) -> Markup:
    """Series over time. `step_us`: each point stands for the stretch that begins at its time."""
    times = [at + step_us // 2 for at in times_us]
    start = times_us[0] if times_us else 0
    end = max(times_us[-1] + step_us if times_us else 1, start + 1)
    known = finite([v for one in series for v in one.values]) + [one.value for one in limits]
    low = min([*known, floor] if floor is not None else known, default=0.0)
    ticks = round_ticks(low, max(known, default=1.0))
    x = Scale(start, end, _LEFT, WIDTH - _RIGHT)
    y = Scale(ticks[0], ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = [
        _grid(ticks, y, unit),
        _time_axis(start, end, x, replay),
        *(_limit(one, y) for one in limits),
        *(_mark(one, x) for one in marks if start <= one.at_us <= end),
        *(_line(one, times, x, y) for one in series),
        _slots(times, series, x, y, unit, replay),
    ]
    return _figure("chart", WIDTH, HEIGHT, _described(title, series, unit), parts)


def _described(title: str, series: Sequence[Series], unit: str) -> str:
    """What a screen reader says: the title, and each line's last and highest value."""
    told = []
    for one in series:
        known = finite(one.values)
        if known:
            last, top = short(known[-1]), short(max(known))
            told.append(f"{one.name}: last {last}{unit}, highest {top}{unit}")
    return f"{title}. {'; '.join(told) or 'no data'}."


def _figure(css: str, width: int, height: int, label: str, parts: Sequence[str]) -> Markup:
    return Markup(  # every part is escaped where it is made
        f'<svg class="{css}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _grid(ticks: Sequence[float], y: Scale, unit: str) -> str:
    lines = []
    for value in ticks:
        at = y(value)
        lines.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
            f"{escape(short(value))}</text>"
        )
    name = f'<text class="unit" x="{_LEFT - 6}" y="13" text-anchor="end">{escape(unit.strip())}'
    return "".join(lines) + name + "</text>"


def _time_axis(start: int, end: int, x: Scale, replay: Replay | None) -> str:
    found = []
    for label in time_labels(start, end, replay):
        at, base = x(label.at_us), HEIGHT - _BOTTOM
        if not _LEFT + 14 <= at <= WIDTH - _RIGHT - 14:
            continue
        found.append(
            f'<line class="tickmark" x1="{at:.1f}" x2="{at:.1f}" y1="{base}" y2="{base + 4}"/>'
            f'<text class="tick" x="{at:.1f}" y="{base + 17}" text-anchor="middle">'
            f"{label.clock}</text>"
        )
        if label.date:
            found.append(
                f'<text class="tick day" x="{at:.1f}" y="{base + 33}" text-anchor="middle">'
                f"{label.date}</text>"
            )
    return "".join(found)


def _limit(limit: Limit, y: Scale) -> str:
    at = y(limit.value)
    return (
        f'<line class="limit {limit.css}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" '
        f'y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="limit-name {limit.css}" x="{_LEFT + 4}" y="{at - 4:.1f}">'
        f"{escape(limit.name)}</text>"
    )


def _mark(mark: Mark, x: Scale) -> str:
    at = x(mark.at_us)
    return (
        f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}">'
        f"<title>{escape(mark.name)}</title></line>"
    )


def _line(series: Series, times: Sequence[int], x: Scale, y: Scale) -> str:
    """A polyline for every unbroken stretch; a lone point is a dot."""
    found, stretch = [], list[str]()
    for at, value in [*zip(times, series.values, strict=True), (0, math.nan)]:
        if math.isfinite(value):
            stretch.append(f"{x(at):.1f},{y(value):.1f}")
        elif len(stretch) == 1:
            cx, cy = stretch[0].split(",")
            found.append(f'<circle class="dot {series.css}" cx="{cx}" cy="{cy}" r="2.5"/>')
            stretch = []
        elif stretch:
            found.append(f'<polyline class="line {series.css}" points="{" ".join(stretch)}"/>')
            stretch = []
    return "".join(found)


def _slots(
    times: Sequence[int],
    series: Sequence[Series],
    x: Scale,
    y: Scale,
    unit: str,
    replay: Replay | None,
) -> str:
    if not times:
        return ""
    width = (WIDTH - _RIGHT - _LEFT) / len(times)
    found = []
    for number, at in enumerate(times):
        values = [
            f"{one.name} {short(one.values[number])}{unit}"
            for one in series
            if math.isfinite(one.values[number])
        ]
        day = replay_date(replay, at)
        clock = f"{from_us(at):%H:%M:%S}" + (f" ({day})" if day else "")
        told = " · ".join([clock, *(values or ["no data"])])
        here = x(at)
        found.append(
            f'<g class="slot"><rect x="{here - width / 2:.1f}" y="{_TOP}" width="{width:.1f}" '
            f'height="{HEIGHT - _BOTTOM - _TOP}"/>'
            f'<line x1="{here:.1f}" x2="{here:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
            f'<text x="{WIDTH - _RIGHT}" y="13" text-anchor="end">{escape(told)}</text></g>'
        )
    return f'<g class="slots">{"".join(found)}</g>'


def sparkline(
    values: Sequence[float | None], limit: float | None = None, css: str = "s1"
) -> Markup:
    """A small line without axes, for a table cell whose numbers stand beside it."""
    width, height = 96, 22
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known or (max(known) == 0 and limit is None):
        return Markup("")
    x = Scale(0, max(len(values) - 1, 1), 1, width - 1)
    y = Scale(0, max(known + ([limit] if limit is not None else [])) or 1, height - 2, 2)
    parts = []
    if limit is not None:
        at = y(limit)
        parts.append(f'<line class="limit bad" x1="0" x2="{width}" y1="{at:.0f}" y2="{at:.0f}"/>')
    points = " ".join(
        f"{x(k):.0f},{y(value):.0f}"
        for k, value in enumerate(values)
        if value is not None and math.isfinite(value)
    )
    if len(known) == 1:
        cx, cy = points.split(",")
        parts.append(f'<circle class="dot {css}" cx="{cx}" cy="{cy}" r="2"/>')
    else:
        parts.append(f'<polyline class="line {css}" points="{points}"/>')
    return Markup(
        f'<svg class="spark" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'aria-hidden="true">{"".join(parts)}</svg>'
    )


def split_bar(shares: Sequence[tuple[float, str]]) -> Markup:
    """Shares of a whole (0..1) with their classes, side by side. The words stand beside it."""
    found, at = [], 0.0
    for share, css in shares:
        place = f'x="{100 * at:.1f}" y="0" width="{100 * share:.1f}" height="6"'
        found.append(f'<rect class="fill {css}" {place}/>')
        at += share
    return Markup(
        '<svg class="split" viewBox="0 0 100 6" width="100" height="6" '
        f'preserveAspectRatio="none" aria-hidden="true">{"".join(found)}</svg>'
    )


def histogram_chart(title: str, bins: Sequence[Bin]) -> Markup:
    """The reference and a window side by side, shares of their rows."""
    width, height, left, top, bottom = 340, 150, 40, 10, 24
    ticks = round_ticks(0, max((max(b.reference, b.window) for b in bins), default=1.0), 3)
    y = Scale(0, ticks[-1], height - bottom, top)
    slot = (width - left - 4) / max(len(bins), 1)
    parts = [
        f'<line class="grid" x1="{left}" x2="{width - 4}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text class="tick" x="{left - 5}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.3g}</text>'
        for v in ticks
    ]
    for number, one in enumerate(bins):
        at, base = left + number * slot, y(0)
        told = f"{one.label}: reference {one.reference:.1%}, window {one.window:.1%}"
        bars = "".join(
            f'<rect class="fill {css}" x="{at + slot * offset:.1f}" y="{y(share):.1f}" '
            f'width="{slot * 0.4:.1f}" height="{base - y(share):.1f}"/>'
            for share, css, offset in ((one.reference, "ref", 0.08), (one.window, "s1", 0.52))
        )
        parts.append(
            f'<g class="bin"><rect class="hit" x="{at:.1f}" y="{top}" width="{slot:.1f}" '
            f'height="{base - top}"/>{bars}<title>{escape(told)}</title></g>'
        )
    parts += _bin_labels(bins, left, slot, height)
    worst = max(bins, key=lambda b: abs(b.window - b.reference), default=None)
    most = f" Most different: {worst.label}, " if worst else ""
    shares = f"{worst.reference:.1%} before, {worst.window:.1%} now." if worst else ""
    return _figure("histogram", width, height, f"{title}.{most}{shares}", parts)


def _bin_labels(bins: Sequence[Bin], left: float, slot: float, height: int) -> list[str]:
    """Under every bin if they fit, else under the first, the middle and the last."""
    count = len(bins)
    fits = all(len(one.label) * 6 < slot for one in bins)
    chosen = range(count) if fits else sorted({0, count - 1} if count else set())
    found = []
    for number in chosen:
        anchor, at = "middle", left + (number + 0.5) * slot
        if not fits:
            anchor = "start" if number == 0 else "end"
            at = left if number == 0 else left + count * slot
        label = escape(bins[number].label)
        place = f'x="{at:.1f}" y="{height - 8}" text-anchor="{anchor}"'
        found.append(f'<text class="tick" {place}>{label}</text>')
    return found
