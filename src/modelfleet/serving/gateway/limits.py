"""Filters that only some routes use: they stand in the listener, switched off, and a route that
needs one switches it on. Others pay nothing for them.
"""

from __future__ import annotations

from modelfleet.serving.gateway.config import RateLimit

_TYPES = "type.googleapis.com/envoy"
_LUA = f"{_TYPES}.extensions.filters.http.lua.v3"
_RATE = f"{_TYPES}.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_CHOOSE_AGAIN = "modelfleet.choose_again"
_RATE_LIMIT = "modelfleet.rate_limit"
_BUFFER = "envoy.filters.http.buffer"
_NO_LIMIT = 1_000_000_000
_CALLERS = 10_000
"""Buckets of one endpoint; beyond them, the caller who was away longest gets a new one."""


def filters() -> list[dict[str, object]]:
    """They stand behind access: who may not pass uses up nobody's share."""
    script = "function envoy_on_request(handle) handle:clearRouteCache() end"
    return [
        {
            "name": _CHOOSE_AGAIN,
            "disabled": True,
            "typed_config": {
                "@type": f"{_LUA}.Lua",
                "default_source_code": {"inline_string": script},
            },
        },
        {
            "name": _RATE_LIMIT,
            "disabled": True,
            "typed_config": {"@type": _RATE, "stat_prefix": "rate_limit"},
        },
    ]


def choose_again() -> dict[str, object]:
    """Routes are chosen before the key is read; here they are chosen once more, with the caller."""
    return {_CHOOSE_AGAIN: _on({})}


def per_caller(endpoint: str, limit: RateLimit) -> dict[str, object]:
    """A bucket for each caller. A new route configuration begins with full ones."""
    always = {"default_value": {"numerator": 100}}
    bucket = {
        "max_tokens": limit.requests,
        "tokens_per_fill": limit.requests,
        "fill_interval": f"{limit.seconds}s",
    }
    caller = {"request_headers": {"header_name": "x-mf-caller", "descriptor_key": "caller"}}
    retry_after = {"key": "retry-after", "value": str(limit.seconds)}
    return {
        _RATE_LIMIT: {
            "@type": _RATE,
            "stat_prefix": "rate_limit",
            "filter_enabled": always,
            "filter_enforced": always,
            "token_bucket": {
                "max_tokens": _NO_LIMIT,
                "tokens_per_fill": _NO_LIMIT,
                "fill_interval": "1s",
            },
            "always_consume_default_token_bucket": False,
            "max_dynamic_descriptors": _CALLERS,
            "rate_limits": [{"actions": [caller]}],
            "descriptors": [{"entries": [{"key": "caller"}], "token_bucket": bucket}],
            "response_headers_to_add": [
                {"header": retry_after, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            ],
        }
    }


def streaming() -> dict[str, object]:
    """Bodies pass as they come."""
    kind = f"{_TYPES}.extensions.filters.http.buffer.v3.BufferPerRoute"
    return {_BUFFER: {"@type": kind, "disabled": True}}


def _on(config: dict[str, object]) -> dict[str, object]:
    return {"@type": f"{_TYPES}.config.route.v3.FilterConfig", "config": config}
