"""Filters that only some routes use: they stand in the listener, switched off, and a route that
needs one switches it on. Others pay nothing for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelfleet.core.refusals import Reason
from modelfleet.serving.gateway import refusals
from modelfleet.serving.gateway.config import RateLimit

_TYPES = "type.googleapis.com/envoy"
_LUA = f"{_TYPES}.extensions.filters.http.lua.v3"
RATE = f"{_TYPES}.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_CHOOSE_AGAIN = "modelfleet.choose_again"
_RATE_LIMIT = "modelfleet.rate_limit"
_BUFFER = "envoy.filters.http.buffer"
_NO_LIMIT = 1_000_000_000
_CALLERS = 10_000
"""Buckets of one endpoint; beyond them, the caller who was away longest gets a new one."""


def choosing_again() -> dict[str, object]:
    """The filter of `choose_again`, as it stands in the listener: behind access."""
    script = "function envoy_on_request(handle) handle:clearRouteCache() end"
    return {
        "name": _CHOOSE_AGAIN,
        "disabled": True,
        "typed_config": {"@type": f"{_LUA}.Lua", "default_source_code": {"inline_string": script}},
    }


def rate_limit() -> dict[str, object]:
    """The filter of `per_caller`. It stands behind access: who may not pass uses up no share. And
    behind the body limits: a request that is refused before it was read costs the client its
    connection."""
    return {
        "name": _RATE_LIMIT,
        "disabled": True,
        "typed_config": {"@type": RATE, "stat_prefix": "rate_limit"},
    }


def choose_again() -> dict[str, object]:
    """Routes are chosen before the key is read; here they are chosen once more, with the caller."""
    return on(_CHOOSE_AGAIN)


def per_caller(endpoint: str, limit: RateLimit) -> dict[str, object]:
    """A bucket for each caller. A new route configuration begins with full ones."""
    bucket = {
        "max_tokens": limit.requests,
        "tokens_per_fill": limit.requests,
        "fill_interval": f"{limit.seconds}s",
    }
    retry_after = {"key": "retry-after", "value": str(limit.seconds)}
    by_caller = buckets(
        "rate_limit",
        Reason.RATE_LIMIT,
        actions=[[{"request_headers": header("x-mf-caller", "caller")}]],
        descriptors=[{"entries": [{"key": "caller"}], "token_bucket": bucket}],
    )
    later = {"header": retry_after, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        _RATE_LIMIT: {
            **by_caller,
            "response_headers_to_add": [refusals.said(Reason.RATE_LIMIT), later],
        }
    }


def header(name: str, key: str) -> dict[str, object]:
    """A header's value is what the entry `key` of a descriptor holds."""
    return {"header_name": name, "descriptor_key": key}


def buckets(
    name: str, reason: Reason, *, actions: Sequence[object], descriptors: Sequence[object]
) -> dict[str, object]:
    """Local rate limits: what `descriptors` say of requests that fit them, else none.

    reason: what a client hears, and how a refusal counts.
    """
    always = {"default_value": {"numerator": 100}}
    return {
        "@type": RATE,
        "stat_prefix": name,
        "response_headers_to_add": [refusals.said(reason)],
        "filter_enabled": always,
        "filter_enforced": always,
        "token_bucket": {
            "max_tokens": _NO_LIMIT,
            "tokens_per_fill": _NO_LIMIT,
            "fill_interval": "1s",
        },
        "always_consume_default_token_bucket": False,
        "max_dynamic_descriptors": _CALLERS,
        "rate_limits": [{"actions": one} for one in actions],
        "descriptors": descriptors,
    }


def streaming() -> dict[str, object]:
    """Bodies pass as they come."""
    kind = f"{_TYPES}.extensions.filters.http.buffer.v3.BufferPerRoute"
    return {_BUFFER: {"@type": kind, "disabled": True}}


def on(name: str) -> dict[str, object]:
    """A route's own settings: the filter of that name counts here."""
    return {name: {"@type": f"{_TYPES}.config.route.v3.FilterConfig", "config": {}}}
