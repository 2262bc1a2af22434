"""Scales of charts: round numbers on the one axis, clock times on the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet.core.clock import from_us
from modelfleet.views.replay import Replay

_CLOCK_STEPS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
"""Seconds between labels of a time axis."""


@dataclass(frozen=True)
class Scale:
    """Linear, from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


@dataclass(frozen=True)
class TimeLabel:
    at_us: int
    clock: str
    date: str
    """the day it stands for in a replay; empty otherwise"""


def round_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that enclose [low, high]: steps of 1, 2, 2.5 or 5."""
    if not math.isfinite(low + high):
        low, high = 0.0, 1.0
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        high = low + max(1.0, abs(low))
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * 0.999)
    first = math.floor(low / step)
    last = math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def time_labels(
    start_us: int, end_us: int, replay: Replay | None = None, count: int = 6
) -> list[TimeLabel]:
    """Round clock times (UTC) in [start, end], with the replay's date beneath."""
    seconds = (end_us - start_us) / 1e6
    step = next((s for s in _CLOCK_STEPS if seconds / s <= count), _CLOCK_STEPS[-1])
    form = "%H:%M:%S" if step < 60 else "%H:%M"
    step_us = step * 1_000_000
    first = -(-start_us // step_us) * step_us
    return [
        TimeLabel(at, from_us(at).strftime(form), replay_date(replay, at))
        for at in range(first, end_us + 1, step_us)
    ]


def replay_date(replay: Replay | None, moment_us: int) -> str:
    day = replay.date_at(moment_us) if replay is not None else None
    return f"{day.day} {day:%b}" if day is not None else ""


def short(value: float) -> str:
    """A number for an axis: 1.2k, 0.05."""
    if value and abs(value) < 0.001:
        return f"{value:.0e}"
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            divisor = {"G": 1e9, "M": 1e6, "k": 1e3}[letter]
            return f"{value / divisor:.4g}{letter}"
    return f"{value:.4g}"


def finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
