"""Charts of training: a metric over its steps, and runs as lines over parallel axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from modelfleet.registry.tracking.types import Point
from modelfleet.views.experiments import Axis
from modelfleet.web.axes import Scale, finite, round_ticks, short

WIDTH, HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 20, 36
COLOURS = 6


def css_of(place: int) -> str:
    """The class of the colour of the run at this place."""
    return f"r{place % COLOURS + 1}"


def step_chart(title: str, names: Sequence[str], histories: Sequence[Sequence[Point]]) -> Markup:
    """One line for each run over the steps; a single value is a dot."""
    values = finite([point.value for one in histories for point in one])
    steps = [point.step for one in histories for point in one]
    if not values:
        return Markup('<p class="empty">Nothing was logged.</p>')
    ticks = round_ticks(min(values), max(values))
    x = Scale(min(steps), max(max(steps), min(steps) + 1), _LEFT, WIDTH - _RIGHT)
    y = Scale(ticks[0], ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = []
    for value in ticks:
        at = y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
            f"{escape(short(value))}</text>"
        )
    for tick in round_ticks(min(steps), max(steps), 6):
        if min(steps) <= tick <= max(steps):
            parts.append(
                f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - _BOTTOM + 17}" '
                f'text-anchor="middle">{escape(short(tick))}</text>'
            )
    parts.append(
        f'<text class="unit" x="{WIDTH - _RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step</text>'
    )
    for place, (name, points) in enumerate(zip(names, histories, strict=True)):
        parts.append(_history(place, name, points, x, y))
    told = "; ".join(
        f"{name}: last {short(points[-1].value)}"
        for name, points in zip(names, histories, strict=True)
        if points
    )
    return _figure(f"{title}. {told}.", WIDTH, HEIGHT, parts)


def _history(place: int, name: str, points: Sequence[Point], x: Scale, y: Scale) -> str:
    known = [point for point in points if point.value == point.value]
    if not known:
        return ""
    css = css_of(place)
    places = " ".join(f"{x(point.step):.1f},{y(point.value):.1f}" for point in known)
    tip = f"<title>{escape(name)}: {escape(short(known[-1].value))}</title>"
    last = known[-1]
    dot = f'<circle class="dot {css}" cx="{x(last.step):.1f}" cy="{y(last.value):.1f}" r="3"/>'
    line = f'<polyline class="line {css}" points="{places}"/>' if len(known) > 1 else ""
    return f"<g>{tip}{line}{dot}</g>"


def parallel_chart(names: Sequence[str], axes: Sequence[Axis], drawn: Mapping[int, int]) -> Markup:
    """Runs as lines over axes. drawn: places of the chosen runs, and their colours' places."""
    if len(axes) < 2 or len(names) < 2:
        return Markup('<p class="empty">At least two runs that differ are needed.</p>')
    width = max(WIDTH, 130 * len(axes))
    gap = (width - 2 * 60) / (len(axes) - 1)
    scales = [_scale(axis) for axis in axes]
    parts = []
    for place, (axis, (_, labels)) in enumerate(zip(axes, scales, strict=True)):
        at = 60 + place * gap
        parts.append(
            f'<line class="tickmark" x1="{at:.1f}" x2="{at:.1f}" y1="34" y2="{HEIGHT - 20}"/>'
            f'<text class="axis-name" x="{at:.1f}" y="14" text-anchor="middle">'
            f"{escape(axis.name[:22])}</text>"
        )
        parts += [
            f'<text class="tick" x="{at - 5:.1f}" y="{height + 4:.1f}" text-anchor="end">'
            f"{escape(text[:14])}</text>"
            for text, height in labels
        ]
    order = sorted(range(len(names)), key=lambda row: row in drawn)
    for row in order:
        points = [
            f"{60 + place * gap:.1f},{height:.1f}"
            for place, (heights, _) in enumerate(scales)
            if (height := heights[row]) is not None
        ]
        css = css_of(drawn[row]) if row in drawn else "faint"
        parts.append(
            f"<g><title>{escape(names[row])}</title>"
            f'<polyline class="line {css}" points="{" ".join(points)}"/></g>'
        )
    told = f"{len(names)} runs over {', '.join(axis.name for axis in axes)}"
    return _figure(told, int(width), HEIGHT, parts)


def _scale(axis: Axis) -> tuple[list[float | None], list[tuple[str, float]]]:
    """Heights of the runs, and labels with their heights."""
    top, bottom = 34.0, HEIGHT - 20.0
    if axis.numeric:
        known = [value for value in axis.values if isinstance(value, float)]
        scale = Scale(min(known), max(known), bottom, top)
        heights = [scale(v) if isinstance(v, float) else None for v in axis.values]
        ends = sorted({min(known), max(known)})
        return heights, [(short(value), scale(value)) for value in ends]
    texts = sorted({str(value) for value in axis.values if value is not None})
    place = Scale(0, max(len(texts) - 1, 1), bottom, top)
    at = {text: place(k) for k, text in enumerate(texts)}
    heights = [at[str(value)] if value is not None else None for value in axis.values]
    return heights, list(at.items())[:12]


def _figure(label: str, width: int, height: int, parts: Sequence[str]) -> Markup:
    return Markup(  # every part is escaped where it is made
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
