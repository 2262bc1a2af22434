"""Hard limits that need no statistics: too many failed requests, and crashes of any number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelfleet.monitoring.alerts import AlertKey, AlertKind, Observation
from modelfleet.monitoring.types import LiveVersion
from modelfleet.telemetry.views import WindowState

LIMIT_KINDS = (AlertKind.ERROR_RATE, AlertKind.CRASH)
LIMIT_WINDOW_US = 300 * 1_000_000
ERROR_RATE = 0.05
MINIMUM_REQUESTS = 50
CRASHED = 599


def limit_observations(
    windows: Iterable[WindowState], live: Sequence[LiveVersion], end_us: int
) -> dict[AlertKey, Observation]:
    """What the last minutes say about every live version. Too few requests prove nothing."""
    requests: dict[int, int] = {}
    errors: dict[int, int] = {}
    crashes: dict[int, int] = {}
    for window in windows:
        index = window.version_index
        requests[index] = requests.get(index, 0) + window.requests
        errors[index] = errors.get(index, 0) + window.errors
        crashes[index] = crashes.get(index, 0) + window.codes.get(CRASHED, 0)
    found = {}
    for one in live:
        index = one.version_index
        total, failed, crashed = (part.get(index, 0) for part in (requests, errors, crashes))
        name = f"{one.model} {one.version} on {one.endpoint}"
        evidence = {"requests": total, "errors": failed, "crashes": crashed, "window_end": end_us}
        found[AlertKey(AlertKind.ERROR_RATE, one.endpoint, index, "")] = Observation(
            end_us,
            None if total < MINIMUM_REQUESTS else failed / total > ERROR_RATE,
            f"{failed} of {total} requests of {name} failed in the last minutes",
            evidence | {"limit": ERROR_RATE},
        )
        found[AlertKey(AlertKind.CRASH, one.endpoint, index, "")] = Observation(
            end_us,
            crashed > 0,
            f"{crashed} requests of {name} took their worker down in the last minutes",
            evidence,
        )
    return found
