"""Who may pass: verified tokens, a deny list of revoked keys, the scopes of a key.

Two filters decide, both by rules in the route configuration, so that a change counts on
connections that are already open. `ACCESS` has one rule for all endpoints; `NAMED` is a route's
own: does the key name its endpoint? The plain cases are header matches, because an expression
costs 5 us a request; keys for single actions (`churn:infer`) are left to an expression in
`ACCESS`. A route without a rule of its own lets nobody in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from modelfleet.core.claims import ALL, AUDIENCE, ISSUER
from modelfleet.serving.gateway import cel

ACCESS = "modelfleet.access"
NAMED = "modelfleet.named"
GRPC = "/inference.GRPCInferenceService/"

_JWT = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
_RBAC_PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute"
_JWT_FILTER = "envoy.filters.http.jwt_authn"
SCOPE, NAMES, KEY = "x-mf-scope", "x-mf-named", "x-mf-key-id"
OURS_ALONE = (SCOPE, NAMES, KEY)
"""headers that workers don't get"""
_HEADERS = {
    "x-mf-caller": "sub",
    KEY: "jti",
    SCOPE: "scope",
    NAMES: "named",
    "x-mf-teams": "teams",
    "x-mf-priority": "priority",
}


def filters(jwks: str) -> list[dict[str, object]]:
    """The filters in their order: token, access, named. `jwks` is the JSON of public keys.

    Without routes they let pass, so that unknown paths get 404: see `GatewayFiles.bootstrap`.
    """
    return [
        {"name": _JWT_FILTER, "typed_config": _token_filter(jwks)},
        {"name": ACCESS, "typed_config": {"@type": _RBAC}},
        {"name": NAMED, "typed_config": {"@type": _RBAC}},
    ]


def _token_filter(jwks: str) -> dict[str, object]:
    return {
        "@type": _JWT,
        "providers": {
            "modelfleet": {
                "issuer": ISSUER,
                "audiences": [AUDIENCE],
                "local_jwks": {"inline_string": jwks},
                "jwt_cache_config": {"jwt_cache_size": 1000},
                "clock_skew_seconds": 1,
                "forward": False,
                "from_headers": [
                    {"name": "authorization", "value_prefix": scheme}
                    for scheme in ("Bearer ", "bearer ")
                ],
                "from_params": ["access_token"],
                "claim_to_headers": [
                    {"header_name": header, "claim_name": claim}
                    for header, claim in _HEADERS.items()
                ],
            }
        },
        "rules": [
            {"match": {"path": "/v2"}},
            {"match": {"prefix": "/v2/health/"}},
            {"match": {"prefix": GRPC}},
            {"match": {"prefix": "/"}, "requires": {"provider_name": "modelfleet"}},
        ],
    }


def defaults(revoked: Sequence[str]) -> dict[str, object]:
    """Of the virtual host: keys that aren't revoked, and no route is open.

    A key with a list of names passes here; a route of an endpoint looks for its own among them.
    """
    named: dict[str, object] = {"header": {"name": NAMES, "present_match": True}}
    everything: dict[str, object] = {"header": {"name": SCOPE, "string_match": {"exact": ALL}}}
    rules: dict[str, object] = {
        "1-named": _policy(_valid(revoked, named)),
        "2-all": _policy(_valid(revoked, everything)),
        "3-actions": _by_expression(revoked),
    }
    return {ACCESS: _per_route(rules), NAMED: _refuse(_ANYBODY)}


def endpoint(name: str) -> dict[str, object]:
    """Refuses keys with a list of names that lacks this one; others passed for other reasons."""
    lacking = {"string_match": {"contains": f",{name},"}, "invert_match": True}
    return {NAMED: _refuse({"header": {"name": NAMES, **lacking}})}


def any_endpoint(revoked: Sequence[str]) -> dict[str, object]:
    """For a route that many endpoints share: the path tells which one it is."""
    return {
        ACCESS: _per_route({"any": _by_expression(revoked)}),
        NAMED: _per_route({"any": _policy(_ANYBODY)}),
    }


def anybody() -> dict[str, object]:
    rules = _per_route({"anybody": _policy(_ANYBODY)})
    return {ACCESS: rules, NAMED: rules}


_ANYBODY: dict[str, object] = {"any": True}


def _by_expression(revoked: Sequence[str]) -> dict[str, object]:
    return {
        **_policy(_valid(revoked, _ANYBODY)),
        "condition": cel.numbered(_in_scope()),
        "cel_config": {"enable_string_functions": True, "enable_string_concat": True},
    }


def _in_scope() -> cel.Tree:
    """An error, such as a missing claim, counts as no."""
    request = cel.name("request")
    path = cel.field(request, "url_path")
    headers = cel.field(request, "headers")

    def holds(*parts: cel.Tree, among: str = SCOPE) -> cel.Tree:
        entry = cel.joined(cel.text(","), *parts, cel.text(","))
        return cel.call("contains", entry, target=cel.at(headers, cel.text(among)))

    endpoint = cel.at(cel.call("split", cel.text("/"), target=path), cel.number(3))
    action = cel.choose(
        cel.call("_==_", cel.field(request, "method"), cel.text("POST")),
        cel.choose(
            cel.call("endsWith", cel.text("/feedback"), target=path),
            cel.text(":feedback"),
            cel.text(":infer"),
        ),
        cel.text(":metadata"),
    )
    return cel.either(
        holds(endpoint),
        holds(cel.text("*")),
        holds(endpoint, action),
        holds(cel.text("*"), action),
        holds(endpoint, among=NAMES),
        cel.call("_==_", cel.at(headers, cel.text(SCOPE)), cel.text(ALL)),
    )


def _valid(revoked: Sequence[str], principal: dict[str, object]) -> dict[str, object]:
    """`principal` with a key that isn't revoked: the cost doesn't grow with their number."""
    if not revoked:
        return principal
    pattern = "|".join(re.escape(key) for key in sorted(revoked))
    of_key = {"header": {"name": KEY, "string_match": {"safe_regex": {"regex": pattern}}}}
    return {"and_ids": {"ids": [principal, {"not_id": of_key}]}}


def _policy(*principals: dict[str, object]) -> dict[str, object]:
    return {"permissions": [_ANYBODY], "principals": list(principals)}


def _refuse(principal: dict[str, object]) -> dict[str, object]:
    rules = {"action": "DENY", "policies": {"lacking": _policy(principal)}}
    return {"@type": _RBAC_PER_ROUTE, "rbac": {"rules": rules}}


def _per_route(policies: dict[str, object]) -> dict[str, object]:
    return {"@type": _RBAC_PER_ROUTE, "rbac": {"rules": {"policies": policies}}}
