"""`run/watch.json`: which versions the judge looks at just now. Written by the control plane."""

from __future__ import annotations

from pathlib import Path

import msgspec


class WatchedPair(msgspec.Struct, frozen=True):
    """A shadow to be compared with what the clients got, request by request."""

    stable: int
    shadow: int
    endpoint: str = ""
    tolerance: float | None = None
    """Scores that differ by more disagree. None: by the label, or for a regression a tenth of the
    reference's spread (see `pairs`)."""


class Watch(msgspec.Struct, frozen=True):
    versions: list[int] = []
    """Versions that get judge ticks. Those of pairs get them without being named."""
    pairs: list[WatchedPair] = []
    edges: dict[str, int] = {}
    """Version index (as text) to the version on whose reference score edges its scores are
    counted, so that both arms of a rollout share their bins. Its own, if not named."""

    keys: dict[str, str] = {}
    """Version index (as text) to a rollout whose clients stick to versions. There a client counts
    once, in the tick of its first visit: requests of one client are not independent."""

    def watched(self) -> frozenset[int]:
        paired = [index for pair in self.pairs for index in (pair.stable, pair.shadow)]
        return frozenset([*self.versions, *paired])

    def edges_of(self, version_index: int) -> int:
        return self.edges.get(str(version_index), version_index)


class WatchFile:
    """Follows the file; a missing one means that nothing is watched."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = (0, 0)
        self._watch = Watch()

    def read(self) -> Watch:
        """The present watch. A file that can't be read leaves the last good one in force."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._seen, self._watch = (0, 0), Watch()
            return self._watch
        mark = (status.st_mtime_ns, status.st_ino)
        if mark != self._seen:
            try:
                self._watch = msgspec.json.decode(self._path.read_bytes(), type=Watch)
            except (OSError, msgspec.DecodeError):
                return self._watch
            self._seen = mark
        return self._watch
