"""Routes: which version answers a path.

The virtual host matches by a map of prefixes, whose cost doesn't grow with the number of
endpoints. A key is an endpoint's path without a slash behind it, so one is enough for all that
lies below it; that `m1` doesn't answer for `m10` is seen to by the expression of its routes. Most
endpoints have one version and no rule: they have one route. What is rendered for an endpoint is
kept until the endpoint changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from modelfleet import __version__
from modelfleet.serving.gateway import access
from modelfleet.serving.gateway.actions import (
    defaults,
    direct,
    feedback,
    grpc,
    pinned,
    retries,
    rule_headers,
    weighted,
)
from modelfleet.serving.gateway.config import EndpointRoutes, GatewayConfig, Target

ROUTES = "modelfleet"
PIN = "x-model-version"
_TYPES = "type.googleapis.com/envoy"
_CONFIGURATION = f"{_TYPES}.config.route.v3.RouteConfiguration"
_PATH = {
    "name": "path",
    "typed_config": {
        "@type": f"{_TYPES}.type.matcher.v3.HttpRequestHeaderMatchInput",
        "header_name": ":path",
    },
}
_INFERENCE = "(?:/infer|/invocations)"
_BELOW = "(?:/infer|/invocations|/ready)?"
_FEEDBACK = "/v2/models/[^/?]+/feedback"


class RouteRenderer:
    """Renders rds.json, each endpoint only when it has changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[EndpointRoutes, msgspec.Raw]] = {}

    def render(self, config: GatewayConfig, gateway_secret: str) -> dict[str, object]:
        """`gateway_secret` tells the control plane that feedback came through us."""
        keys: dict[str, object] = dict(_own())
        known: dict[str, tuple[EndpointRoutes, msgspec.Raw]] = {}
        for endpoint in config.endpoints:
            before = self._known.get(endpoint.name)
            if before is None or before[0] != endpoint:
                before = (endpoint, msgspec.Raw(msgspec.json.encode(_on_match(_all(endpoint)))))
            known[endpoint.name] = before
            keys[f"/v2/models/{endpoint.name}"] = before[1]
        self._known = known
        return _configuration(config, keys, gateway_secret)


def render(config: GatewayConfig, gateway_secret: str) -> dict[str, object]:
    """The same, once."""
    return RouteRenderer().render(config, gateway_secret)


def _configuration(
    config: GatewayConfig, keys: Mapping[str, object], gateway_secret: str
) -> dict[str, object]:
    path = {"google_re2": {}, "regex": rf"{_FEEDBACK}(?:\?.*)?"}
    to_feedback = {
        "predicate": {
            "single_predicate": {"input": _PATH, "value_match": {"safe_regex": path}},
        },
        "on_match": _on_match([_feedback(gateway_secret, config.revoked)]),
    }
    virtual_host = {
        "name": "endpoints",
        "domains": ["*"],
        "include_request_attempt_count": True,
        "retry_policy": retries(),
        "request_headers_to_add": defaults(),
        "request_headers_to_remove": list(access.OURS_ALONE),
        "typed_per_filter_config": access.defaults(config.revoked),
        "matcher": {
            "matcher_list": {"matchers": [to_feedback]},
            "on_no_match": {
                "matcher": {
                    "matcher_tree": {"input": _PATH, "prefix_match_map": {"map": keys}},
                }
            },
        },
    }
    resource = {
        "@type": _CONFIGURATION,
        "name": ROUTES,
        "validate_clusters": False,
        "virtual_hosts": [virtual_host],
    }
    return {"version_info": str(config.revision), "resources": [resource]}


def _all(endpoint: EndpointRoutes) -> list[dict[str, object]]:
    """The routes of an endpoint, tried in this order: pins, rules, weights."""
    base = re.escape(f"/v2/models/{endpoint.name}")
    targets, live = endpoint.targets, [t for t in endpoint.targets if t.weight]
    if len(targets) == len(live) == 1 and not endpoint.rules and not endpoint.shadows:
        path = f"{base}(?:/versions/(?:{_names(targets[0])}))?{_BELOW}"
        return [{"match": _match(path, _pin(targets[0])), **pinned(endpoint, targets[0])}]
    found: list[dict[str, object]] = []
    for target in targets:
        path = f"{base}/versions/(?:{_names(target)}){_BELOW}"
        found.append({"match": _match(path, _pin(target)), **pinned(endpoint, target)})
        by_header: dict[str, object] = {"name": PIN, "string_match": _regex(_names(target))}
        found.append({"match": _match(f"{base}{_BELOW}", by_header), **pinned(endpoint, target)})
    unpinned = {"name": PIN, "present_match": True, "invert_match": True}
    by_index = {target.version_index: target for target in targets}
    for rule in endpoint.rules:
        match = _match(f"{base}{_BELOW}", unpinned, rule_headers(rule))
        found.append({"match": match, **pinned(endpoint, by_index[rule.version_index])})
    if live and endpoint.shadows:
        match = _match(f"{base}{_INFERENCE}", unpinned, _POST)
        found.append({"match": match, **weighted(endpoint, mirrored=True)})
    if live:
        match = _match(f"{base}{_BELOW}", unpinned)
        found.append({"match": match, **weighted(endpoint, mirrored=False)})
    return found


_POST: dict[str, object] = {"name": ":method", "string_match": {"exact": "POST"}}


def _own() -> dict[str, dict[str, object]]:
    """Paths that need no key. The gateway answers: it is ready once it has routes."""
    bodies = {
        "/v2": f'{{"name":"modelfleet","version":"{__version__}",'
        '"extensions":["binary_tensor_data"]}',
        "/v2/health/live": '{"live":true}',
        "/v2/health/ready": '{"live":true,"ready":true}',
    }
    found = {
        path: _on_match([{"match": {"path": path}, **direct(body)}])
        for path, body in bodies.items()
    }
    to_grpc = {"match": {"prefix": access.GRPC, "headers": [_POST]}, **grpc()}
    return {**found, access.GRPC: _on_match([to_grpc])}


def _feedback(gateway_secret: str, revoked: Sequence[str]) -> dict[str, object]:
    match = _match(_FEEDBACK, _POST)
    own = {"typed_per_filter_config": access.any_endpoint(revoked)}
    return {"match": match, **own, **feedback(gateway_secret)}


def _names(target: Target) -> str:
    """A version is called by its semantic version or its sequence number."""
    return f"{re.escape(target.version)}|{target.sequence}"


def _pin(target: Target) -> dict[str, object]:
    """No pin by header, or none that contradicts the path."""
    match = _regex(f"(?:{_names(target)})?")
    return {"name": PIN, "string_match": match, "treat_missing_header_as_empty": True}


def _match(path: str, *headers: dict[str, object]) -> dict[str, object]:
    return {**_regex(path), "headers": list(headers)}


def _regex(pattern: str) -> dict[str, object]:
    return {"safe_regex": {"regex": pattern}}


def _on_match(routes: Sequence[dict[str, object]]) -> dict[str, object]:
    config: dict[str, object]
    if len(routes) == 1:
        config = {"@type": f"{_TYPES}.config.route.v3.Route", **routes[0]}
    else:
        config = {"@type": f"{_TYPES}.config.route.v3.RouteList", "routes": list(routes)}
    return {"action": {"name": "route", "typed_config": config}}
