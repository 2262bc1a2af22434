"""Routes: which version answers a path.

The virtual host matches by a map of prefixes, whose cost doesn't grow with the number of
endpoints. Keys end in a slash (or `m1` would catch `m10`), in a question mark (`:path` holds the
query), or stand in a second map of exact paths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from modelfleet.serving.gateway import access
from modelfleet.serving.gateway.actions import (
    direct,
    feedback,
    pinned,
    retries,
    weighted,
)
from modelfleet.serving.gateway.config import EndpointRoutes, GatewayConfig, Target

ROUTES = "modelfleet"
_CONFIGURATION = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_ROUTE_LIST = "type.googleapis.com/envoy.config.route.v3.RouteList"
_PATH = {
    "name": "path",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
        "header_name": ":path",
    },
}
_PIN = "x-model-version"


def render(config: GatewayConfig, gateway_secret: str) -> dict[str, object]:
    """rds.json. `gateway_secret` tells the control plane that feedback came through us."""
    prefixes: dict[str, object] = {}
    exact: dict[str, object] = {}
    for endpoint in config.endpoints:
        base = f"/v2/models/{endpoint.name}"
        # Two lists: an action can't be shared, and the slashless path has no pins by path.
        prefixes[f"{base}/"] = _on_match(base, _below(endpoint, gateway_secret))
        bare = _on_match(f"{base} itself", _plain(endpoint))
        prefixes[f"{base}?"] = exact[base] = bare
    for path, body in _health().items():
        prefixes[f"{path}?"] = exact[path] = _on_match(path, [body])
    virtual_host = {
        "name": "endpoints",
        "domains": ["*"],
        "include_request_attempt_count": True,
        "retry_policy": retries(),
        "typed_per_filter_config": {
            access.SCOPES: access.nobody(),
            access.REVOKED: access.deny(config.revoked),
        },
        "matcher": {
            "matcher_tree": {"input": _PATH, "prefix_match_map": {"map": prefixes}},
            "on_no_match": {
                "matcher": {"matcher_tree": {"input": _PATH, "exact_match_map": {"map": exact}}}
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


def _below(endpoint: EndpointRoutes, gateway_secret: str) -> list[dict[str, object]]:
    """Everything below the endpoint's name, tried in this order."""
    base = re.escape(f"/v2/models/{endpoint.name}")
    scope = access.scope(endpoint.name)
    by_path: list[dict[str, object]] = [
        {
            "match": _regex(f"{base}/versions/(?:{_names(target)})(?:/infer|/ready)?"),
            **pinned(endpoint, target, scope),
        }
        for target in endpoint.targets
    ]
    return [
        {
            "match": {
                "path": f"/v2/models/{endpoint.name}/feedback",
                "headers": [_header(":method", {"exact": "POST"})],
            },
            **feedback(scope, gateway_secret),
        },
        *by_path,
        *_plain(endpoint, f"{base}/(?:infer|ready)"),
    ]


def _plain(endpoint: EndpointRoutes, regex: str = "") -> list[dict[str, object]]:
    """Routes without a version in the path: pinned by header, else by weight."""
    scope = access.scope(endpoint.name)
    match = _regex(regex) if regex else {"path": f"/v2/models/{endpoint.name}"}
    by_header: list[dict[str, object]] = [
        {
            "match": {**match, "headers": [_header(_PIN, _regex(_names(target)))]},
            **pinned(endpoint, target, scope),
        }
        for target in endpoint.targets
    ]
    unpinned = {"name": _PIN, "present_match": True, "invert_match": True}
    rest: list[dict[str, object]] = []
    if any(target.weight for target in endpoint.targets):
        if endpoint.shadows and regex:
            post = _header(":method", {"exact": "POST"})
            infer = _regex(re.escape(f"/v2/models/{endpoint.name}/infer"))
            action = weighted(endpoint, scope, mirrored=True)
            rest.append({"match": {**infer, "headers": [unpinned, post]}, **action})
        action = weighted(endpoint, scope, mirrored=False)
        rest.append({"match": {**match, "headers": [unpinned]}, **action})
    return [*by_header, *rest]


def _names(target: Target) -> str:
    """A version is called by its semantic version or its sequence number."""
    return f"{re.escape(target.version)}|{target.sequence}"


def _regex(pattern: str) -> dict[str, object]:
    return {"safe_regex": {"regex": pattern}}


def _header(name: str, match: dict[str, object]) -> dict[str, object]:
    return {"name": name, "string_match": match}


def _on_match(name: str, routes: Sequence[dict[str, object]]) -> dict[str, object]:
    return {
        "action": {"name": name, "typed_config": {"@type": _ROUTE_LIST, "routes": list(routes)}}
    }


def _health() -> dict[str, dict[str, object]]:
    """Paths that need no key. The gateway answers: it is ready once it has routes."""
    bodies = {
        "/v2": '{"name":"modelfleet","version":"2","extensions":["binary_tensor_data"]}',
        "/v2/health/live": '{"live":true}',
        "/v2/health/ready": '{"live":true,"ready":true}',
    }
    return {path: {"match": {"path": path}, **direct(body)} for path, body in bodies.items()}
