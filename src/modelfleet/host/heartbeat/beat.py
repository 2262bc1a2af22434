"""One beat: look at everything, write it down, tell whoever should hear it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

import msgspec

from modelfleet.core.files import write_atomically
from modelfleet.core.settings import Settings
from modelfleet.host import health
from modelfleet.host.heartbeat.shares import lift_abandoned

_LOOK_SECONDS = 5.0
"""How often we look, if calls are rarer."""
_GRACE = 2
"""looks in a row that find trouble before we say so: a process that is replaced is no trouble"""
_CALL_SECONDS = 10.0
_REASON_CHARACTERS = 500


class Heart:
    def __init__(
        self, settings: Settings, look: Callable[[], list[health.Part]] | None = None
    ) -> None:
        self._settings = settings
        self._look = look or (lambda: health.look(settings.layout, settings.host))
        self._interval = settings.heartbeat.interval_seconds
        self._good_at = _last_good(settings)
        self._bad_looks = 0
        self._due = 0.0
        self._failing = False
        self._complaint = ""

    def beat(self) -> float:
        """Returns the seconds until the next one."""
        began = time.monotonic()
        parts = self._look()
        trouble = "; ".join(f"{one.name}: {one.trouble}" for one in parts if one.trouble)
        self._note(trouble)
        for endpoint in lift_abandoned(self._settings.layout):
            sys.stderr.write(f"heartbeat: no control plane, so the shares of {endpoint} end\n")
        self._bad_looks = self._bad_looks + 1 if trouble else 0
        if not trouble:
            self._tell("", began)
        elif self._bad_looks >= _GRACE:
            self._tell(trouble, began)
        pause = min(self._interval, _LOOK_SECONDS)
        return max(0.05, pause - (time.monotonic() - began))

    def _note(self, trouble: str) -> None:
        """For /metrics and the doctor."""
        now = time.time()
        if not trouble:
            self._good_at = now
        found = {"at": now, "good_at": self._good_at, "trouble": trouble}
        write_atomically(self._settings.layout.heartbeat, msgspec.json.encode(found))

    def _tell(self, trouble: str, now: float) -> None:
        """A change for the worse is told at once, everything else when it is due."""
        worse = bool(trouble) and not self._failing
        if not self._settings.heartbeat.url or (now < self._due and not worse):
            return
        self._due = now + self._interval
        self._failing = bool(trouble)
        self._complain(_call(self._settings.heartbeat.url, trouble))

    def _complain(self, why: str) -> None:
        """Once for each reason: the log is not to fill while the world is away."""
        if why != self._complaint:
            sys.stderr.write(f"heartbeat: {why or 'heard again'}\n")
        self._complaint = why


def _call(url: str, trouble: str) -> str:
    """Why it was not heard; empty if it was. The address itself is secret."""
    target = url
    if trouble:
        parts = urlsplit(url)
        target = urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/fail"))
    content = trouble[:_REASON_CHARACTERS].encode()
    try:
        request = Request(target, content, {"user-agent": "modelfleet"}, method="POST")
        with urlopen(request, timeout=_CALL_SECONDS):
            return ""
    except HTTPError as error:
        error.close()
        return f"answered with {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        return f"not heard: {type(error).__name__}"


def _last_good(settings: Settings) -> float:
    """Unix seconds, over restarts of ours; 0 if never."""
    try:
        found = msgspec.json.decode(settings.layout.heartbeat.read_bytes())
        return float(found["good_at"])
    except (FileNotFoundError, msgspec.DecodeError, KeyError, TypeError, ValueError):
        return 0.0
