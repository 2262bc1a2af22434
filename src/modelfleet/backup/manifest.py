"""What a snapshot says about itself. It is written last: without one there is no snapshot."""

from __future__ import annotations

import msgspec

FORMAT = 1


class Object(msgspec.Struct, frozen=True):
    """Content in the place."""

    sha256: str
    size: int


class File(msgspec.Struct, frozen=True):
    """A file of the home."""

    path: str
    mode: int
    content: Object


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Fields that a later release adds are ignored; a higher format is refused."""

    format: int = FORMAT
    id: str
    """when it was taken, in UTC; sorts by age"""
    release: str
    """of modelfleet"""
    store: str
    """sqlite or postgresql: where it came from"""
    schema: str
    """revision of the database"""
    rows: dict[str, int]
    """by table"""
    counters: dict[str, int]
    """by table: the last number that was handed out, so that none comes twice"""
    audit: str
    """hash of the last event"""
    database: Object
    blobs: tuple[Object, ...]
    files: tuple[File, ...]
    keys: bool
    """whether it holds the signing key and the like"""
    evidence: bool

    def objects(self) -> dict[str, int]:
        """Everything that is needed: sizes by digest."""
        found = {one.sha256: one.size for one in self.blobs}
        found |= {one.content.sha256: one.content.size for one in self.files}
        return found | {self.database.sha256: self.database.size}
