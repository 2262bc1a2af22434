"""Load shedding: while an endpoint is asked for more than its model can answer, each caller gets a
fair share and the rest is refused here, which costs a third of a refusal by a worker.

The shares stand in a file of their own (Envoy's extension config discovery), so that changing them
touches neither routes nor the buckets of rate limits. Routes to light models don't have the filter:
the gateway itself is what limits those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelfleet.core.refusals import Reason
from modelfleet.serving.gateway import limits
from modelfleet.serving.gateway.config import Priority
from modelfleet_worker.fair import WEIGHTS

FILE = "shed.json"
FILTER = "modelfleet.shed"
_TYPES = "type.googleapis.com/envoy"
_SECONDS = 0.1
"""In which a bucket is filled; Envoy takes 50 ms at least."""
_BURST = 2


@dataclass(frozen=True)
class FairShare:
    """What each caller may ask of an endpoint, and the priority of callers whose key says none;
    others get more or less, as in a worker's queue."""

    endpoint: str
    per_second: float
    priority: Priority = "normal"
    since_us: int = 0
    """when the overload began; 0 if that was not noted"""

    @property
    def in_words(self) -> str:
        digits = ".3g" if self.per_second < 1000 else ",.0f"
        return f"each caller gets {self.per_second:{digits}} requests a second"


def listener_filter(folder: Path) -> dict[str, object]:
    """It stands behind the body limits: a request that is refused before it was read would cost the
    client its connection."""
    return {
        "name": FILTER,
        "disabled": True,
        "config_discovery": {
            "config_source": {
                "path_config_source": {"path": str(folder / FILE)},
                "resource_api_version": "V3",
            },
            "type_urls": [limits.RATE],
            "default_config": _limits(()),  # should the file be unreadable
        },
    }


def route() -> dict[str, object]:
    """Switches it on."""
    return limits.on(FILTER)


def render(version: str, shares: Sequence[FairShare]) -> dict[str, object]:
    """shed.json."""
    resource = {
        "@type": f"{_TYPES}.config.core.v3.TypedExtensionConfig",
        "name": FILTER,
        "typed_config": _limits(shares),
    }
    return {"version_info": version, "resources": [resource]}


def _limits(shares: Sequence[FairShare]) -> dict[str, object]:
    return limits.buckets(
        "shed",
        Reason.OVERLOAD,
        actions=[_actions(one) for one in shares],
        descriptors=[bucket for one in shares for bucket in _buckets(one)],
    )


def _actions(share: FairShare) -> list[dict[str, object]]:
    """Only inference counts: whether a model is ready must be known then, too."""
    inference = [
        {"name": ":method", "string_match": {"exact": "POST"}},
        {"name": ":path", "string_match": {"prefix": f"/v2/models/{share.endpoint}/"}},
    ]
    endpoint = {"descriptor_key": "endpoint", "descriptor_value": share.endpoint}
    return [
        {"header_value_match": {**endpoint, "headers": inference}},
        {"request_headers": {**limits.header("x-mf-priority", "priority"), "skip_if_absent": True}},
        {"request_headers": limits.header("x-mf-caller", "caller")},
    ]


def _buckets(share: FairShare) -> list[dict[str, object]]:
    endpoint, caller = {"key": "endpoint", "value": share.endpoint}, {"key": "caller"}
    found: list[dict[str, object]] = [
        {"entries": [endpoint, caller], "token_bucket": _bucket(share.per_second)}
    ]
    own = WEIGHTS[share.priority.encode()]
    for name, weight in WEIGHTS.items():
        entries = [endpoint, {"key": "priority", "value": name.decode()}, caller]
        bucket = _bucket(share.per_second * weight / own)
        found.append({"entries": entries, "token_bucket": bucket})
    return found


def _bucket(per_second: float) -> dict[str, object]:
    tokens = max(1, round(per_second * _SECONDS))
    return {
        "max_tokens": _BURST * tokens,
        "tokens_per_fill": tokens,
        "fill_interval": f"{tokens / per_second:.6f}s",
    }
