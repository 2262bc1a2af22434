"""How numbers, times and names read on pages. None and NaN are a dash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping

from markupsafe import Markup, escape

from modelfleet.core.clock import from_us, to_us
from modelfleet.views.replay import Replay
from modelfleet.views.times import moment

DASH = "–"  # noqa: RUF001 - a dash stands for "no value"


def number(value: float | None) -> str:
    """12,345 or 0.123."""
    if value is None or not math.isfinite(value):
        return DASH
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """Requests a second."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value else "0"


def percent(value: float | None, digits: int = 2) -> str:
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{100 * value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + " %"


def milliseconds(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def significant(value: float | None) -> str:
    """Three digits: distances, metrics, p-values."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.3g}"


def key(text: str) -> str:
    """A short id that any name may have."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def compact(value: object) -> str:
    """Audit details and inputs on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {compact(one)}" for name, one in value.items())
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(compact(one) for one in value)}]"
    return json.dumps(value, default=str)


def clock(replay: Replay | None) -> Callable[[str | int], Markup]:
    """A filter for moments (ISO 8601 or microseconds), with the day that they stand for."""

    def show(value: str | int) -> Markup:
        if not value:
            return Markup(DASH)
        at = value if isinstance(value, int) else to_us(moment(value))
        when = from_us(at)
        day = replay.date_at(at) if replay is not None else None
        stands = f' <span class="day">{day.day} {day:%b %Y}</span>' if day is not None else ""
        return Markup(
            f'<time datetime="{escape(when.isoformat(timespec="seconds"))}">'
            f"{when:%Y-%m-%d} <b>{when:%H:%M:%S}</b></time>{stands}"
        )

    return show
