"""The tests of one drift window: from merged states to verdicts, for the whole fleet at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from modelfleet.monitoring.fdr import benjamini_hochberg
from modelfleet.monitoring.types import SCORE, FeatureTest
from modelfleet.telemetry.drift import Stream, tolerance_tests
from modelfleet.telemetry.evidence import EvidenceReader, merge_windows
from modelfleet.telemetry.states import Counts
from modelfleet.telemetry.views import BinLayout, ReferenceLayout, WindowState


@dataclass(frozen=True)
class VersionTests:
    """All tests of one version, and the counts behind them."""

    window: WindowState
    reference: ReferenceLayout
    tests: tuple[FeatureTest, ...]

    @property
    def evidence_bins(self) -> dict[str, tuple[BinLayout, Counts]]:
        """Reference bins and window counts by feature."""
        return {name: (bins, counts) for name, bins, counts in _named(self.window, self.reference)}


def merged_by_version(windows: Iterable[WindowState]) -> dict[int, WindowState]:
    """One state per version. If its reference changed meanwhile, that with the most rows."""
    groups: dict[tuple[int, str], list[WindowState]] = {}
    for window in windows:
        groups.setdefault((window.version_index, window.layout), []).append(window)
    best: dict[int, WindowState] = {}
    for (index, _), members in groups.items():
        merged = merge_windows(members)
        if index not in best or merged.rows > best[index].rows:
            best[index] = merged
    return best


def judge(
    windows: Mapping[int, WindowState], evidence: EvidenceReader, *, psi0: float, q: float
) -> dict[int, VersionTests]:
    """Test every feature and score of these versions; false discoveries are controlled over all.

    Versions without a reference are left out: there is nothing to compare with.
    """
    with_reference = {
        index: (window, reference)
        for index, window in windows.items()
        if (reference := evidence.layout(window.layout)) is not None
    }
    places: list[tuple[int, str]] = []
    streams: list[Stream] = []
    for index, (window, reference) in with_reference.items():
        for name, bins, counts in _named(window, reference):
            places.append((index, name))
            streams.append(Stream(counts, bins.counts, ordered=bins.kind == "numeric"))
    results = tolerance_tests(streams, psi0)
    alarms = benjamini_hochberg(results.p, q)
    tests: dict[int, list[FeatureTest]] = {index: [] for index in with_reference}
    for row, (index, name) in enumerate(places):
        conclusive = bool(results.conclusive[row])
        verdict = "drift" if alarms[row] else "ok"
        tests[index].append(
            FeatureTest(
                feature=name,
                verdict=verdict if conclusive else "inconclusive",
                p=float(results.p[row]) if conclusive else None,
                distance=float(results.distance[row]) if conclusive else None,
                rows=int(results.rows[row]),
                reference_rows=int(results.reference_rows[row]),
                bins=int(results.bins[row]),
            )
        )
    return {
        index: VersionTests(window, reference, tuple(tests[index]))
        for index, (window, reference) in with_reference.items()
    }


def _named(
    window: WindowState, reference: ReferenceLayout
) -> Sequence[tuple[str, BinLayout, Counts]]:
    found = [
        (bins.name, bins, counts)
        for bins, counts in zip(reference.features, window.features, strict=True)
    ]
    if reference.score is not None:
        found.append((SCORE, reference.score, window.score))
    return found
