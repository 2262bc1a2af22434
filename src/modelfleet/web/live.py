"""What changed on a page since somebody last looked.

A template frames the live region with `<!--live-->` and `<!--/live-->`, and in it each piece with
`<!--[key]-->` and `<!--[/]-->`; a piece is one element with an id. A page that polls names the tag
of what it has; the answer holds only the pieces that differ from that. Tags name content, so that
viewers of the same page share them.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

_PIECE = re.compile(r"<!--\[([^\]/]+)\]-->(.*?)<!--\[/\]-->", re.DOTALL)
_REGION = re.compile(r"<!--live-->(.*)<!--/live-->", re.DOTALL)
_TOKEN = re.compile(r'name="csrf" value="[^"]*"')
"""Form tokens differ each time and mean the same."""
_REMEMBERED = 128


@dataclass(frozen=True)
class Update:
    tag: str
    html: str
    """the pieces that changed, each in its frame; or the whole region"""
    whole: bool
    """pieces came, went or moved: the region must be drawn anew"""


class LiveCache:
    """Digests of the pieces behind the tags that were handed out lately."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Mapping[str, str]] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, html: str) -> str:
        """The tag of a page that is handed out whole."""
        return self._remember(_digests(html))

    def update(self, html: str, have: str) -> Update:
        """have: the tag of what the viewer has."""
        digests = _digests(html)
        with self._lock:
            before = self._known.get(have)
        tag = self._remember(digests)
        if before is None or list(before) != list(digests):
            region = _REGION.search(html)
            return Update(tag, region[1] if region else "", True)
        changed = [one[0] for one in _PIECE.finditer(html) if before[one[1]] != digests[one[1]]]
        return Update(tag, "".join(changed), False)

    def _remember(self, digests: Mapping[str, str]) -> str:
        tag = _digest(repr(digests))
        with self._lock:
            self._known[tag] = digests
            self._known.move_to_end(tag)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return tag


def _digests(html: str) -> dict[str, str]:
    return {key: _digest(piece) for key, piece in _PIECE.findall(html)}


def _digest(text: str) -> str:
    return hashlib.sha256(_TOKEN.sub("", text).encode()).hexdigest()[:16]
