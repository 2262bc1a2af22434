"""Who may pass: verified tokens, scopes by route, a deny list of revoked keys.

Both role filters take their rules from the route configuration, so that a change counts on
connections that are already open. Without a rule of its own, a route lets nobody in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from modelfleet.core.claims import AUDIENCE, ISSUER

SCOPES = "modelfleet.scopes"
REVOKED = "modelfleet.revoked"

_JWT = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
_RBAC_PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute"
_JWT_FILTER = "envoy.filters.http.jwt_authn"
_PAYLOAD = "jwt"


def filters(jwks: str) -> list[dict[str, object]]:
    """The filters in their order: token, revoked, scopes. `jwks` is the JSON of public keys."""
    return [
        {"name": _JWT_FILTER, "typed_config": _token_filter(jwks)},
        {"name": REVOKED, "typed_config": {"@type": _RBAC}},
        {"name": SCOPES, "typed_config": {"@type": _RBAC}},
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
                "payload_in_metadata": _PAYLOAD,
                "claim_to_headers": [{"header_name": "x-mf-caller", "claim_name": "sub"}],
            }
        },
        "rules": [
            {"match": {"path": "/v2"}},
            {"match": {"prefix": "/v2/health/"}},
            {"match": {"prefix": "/"}, "requires": {"provider_name": "modelfleet"}},
        ],
    }


def nobody() -> dict[str, object]:
    """The default of a virtual host: routes without a rule are closed."""
    return _per_route({"action": "ALLOW", "policies": {}})


def anybody() -> dict[str, object]:
    return _per_route({"action": "ALLOW", "policies": {"anybody": _policy([{"any": True}])}})


def scope(endpoint: str) -> dict[str, object]:
    """Keys whose claim `models` names the endpoint, or `*`."""
    allowed = [
        _claim("models", {"list_match": {"one_of": {"string_match": {"exact": name}}}})
        for name in (endpoint, "*")
    ]
    return _per_route({"action": "ALLOW", "policies": {"scope": _policy(allowed)}})


def deny(revoked: Sequence[str]) -> dict[str, object]:
    """Refuse the keys of these ids. One expression: its cost doesn't grow with the list."""
    if not revoked:
        return _per_route({"action": "DENY", "policies": {}})
    pattern = "|".join(re.escape(key) for key in sorted(revoked))
    principal = _claim("jti", {"string_match": {"safe_regex": {"regex": pattern}}})
    return _per_route({"action": "DENY", "policies": {"revoked": _policy([principal])}})


def _claim(name: str, value: dict[str, object]) -> dict[str, object]:
    return {
        "sourced_metadata": {
            "metadata_matcher": {
                "filter": _JWT_FILTER,
                "path": [{"key": _PAYLOAD}, {"key": name}],
                "value": value,
            },
            "metadata_source": "DYNAMIC",
        }
    }


def _policy(principals: Sequence[dict[str, object]]) -> dict[str, object]:
    return {"permissions": [{"any": True}], "principals": list(principals)}


def _per_route(rules: dict[str, object]) -> dict[str, object]:
    return {"@type": _RBAC_PER_ROUTE, "rbac": {"rules": rules}}
