"""What a matched route does: to which pool, as which version, how often, how long."""

from __future__ import annotations

import re

from modelfleet.serving.gateway import access, limits, shed
from modelfleet.serving.gateway.clusters import CONTROL_PLANE, GRPC, name_of
from modelfleet.serving.gateway.config import EndpointRoutes, Rule, Shadow, Sticky, Target

VERSION = "x-mf-version"
GATEWAY_SECRET = "x-mf-gateway"
DEFAULT_TIMEOUT_MS = 30_000
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"
_ABSENT = "ADD_IF_ABSENT"
_FEEDBACK_TIMEOUT = "10s"
_NEVER = 599
"""a status that nobody answers with"""
_GRPC_TIMEOUT = "120s"
_BY_ENDPOINT: dict[str, object] = {"header": {"header_name": ":path"}}
"""which replica of a pool a light model is kept at"""


def pinned(endpoint: EndpointRoutes, target: Target) -> dict[str, object]:
    """One version: the client asked for it, a rule says so, or there is no other."""
    action: dict[str, object] = {"cluster": _cluster(target), **_patience(endpoint)}
    if target.light:
        action["hash_policy"] = [_BY_ENDPOINT]
    return _route(endpoint, action, [_header(VERSION, str(target.version_index), _OVERWRITE)])


def weighted(endpoint: EndpointRoutes, *, mirrored: bool) -> dict[str, object]:
    """Versions by weight. Entries often name one pool and differ only in the version header."""
    live = [target for target in endpoint.targets if target.weight]
    if len(live) == 1:
        found = pinned(endpoint, live[0])
        action = found["route"]
        assert isinstance(action, dict)
    else:
        choice: dict[str, object] = {
            "clusters": [
                {
                    "name": _cluster(target),
                    "weight": target.weight,
                    "request_headers_to_add": [
                        _header(VERSION, str(target.version_index), _OVERWRITE)
                    ],
                }
                for target in live
            ]
        }
        action = {"weighted_clusters": choice, **_patience(endpoint)}
        if endpoint.sticky:
            choice["use_hash_policy"] = True
            action["hash_policy"] = [_hash(endpoint.sticky)]
        elif any(target.light for target in live):
            action["hash_policy"] = [_BY_ENDPOINT]
        found = _route(endpoint, action, [])
    if mirrored:
        action["request_mirror_policies"] = [_mirror(shadow) for shadow in endpoint.shadows]
    return found


def _cluster(target: Target) -> str:
    return name_of(target.pool, near=target.light)


def rule_headers(rule: Rule) -> dict[str, object]:
    """The header by which a rule knows its requests."""
    if rule.by == "header":
        kind = "prefix" if rule.prefix else "exact"
        return {"name": rule.name, "string_match": {kind: rule.value}}
    if rule.by == "caller":
        return {"name": "x-mf-caller", "string_match": {"exact": rule.value}}
    among = f"(?:.* )?{re.escape(rule.value)}(?: .*)?"
    return {"name": "x-mf-teams", "string_match": {"safe_regex": {"regex": among}}}


def needs_caller(endpoint: EndpointRoutes) -> bool:
    """Whether the choice of a version depends on the key, which is read after the first choice."""
    asked = any(rule.by != "header" for rule in endpoint.rules)
    return asked or (endpoint.sticky is not None and endpoint.sticky.by == "caller")


def feedback(gateway_secret: str) -> dict[str, object]:
    """Outcomes go to the control plane, once: a second try might count them twice."""
    once: dict[str, object] = {"retry_policy": {"num_retries": 0}}
    action: dict[str, object] = {"cluster": CONTROL_PLANE, "timeout": _FEEDBACK_TIMEOUT, **once}
    added = [_header(GATEWAY_SECRET, gateway_secret, _OVERWRITE)]
    return {"route": action, "request_headers_to_add": added}


def grpc() -> dict[str, object]:
    """To the service that speaks gRPC; it calls us again with the caller's own key."""
    return {
        "route": {
            "cluster": GRPC,
            "timeout": _GRPC_TIMEOUT,
            "retry_policy": {"retry_on": "connect-failure", "num_retries": 3},
        },
        "typed_per_filter_config": {**access.anybody(), **limits.streaming()},
    }


def direct(body: str) -> dict[str, object]:
    """The gateway's own good answer."""
    return {
        "direct_response": {"status": 200, "body": {"inline_string": body}},
        "response_headers_to_add": [_header("content-type", "application/json", _OVERWRITE)],
        "typed_per_filter_config": access.anybody(),
    }


def _route(
    endpoint: EndpointRoutes, action: dict[str, object], headers: list[dict[str, object]]
) -> dict[str, object]:
    """Only what differs from `defaults` is said, for the sake of five thousand endpoints."""
    added = list(headers)
    if endpoint.timeout_ms != DEFAULT_TIMEOUT_MS:
        added.append(_header("x-mf-timeout-ms", str(endpoint.timeout_ms), _ABSENT))
    if endpoint.priority != "normal":
        added.append(_header("x-mf-priority", endpoint.priority, _ABSENT))
    if endpoint.concurrency is not None:
        added.append(_header("x-mf-concurrency", str(endpoint.concurrency), _OVERWRITE))
    if endpoint.sticky is not None:
        added.append(_key(endpoint.sticky))
    found: dict[str, object] = {"name": endpoint.name, "route": action}  # for counters
    if added:
        found["request_headers_to_add"] = added
    settings = access.endpoint(endpoint.name)
    if needs_caller(endpoint):
        settings |= limits.choose_again()
    if not all(target.light for target in endpoint.targets):
        settings |= shed.route()
    if endpoint.rate_limit is not None:
        settings |= limits.per_caller(endpoint.name, endpoint.rate_limit)
    found["typed_per_filter_config"] = settings
    return found


def defaults() -> list[dict[str, object]]:
    """Headers of the virtual host, added after those of a route.

    The deadline is the client's own, or the route's. The route's timeout ends the request anyway.
    """
    return [_header("x-mf-timeout-ms", str(DEFAULT_TIMEOUT_MS), _ABSENT)]


def retries() -> dict[str, object]:
    """The policy of the virtual host; a request may be sent again to another worker."""
    return {
        "retry_on": "connect-failure,refused-stream,reset,reset-before-request,"
        "retriable-status-codes",
        "retriable_status_codes": [503],
        # 0.9 s in all, and less than half a second once in a thousand times, for pauses are random:
        # longer than a replica stays out that is back or was ejected by mistake.
        "num_retries": 20,
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


def _hash(sticky: Sticky) -> dict[str, object]:
    if sticky.by == "cookie":
        return {"cookie": {"name": sticky.name}}
    return {"header": {"header_name": _holder(sticky)}}


def _holder(sticky: Sticky) -> str:
    return "x-mf-caller" if sticky.by == "caller" else sticky.name


def _key(sticky: Sticky) -> dict[str, object]:
    """What the worker notes as the request's key, or the cookie that holds it."""
    if sticky.by == "cookie":
        return _header("x-mf-cookie", sticky.name, _OVERWRITE)
    return _header("x-mf-key", f"%REQ({_holder(sticky)})%", _OVERWRITE)


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
    return f"{milliseconds / 1000:g}s"
