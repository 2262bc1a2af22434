"""What a matched route does: to which pool, as which version, how often, how long."""

from __future__ import annotations

from modelfleet.serving.gateway import access
from modelfleet.serving.gateway.clusters import CONTROL_PLANE, name_of
from modelfleet.serving.gateway.config import EndpointRoutes, Shadow, Target

VERSION = "x-mf-version"
GATEWAY_SECRET = "x-mf-gateway"
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"
_ABSENT = "ADD_IF_ABSENT"
_FEEDBACK_TIMEOUT = "10s"
_NEVER = 599
"""a status that nobody answers with"""


def pinned(endpoint: EndpointRoutes, target: Target, scope: dict[str, object]) -> dict[str, object]:
    """The client asked for this version."""
    return _route(
        {"cluster": name_of(target.pool), **_patience(endpoint)},
        [_header(VERSION, str(target.version_index), _OVERWRITE), _deadline(endpoint)],
        scope,
    )


def weighted(
    endpoint: EndpointRoutes, scope: dict[str, object], *, mirrored: bool
) -> dict[str, object]:
    """Versions by weight. Entries often name one pool and differ only in the version header."""
    clusters = [
        {
            "name": name_of(target.pool),
            "weight": target.weight,
            "request_headers_to_add": [_header(VERSION, str(target.version_index), _OVERWRITE)],
        }
        for target in endpoint.targets
        if target.weight
    ]
    choice: dict[str, object] = {"clusters": clusters}
    action: dict[str, object] = {"weighted_clusters": choice, **_patience(endpoint)}
    if endpoint.sticky:
        choice["use_hash_policy"] = True
        action["hash_policy"] = [{"header": {"header_name": endpoint.sticky}}]
    if mirrored:
        action["request_mirror_policies"] = [_mirror(shadow) for shadow in endpoint.shadows]
    return _route(action, [_deadline(endpoint)], scope)


def feedback(scope: dict[str, object], gateway_secret: str) -> dict[str, object]:
    """Outcomes go to the control plane, once: a second try might count them twice."""
    once: dict[str, object] = {"retry_policy": {"num_retries": 0}}
    action: dict[str, object] = {"cluster": CONTROL_PLANE, "timeout": _FEEDBACK_TIMEOUT, **once}
    return _route(action, [_header(GATEWAY_SECRET, gateway_secret, _OVERWRITE)], scope)


def direct(body: str) -> dict[str, object]:
    """The gateway's own good answer."""
    return {
        "direct_response": {"status": 200, "body": {"inline_string": body}},
        "response_headers_to_add": [_header("content-type", "application/json", _OVERWRITE)],
        "typed_per_filter_config": {access.SCOPES: access.anybody()},
    }


def _route(
    action: dict[str, object], headers: list[dict[str, object]], scope: dict[str, object]
) -> dict[str, object]:
    return {
        "route": action,
        "request_headers_to_add": headers,
        "typed_per_filter_config": {access.SCOPES: scope},
    }


def retries() -> dict[str, object]:
    """The policy of the virtual host; a request may be sent again to another worker."""
    return {
        "retry_on": "connect-failure,refused-stream,reset,reset-before-request,"
        "retriable-status-codes",
        "retriable_status_codes": [503],
        # About 0.3 s in all: as long as a replica stays out that was ejected by mistake.
        "num_retries": 8,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3"
                    ".PreviousHostsPredicate"
                },
            }
        ],
        # A dead worker has no open requests, so the balancer likes it best: ask until it doesn't.
        "host_selection_retry_max_attempts": 30,
        "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
    }


def _patience(endpoint: EndpointRoutes) -> dict[str, object]:
    """A route's own policy replaces the virtual host's, so it is whole."""
    found: dict[str, object] = {"timeout": _seconds(endpoint.timeout_ms)}
    if endpoint.per_try_timeout_ms is not None:
        per_try = _seconds(endpoint.per_try_timeout_ms)
        found["retry_policy"] = {**retries(), "per_try_timeout": per_try}
    elif not endpoint.retries_503:
        found["retry_policy"] = {**retries(), "retriable_status_codes": [_NEVER]}
    return found


def _deadline(endpoint: EndpointRoutes) -> dict[str, object]:
    """The client's own deadline, or the route's. The route's timeout ends the request anyway."""
    return _header("x-mf-timeout-ms", str(endpoint.timeout_ms), _ABSENT)


def _mirror(shadow: Shadow) -> dict[str, object]:
    return {
        "cluster": name_of(shadow.pool),
        "runtime_fraction": {
            "default_value": {"numerator": shadow.fraction, "denominator": "TEN_THOUSAND"}
        },
        "request_headers_mutations": [
            {"append": _header(VERSION, str(shadow.version_index), _OVERWRITE)},
            {"append": _header("x-mf-shadow", "1", _OVERWRITE)},
        ],
    }


def _header(key: str, value: str, action: str) -> dict[str, object]:
    return {"header": {"key": key, "value": value}, "append_action": action}


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}s"
