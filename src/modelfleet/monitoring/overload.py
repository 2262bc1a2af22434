"""Endpoints that are asked for more than they can answer, while the gateway sheds what is too much.

Shares come and go at the edge of an overload, so one that is missing for a moment ends nothing:
`alerts.Policy` waits for several looks in a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelfleet.core.clock import iso
from modelfleet.monitoring.alerts import AlertKey, AlertKind, Observation, Policy
from modelfleet.monitoring.types import LiveVersion
from modelfleet.serving.gateway import FairShare

KINDS = (AlertKind.OVERLOAD,)
EVERY_US = 10_000_000
POLICY = Policy(windows=2, clear_windows=6)
"""looks: an alert after ten to twenty seconds, until there was none for a minute"""


def observations(
    shares: Iterable[FairShare], live: Sequence[LiveVersion], at_us: int
) -> dict[AlertKey, Observation]:
    """What is true of every live version just now."""
    shed = {one.endpoint: one for one in shares}
    found = {}
    for one in live:
        key = AlertKey(AlertKind.OVERLOAD, one.endpoint, one.version_index, "")
        share = shed.get(one.endpoint)
        if share is None:
            found[key] = Observation(at_us, False)
            continue
        evidence: dict[str, object] = {"of_a_caller_per_second": share.per_second}
        if share.since_us:
            evidence["since"] = iso(share.since_us)
        found[key] = Observation(
            at_us,
            True,
            f"{one.endpoint} is asked for more than {one.model} {one.version} can answer: "
            f"{share.in_words}, the gateway refuses the rest",
            evidence,
        )
    return found
