"""Absolute limits: what a version must keep whether or not another runs beside it.

Each is an anytime-valid test of a share against a fixed limit, like the judge's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from modelfleet.rollouts.analysis import Analysis, Arm
from modelfleet.rollouts.plan import Limits
from modelfleet.rollouts.sequential import OneArm
from modelfleet.telemetry.latency import BOUNDS_US


@dataclass(frozen=True)
class LimitState:
    errors: OneArm = OneArm(1, 0.05)
    slow: OneArm = OneArm(1, 0.05)
    """share of answers slower than the limit, against what the quantile leaves"""


def begin(limits: Limits, analysis: Analysis) -> LimitState:
    return LimitState(OneArm(1, limits.errors or 0.05), OneArm(1, 1 - analysis.latency_quantile))


def update(state: LimitState, limits: Limits, arm: Arm) -> LimitState:
    """Take one tick of one version in."""
    if limits.errors is not None and arm.requests:
        state = replace(state, errors=state.errors.update(arm.requests, arm.errors))
    if limits.latency_ms is not None and arm.latency:
        counts = np.array(arm.latency, dtype=np.int64)
        above = int(np.searchsorted(BOUNDS_US, limits.latency_ms * 1000, side="left"))
        slow = int(counts[above + 1 :].sum())
        state = replace(state, slow=state.slow.update(int(counts.sum()), slow))
    return state


def broken(state: LimitState, limits: Limits, analysis: Analysis) -> str:
    """The sentence of a limit that is surely broken; empty if none is."""
    needed = math.log(2 / analysis.alpha)
    if limits.errors is not None and state.errors.highest >= needed:
        return (
            f"{_share(state.errors)} of the requests fail: "
            f"over the limit of {100 * limits.errors:g} %."
        )
    if limits.latency_ms is not None and state.slow.highest >= needed:
        return (
            f"{_share(state.slow)} of the answers take longer than {limits.latency_ms:g} ms: "
            f"{100 * (1 - analysis.latency_quantile):g} % may."
        )
    return ""


def _share(arm: OneArm) -> str:
    return f"{100 * arm.errors / arm.total:.2g} %"
