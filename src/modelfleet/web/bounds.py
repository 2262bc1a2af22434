"""Charts of gates: bounds beside a limit, bars beside theirs, curves over curves."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from modelfleet.views.gates import Bar, Curve, Panel
from modelfleet.web.axes import Scale, round_ticks, short

WIDTH = 640
_ROW, _TOP, _BOTTOM, _LEFT, _RIGHT = 24, 18, 26, 190, 70
_COLOURS = {"pass": "good", "fail": "bad", "warn": "warn"}


def forest_chart(panel: Panel) -> Markup:
    """One line for each interval, and where it must (not) reach."""
    height = _TOP + _ROW * len(panel.intervals) + _BOTTOM
    known = [v for one in panel.intervals for v in (one.low, one.high)]
    known += [panel.limit] if panel.limit is not None else []
    ticks = round_ticks(min(known), max(known), 5)
    x = Scale(ticks[0], ticks[-1], _LEFT, WIDTH - _RIGHT)
    parts = [_axis(ticks, x, height)]
    if panel.limit is not None:
        parts.append(_limit(x(panel.limit), height, f"limit {short(panel.limit)}"))
    for number, one in enumerate(panel.intervals):
        y = _TOP + _ROW * (number + 0.5)
        css = _COLOURS.get(one.verdict, "ref")
        told = f"{one.label}: {short(one.value)}, from {short(one.low)} to {short(one.high)}"
        told += f", {one.rows} rows, {one.verdict}"
        low, high = x(one.low), x(one.high)
        parts.append(
            f"<g><title>{escape(told)}</title>"
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{escape(one.label[:30])}</text>"
            f'<line class="line {css}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<path class="line {css}" d="M{low:.1f} {y - 4:.1f}v8M{high:.1f} {y - 4:.1f}v8"/>'
            f'<circle class="dot {css}" cx="{x(one.value):.1f}" cy="{y:.1f}" r="3.5"/>'
            f'<text class="tick" x="{WIDTH - _RIGHT + 8}" y="{y + 4:.1f}">'
            f"{escape(short(one.value))}</text></g>"
        )
    return _figure(_described(panel), height, parts)


def bar_chart(bars: Sequence[Bar]) -> Markup:
    """Each bar in shares of its own limit; without limits, of the longest."""
    height = _TOP + _ROW * len(bars) + _BOTTOM
    longest = max((abs(one.value) for one in bars), default=1.0) or 1.0
    shares = [one.value / one.limit if one.limit else one.value / longest for one in bars]
    x = Scale(0.0, max([1.25, *(min(share, 4.0) for share in shares)]), _LEFT, WIDTH - _RIGHT)
    parts = []
    if any(one.limit for one in bars):
        parts.append(_limit(x(1.0), height, "limit"))
    for number, (one, share) in enumerate(zip(bars, shares, strict=True)):
        y = _TOP + _ROW * number + 5
        css = _COLOURS.get(one.verdict, "ref")
        limit = f" of {short(one.limit)}" if one.limit else ""
        width = x(min(max(share, 0.0), 4.0)) - _LEFT
        parts.append(
            f"<g><title>{escape(f'{one.label}: {short(one.value)}{limit}')}</title>"
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 11}" text-anchor="end">'
            f"{escape(one.label[:30])}</text>"
            f'<rect class="fill {css}" x="{_LEFT}" y="{y}" width="{width:.1f}" height="14"/>'
            f'<text class="tick" x="{WIDTH - _RIGHT + 8}" y="{y + 11}">'
            f"{escape(short(one.value))}</text></g>"
        )
    told = "; ".join(f"{one.label} {short(one.value)}" for one in bars)
    return _figure(f"Measured beside its limit: {told}.", height, parts)


def curve_chart(curves: Sequence[Curve], axes: tuple[str, str]) -> Markup:
    """Lines over one another, with their axes named."""
    height, left = 280, 52
    xs = [v for one in curves for v in one.x]
    ys = [v for one in curves for v in one.y]
    across, up = round_ticks(min(xs), max(xs), 6), round_ticks(min(ys), max(ys))
    x = Scale(across[0], across[-1], left, WIDTH - 14)
    y = Scale(up[0], up[-1], height - 40, 14)
    parts = [
        f'<line class="grid" x1="{left}" x2="{WIDTH - 14}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text class="tick" x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{short(v)}</text>'
        for v in up
    ]
    parts += [
        f'<text class="tick" x="{x(v):.1f}" y="{height - 24}" text-anchor="middle">'
        f"{short(v)}</text>"
        for v in across
    ]
    parts.append(
        f'<text class="unit" x="{WIDTH - 14}" y="{height - 6}" text-anchor="end">'
        f"{escape(axes[0])}</text>"
        f'<text class="unit" x="{left}" y="10">{escape(axes[1])}</text>'
    )
    for number, one in enumerate(curves):
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(one.x, one.y, strict=True))
        parts.append(
            f"<g><title>{escape(one.name)}</title>"
            f'<polyline class="line s{number % 3 + 1}" points="{points}"/></g>'
        )
    names = ", ".join(one.name for one in curves)
    return _figure(f"{axes[1]} over {axes[0]}: {names}.", height, parts)


def _axis(ticks: Sequence[float], x: Scale, height: int) -> str:
    return "".join(
        f'<line class="grid" x1="{x(v):.1f}" x2="{x(v):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>'
        f'<text class="tick" x="{x(v):.1f}" y="{height - 8}" text-anchor="middle">{short(v)}</text>'
        for v in ticks
    )


def _limit(at: float, height: int, name: str) -> str:
    return (
        f'<line class="limit ink" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 4}" '
        f'y2="{height - _BOTTOM}"/>'
        f'<text class="tick limit-name" x="{at:.1f}" y="{_TOP - 7}" text-anchor="middle">'
        f"{escape(name)}</text>"
    )


def _described(panel: Panel) -> str:
    told = "; ".join(
        f"{one.label} {short(one.value)} ({one.verdict})" for one in panel.intervals[:8]
    )
    limit = f", limit {short(panel.limit)}" if panel.limit is not None else ""
    return f"{panel.title}{limit}. {told}."


def _figure(label: str, height: int, parts: Sequence[str]) -> Markup:
    return Markup(  # every part is escaped where it is made
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
