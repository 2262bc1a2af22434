"""Which date a moment stands for while past data is replayed as live traffic.

Whoever replays writes `HOME/run/replay.json` when the first request goes out:
`{"start": ISO moment, "from": "2013-07-01", "seconds_per_day": 0.8152, "until": "2013-12-31"}`;
`until` may be missing. Without the file, moments stand for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import msgspec

from modelfleet.core.clock import to_us
from modelfleet.core.layout import Layout


class _File(msgspec.Struct, frozen=True):
    start: datetime
    first: date = msgspec.field(name="from")
    seconds_per_day: float = 1.0
    until: date | None = None


@dataclass(frozen=True)
class Replay:
    start_us: int
    first: date
    seconds_per_day: float
    until: date | None = None

    def date_at(self, moment_us: int) -> date | None:
        """The date that a moment stands for; None before the replay began and after its end."""
        days = (moment_us - self.start_us) / 1e6 / self.seconds_per_day
        last = self.until or date.max
        if not 0 <= days < (last - self.first).days + 1:
            return None
        return self.first + timedelta(int(days))

    def is_over(self, moment_us: int) -> bool:
        return moment_us >= self.start_us and self.date_at(moment_us) is None


def read_replay(layout: Layout) -> Replay | None:
    """None if nothing is replayed, or if the file makes no sense."""
    try:
        found = msgspec.json.decode((layout.run / "replay.json").read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError):
        return None
    if found.seconds_per_day <= 0 or found.start.tzinfo is None:
        return None
    return Replay(to_us(found.start), found.first, found.seconds_per_day, found.until)
