"""Reference profiles: how a model's inputs and scores were distributed when it was trained.

A profile is kept in the bundle as `reference.json` and turns columns of production data into
counts of the same bins, which are additive and exact. Bins of a number: `edges` are inner edges,
bin = searchsorted(edges, v, side="right"), and one last bin for null (NaN, None). Bins of levels:
one per level, then `unseen`, then null. Infinities are numbers beyond the outermost edges.

Values must come in the dtype that production sends: a level of 0.1 is another number in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import msgspec
import numpy as np

from modelfleet_worker.wire.bundle import FILES, BundleCorrupt
from modelfleet_worker.wire.signature import Array
from modelfleet_worker.wire.spec import REFERENCE_FILE

BINS = 20
MAX_NUMERIC_LEVELS = 40
MAX_TEXT_LEVELS = 200


class NumericBins(msgspec.Struct, frozen=True, tag_field="kind", tag="numeric"):
    """Numbers by quantiles. counts: len(edges) + 1 bins, then null."""

    name: str
    edges: list[float]
    counts: list[int]

    @property
    def bins(self) -> int:
        return len(self.edges) + 2

    def count(self, values: Array) -> Array:
        """int64 counts [bins] of a column."""
        return np.bincount(self.bin(values), minlength=self.bins).astype(np.int64)

    def bin(self, values: Array) -> Array:
        """The bin of each value."""
        numbers = _numbers(values)
        # NaN sorts after every edge, so it needs its own bin set by hand.
        found = np.searchsorted(np.asarray(self.edges, dtype=np.float64), numbers, side="right")
        return np.where(np.isnan(numbers), len(self.edges) + 1, found)


class LevelBins(msgspec.Struct, frozen=True, tag_field="kind", tag="levels"):
    """Categories: strings, or few distinct numbers. counts: levels, then unseen, then null."""

    name: str
    levels: list[Union[str, int, float]]
    counts: list[int]

    @property
    def bins(self) -> int:
        return len(self.levels) + 2

    def count(self, values: Array) -> Array:
        """int64 counts [bins] of a column."""
        return np.bincount(self.bin(values), minlength=self.bins).astype(np.int64)

    def bin(self, values: Array) -> Array:
        """The bin of each value."""
        unseen, null = len(self.levels), len(self.levels) + 1
        if self.levels and isinstance(self.levels[0], str):
            place = {level: k for k, level in enumerate(self.levels)}
            texts = _texts(values)
            return np.array(
                [null if text is None else place.get(text, unseen) for text in texts],
                dtype=np.int64,
            )
        numbers = _numbers(values)
        found = np.full(len(numbers), unseen, dtype=np.int64)
        if self.levels:
            levels = np.asarray(self.levels, dtype=np.float64)
            order = np.argsort(levels)
            near = np.minimum(np.searchsorted(levels[order], numbers), len(levels) - 1)
            found = np.where(levels[order][near] == numbers, order[near], unseen)
        return np.where(np.isnan(numbers), null, found)


Bins = Union[NumericBins, LevelBins]


class Profile(msgspec.Struct, frozen=True):
    """The reference of a model: `features` in the order of `Signature.feature_names`."""

    rows: int
    features: list[Bins]
    score: Optional[NumericBins] = None

    def count(self, columns: Union[Array, Sequence[Array]]) -> list[Array]:
        """One int64 array of counts per feature.

        columns: a matrix [rows, features], or one array [rows] per feature. ValueError if their
        number is not that of the features.
        """
        split = _columns(columns)
        if len(split) != len(self.features):
            raise ValueError(f"{len(split)} columns for a profile of {len(self.features)} features")
        return [bins.count(values) for bins, values in zip(self.features, split)]


def build_profile(
    names: Sequence[str],
    columns: Union[Array, Sequence[Array]],
    score: Optional[Array] = None,
) -> Profile:
    """Profile of reference rows (a matrix, or one array per name) and of the model's scores."""
    split = _columns(columns)
    if len(split) != len(names):
        raise ValueError(f"{len(names)} names for {len(split)} columns")
    return Profile(
        rows=len(split[0]) if split else 0,
        features=[_bins(name, values) for name, values in zip(names, split)],
        score=None if score is None else _numeric("score", _numbers(score)),
    )


def decode(content: bytes) -> Profile:
    """Read `reference.json`; BundleCorrupt if its counts don't fit its bins."""
    try:
        profile = msgspec.json.decode(content, type=Profile)
    except msgspec.DecodeError as error:
        raise BundleCorrupt(f"{REFERENCE_FILE}: {error}") from error
    scores: list[Bins] = [] if profile.score is None else [profile.score]
    for bins in [*profile.features, *scores]:
        if len(bins.counts) != bins.bins:
            raise BundleCorrupt(
                f"{REFERENCE_FILE}: {bins.name!r} has {len(bins.counts)} counts "
                f"for {bins.bins} bins"
            )
    return profile


def encode(profile: Profile) -> bytes:
    """The content of `reference.json`."""
    return msgspec.json.encode(profile)


def load(bundle: Path) -> Optional[Profile]:
    """The profile of a bundle, None if it has none."""
    try:
        content = (bundle / FILES / REFERENCE_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return decode(content)


def _bins(name: str, values: Array) -> Bins:
    if values.dtype.kind in "OUS" and any(isinstance(v, (str, bytes)) for v in values.tolist()):
        return _text_levels(name, values)
    numbers = _numbers(values)
    distinct = np.unique(numbers[~np.isnan(numbers)])
    if len(distinct) > MAX_NUMERIC_LEVELS:
        return _numeric(name, numbers)
    # JSON knows no infinity: a level that can't be written counts as unseen.
    levels: list[Union[str, int, float]] = [_plain(v) for v in distinct[np.isfinite(distinct)]]
    return _counted(LevelBins(name, levels, []), numbers)


def _text_levels(name: str, values: Array) -> Bins:
    """Strings: the most frequent ones; a long tail counts as unseen in the reference too."""
    frequency: dict[str, int] = {}
    for text in _texts(values):
        if text is not None:
            frequency[text] = frequency.get(text, 0) + 1
    kept = sorted(frequency, key=lambda text: (-frequency[text], text))[:MAX_TEXT_LEVELS]
    return _counted(LevelBins(name, [*sorted(kept)], []), values)


def _counted(empty: LevelBins, values: Array) -> LevelBins:
    return LevelBins(empty.name, empty.levels, empty.count(values).tolist())


def _numeric(name: str, numbers: Array) -> NumericBins:
    finite = numbers[np.isfinite(numbers)]
    edges: list[float] = []
    if len(finite):
        edges = np.unique(np.quantile(finite, np.linspace(0, 1, BINS + 1)[1:-1])).tolist()
    empty = NumericBins(name, edges, [])
    return NumericBins(name, edges, empty.count(numbers).tolist())


def _columns(columns: Union[Array, Sequence[Array]]) -> list[Array]:
    if isinstance(columns, np.ndarray):
        if columns.ndim != 2:
            raise ValueError(f"a matrix has two dimensions, not {columns.ndim}")
        return [columns[:, k] for k in range(columns.shape[1])]
    return [np.asarray(values).reshape(-1) for values in columns]


def _numbers(values: Array) -> Array:
    """A column as float64; None and text that is no number become NaN."""
    flat = np.asarray(values).reshape(-1)
    if flat.dtype.kind in "OUS":
        return np.array([_number(value) for value in flat.tolist()], dtype=np.float64)
    return flat.astype(np.float64)


def _number(value: Any) -> float:
    try:
        return float("nan") if value is None else float(value)
    except (TypeError, ValueError):
        return float("nan")


def _texts(values: Array) -> list[Optional[str]]:
    return [_text(value) for value in np.asarray(values).reshape(-1).tolist()]


def _text(value: Any) -> Optional[str]:
    if value is None or (isinstance(value, float) and value != value):
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Union[int, float]:
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
