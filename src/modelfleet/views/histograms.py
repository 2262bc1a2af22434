"""The evidence of a drift alert as two histograms: what was learnt from, what comes in."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec


class _Evidence(msgspec.Struct, frozen=True):
    window_counts: list[float]
    reference_counts: list[float]
    kind: str = "numeric"
    edges: list[float] = []
    levels: list[str | float] = []


@dataclass(frozen=True)
class Bin:
    label: str
    reference: float
    """share of the reference's rows"""
    window: float
    """share of the window's rows"""


def histogram(evidence: Mapping[str, object]) -> tuple[Bin, ...]:
    """Bins in order; empty if the evidence holds none. Bins that nobody fills are left out."""
    try:
        found = msgspec.convert(evidence, _Evidence)
    except msgspec.ValidationError:
        return ()
    labels = _labels(found)
    if not len(labels) == len(found.window_counts) == len(found.reference_counts):
        return ()
    totals = sum(found.reference_counts) or 1.0, sum(found.window_counts) or 1.0
    return tuple(
        Bin(label, reference / totals[0], window / totals[1])
        for label, reference, window in zip(
            labels, found.reference_counts, found.window_counts, strict=True
        )
        if reference or window or label not in ("missing", "unseen")
    )


def _labels(found: _Evidence) -> list[str]:
    if found.kind == "levels":
        return [*(_level(level) for level in found.levels), "unseen", "missing"]
    if not found.edges:
        return ["any", "missing"]
    edges = [f"{edge:.4g}" for edge in found.edges]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    return [f"below {edges[0]}", *between, f"{edges[-1]} and more", "missing"]


def _level(level: str | float) -> str:
    return level if isinstance(level, str) else f"{level:.6g}"
