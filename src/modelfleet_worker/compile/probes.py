"""Rows that production will send and that no example holds, made from the example's.

An example rarely has missing values, categories that training did not know, or numbers that only
float64 can tell apart: converters get just these wrong. Whatever the source says to a probe, the
compiled form must say, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from modelfleet_worker.wire.signature import Array

ROWS = 256
_COARSE = 1e-6
"""of the range of a column's values, for the last place of float32"""
_UNSEEN = ("never seen before", "", None)
Tensors = dict[str, Array]


def probes(inputs: Tensors, missing: bool) -> Iterator[tuple[str, Tensors]]:
    """What is unusual about them, and the rows. missing: the model takes missing values."""
    random = np.random.default_rng(0)
    rows = {name: np.resize(array, (ROWS, *array.shape[1:])) for name, array in inputs.items()}
    numbers = [name for name, array in rows.items() if array.dtype.kind in "fiu"]
    floats = [name for name in numbers if rows[name].dtype.kind == "f"]
    if floats and missing:
        gaps = {name: _with_gaps(rows[name], random, 0.2) for name in floats}
        yield "values are missing", {**rows, **gaps}
    if numbers:
        far = {name: _around(rows[name], random) for name in numbers}
        yield "values lie outside of the example's", {**rows, **far}
    coarse = [name for name in floats if _coarse(rows[name]).any()]
    for share in (0.45, -0.45) if coarse else ():
        near = {name: _rounded(rows[name], share) for name in coarse}
        yield "float32 can't tell values apart", {**rows, **near}
    texts = [name for name, array in rows.items() if array.dtype.kind == "O"]
    for text in _UNSEEN if texts else ():
        what = "text is missing" if text is None else f"text is {text!r}"
        for name in texts:
            yield what, {**rows, name: np.full_like(rows[name][:1], text).repeat(ROWS, axis=0)}


def _with_gaps(array: Array, random: np.random.Generator, share: float) -> Array:
    """Some values missing here and there, in one row all."""
    found = array.copy()
    found[random.random(array.shape) < share] = np.nan
    found[:1] = np.nan
    return found


def _around(array: Array, random: np.random.Generator) -> Array:
    """Numbers in and around the range of each column; whole numbers where the column's are."""
    wide: Array = array.astype(np.float64)
    low, high = np.nanmin(wide, axis=0), np.nanmax(wide, axis=0)
    span = np.maximum(high - low, 1.0)
    found = random.uniform(low - span / 2, high + span / 2, size=array.shape)
    whole = (np.nan_to_num(wide) == np.round(np.nan_to_num(wide))).all(axis=0)
    found = np.where(whole, np.round(found), found)
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        found = np.clip(found, float(info.min), float(info.max) / 2)
    kept: Array = np.where(np.isnan(wide), wide, found).astype(array.dtype)
    return kept


def _coarse(array: Array) -> Array:
    """Columns of float64 whose values lie so close together (such as times in seconds) that
    float32 takes one for another. Elsewhere a value hardly ever falls within its last place of a
    threshold."""
    if array.dtype != np.float64:
        return np.zeros(array.shape[1:], dtype=bool)
    last = np.nanmax(np.spacing(np.abs(_single(array))), axis=0)
    span = np.nanmax(array, axis=0) - np.nanmin(array, axis=0)
    found: Array = (span > 0) & (last > _COARSE * span)
    return found


def _rounded(array: Array, share: float) -> Array:
    """Values that become the same float32, shifted by that part of its last place."""
    single = _single(array)
    shifted = single.astype(np.float64) + share * np.spacing(single)
    found: Array = np.where(_coarse(array), shifted, array)
    return found


def _single(array: Array) -> Array:
    found: Array = np.clip(array, -1e30, 1e30).astype(np.float32)
    return found
