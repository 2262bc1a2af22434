"""What the bytes of a version's records mean: tensors, bins, and which number is the score.

Learnt from `run/desired/*.json` (version index, bundle folder) and the bundle's own files, and
kept in evidence.db, so that records of a version that left its pool can still be read.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelfleet.telemetry.binning import Binner, as_numbers
from modelfleet_worker.wire import desired, profile, spec, tensors
from modelfleet_worker.wire.bundle import BundleCorrupt
from modelfleet_worker.wire.profile import Profile
from modelfleet_worker.wire.signature import Array, Signature, TensorSpec

_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class ScoreReader:
    """Where the watched number of a row stands in the outputs."""

    place: int
    output: TensorSpec
    column: int
    is_probability: bool
    label: int | None
    """Place of the output `label`, if there is one."""

    def read(self, outputs: Sequence[Sequence[bytes]], rows: int) -> NDArray[np.float64]:
        """Scores of all rows, one after the other. outputs: the tensors of each record; rows: of
        all of them together. ValueError if they don't fit."""
        table = stack(self.output, [tensors[self.place] for tensors in outputs], rows)
        scores = table if table.ndim == 1 else table.reshape(rows, -1)[:, self.column]
        return np.asarray(as_numbers(scores), dtype=np.float64)


@dataclass(frozen=True)
class VersionLayout:
    """One version as the collector sees it. Without a bundle only requests are counted."""

    index: int
    model: str
    version: str
    path: str = ""
    signature: Signature | None = None
    score: ScoreReader | None = None
    profile: Profile | None = None
    digest: str = ""
    """Names the profile; states with different digests are never merged."""
    binner: Binner | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bins of each feature, then of the score."""
        if self.profile is None or self.binner is None:
            return (0,)
        score = self.profile.score
        return (*self.binner.sizes, score.bins if score is not None else 0)

    def columns(self, inputs: Sequence[Sequence[bytes]], rows: int) -> list[Array]:
        """One array per feature over all rows. inputs: the tensors of each record; rows: of all
        of them together. ValueError if they don't fit."""
        if self.signature is None:
            return []
        tables = [
            stack(tensor, [raws[place] for raws in inputs], rows)
            for place, tensor in enumerate(self.signature.inputs)
        ]
        return self.signature.columns(tables)


def stack(tensor: TensorSpec, raws: Sequence[bytes], rows: int) -> Array:
    """The tensors of several records as one."""
    if tensor.datatype == "BYTES":
        parts = [msgspec.msgpack.decode(raw, type=list) for raw in raws]
        flat = np.array([value for part in parts for value in part], dtype=object)
        return flat.reshape(rows, -1) if len(tensor.shape) > 1 else flat.reshape(rows)
    return tensors.unpack(tensor, b"".join(raws), rows)


def read_layout(index: int, model: str, version: str, path: str) -> VersionLayout:
    """The layout from a bundle folder. BundleCorrupt if it isn't there or can't be read."""
    folder = Path(path)
    bundle = spec.read_spec(folder)
    reference = profile.load(folder)
    digest, binner = "", None
    names = bundle.signature.feature_names()
    if reference is not None and len(reference.features) == len(names):
        digest = hashlib.sha256(profile.encode(reference)).hexdigest()[:16]
        binner = Binner(reference)
    else:
        reference = None
    score = _score_reader(bundle)
    return VersionLayout(
        index, model, version, path, bundle.signature, score, reference, digest, binner
    )


def _score_reader(bundle: spec.BundleSpec) -> ScoreReader | None:
    """The bundle's own choice, else `prediction`, else the last column of `probability`."""
    outputs = bundle.signature.outputs
    names = [output.name for output in outputs]
    chosen = bundle.score
    if chosen is None and "prediction" in names:
        chosen = spec.ScoreSpec("prediction")
    if chosen is None and "probability" in names:
        chosen = spec.ScoreSpec("probability", -1)
    if chosen is None or chosen.output not in names:
        return None
    place = names.index(chosen.output)
    label = names.index("label") if "label" in names else None
    return ScoreReader(place, outputs[place], chosen.column, chosen.output == "probability", label)


class Versions:
    """All versions ever seen, by index."""

    def __init__(self, desired_folder: Path, connection: sqlite3.Connection, *also: Path) -> None:
        """also: further pools' files, of what is not served by workers."""
        self._folder = desired_folder
        self._also = also
        self._seen_mtime: tuple[int, ...] = ()
        self._known: dict[int, tuple[str, str, str]] = {
            index: (model, version, path)
            for index, model, version, path in connection.execute(
                "SELECT version_index, model, version, path FROM version"
            )
        }
        self._layouts: dict[int, VersionLayout] = {}
        self._retry_at: dict[int, float] = {}
        self._unsaved: set[int] = set()

    def refresh(self) -> None:
        """Read the desired pools again if one of them was replaced."""
        try:
            mtime = (self._folder.stat().st_mtime_ns, *map(_mtime, self._also))
        except FileNotFoundError:
            return
        if mtime == self._seen_mtime:
            return
        self._seen_mtime = mtime
        also = [path for path, known in zip(self._also, mtime[1:], strict=True) if known]
        for path in [*sorted(self._folder.glob("*.json")), *also]:
            try:
                pool = desired.load(path)
            except (OSError, msgspec.DecodeError):
                self._seen_mtime = ()  # look again at the next refresh
                continue
            for version in pool.versions:
                self._learn(version.index, (version.model, version.version, version.path))

    def _learn(self, index: int, known: tuple[str, str, str]) -> None:
        if self._known.get(index) != known:
            self._known[index] = known
            self._layouts.pop(index, None)
            self._retry_at.pop(index, None)
            self._unsaved.add(index)

    def get(self, index: int) -> VersionLayout:
        found = self._layouts.get(index)
        if found is not None and (found.signature is not None or not self._due(index)):
            return found
        model, version, path = self._known.get(index, ("unknown", str(index), ""))
        layout = VersionLayout(index, model, version, path)
        if path:
            try:
                layout = read_layout(index, model, version, path)
                self._unsaved.add(index)
            except (BundleCorrupt, ValueError):
                self._retry_at[index] = time.monotonic() + _RETRY_SECONDS
        else:
            self._retry_at[index] = time.monotonic() + _RETRY_SECONDS
        self._layouts[index] = layout
        return layout

    def _due(self, index: int) -> bool:
        return time.monotonic() >= self._retry_at.get(index, 0.0)

    def save(self, connection: sqlite3.Connection) -> None:
        """Write what was learnt since the last time; part of the collector's transaction."""
        for index in sorted(self._unsaved):
            layout = self.get(index)
            connection.execute(
                "INSERT OR REPLACE INTO version (version_index, model, version, path, layout) "
                "VALUES (?, ?, ?, ?, ?)",
                (index, layout.model, layout.version, layout.path, layout.digest),
            )
            if layout.profile is not None:
                connection.execute(
                    "INSERT OR IGNORE INTO layout (digest, document) VALUES (?, ?)",
                    (layout.digest, profile.encode(layout.profile)),
                )
        self._unsaved = set()


def _mtime(path: Path) -> int:
    """In nanoseconds; 0 if there is no such file."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
