"""Counters of the requests that the gateway itself refuses, by endpoint and reason.

Envoy's access loggers of statistics count only what their filters let through, so a good answer
pays for two comparisons and no more. Labels come from Envoy's own words, never from a worker: of
those it sees nothing but the status. What the counters mean is read by `telemetry.gateway`.
"""

from __future__ import annotations

from modelfleet.core.refusals import COUNTER, HEADER, SCOPE, Reason

_CONFIG = "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config"
_MOST = 10_000
"""counters; what comes after them is not counted, so that nobody can fill the memory"""
_LIMITED = 429


def loggers() -> list[dict[str, object]]:
    """`access_log` of the listeners. A worker's errors are counted, too, and known by `details`."""
    codes = [_status("GE", 400), _status("NE", _LIMITED)]
    errors: dict[str, object] = {"and_filter": {"filters": codes}}
    limited: dict[str, object] = {"response_flag_filter": {"flags": ["RL"]}}
    endpoint = _label("endpoint", "%ROUTE_NAME%")
    return [
        _logger(
            errors,
            endpoint,
            _label("code", "%RESPONSE_CODE%"),
            _label("details", "%RESPONSE_CODE_DETAILS%"),
        ),
        _logger(limited, endpoint, _label("limit", f"%RESP({HEADER})%")),
    ]


def said(reason: Reason) -> dict[str, object]:
    """The header by which a limit says that it was the one."""
    return {
        "header": {"key": HEADER, "value": reason.value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _logger(which: dict[str, object], *labels: dict[str, str]) -> dict[str, object]:
    counter = {"stat": {"name": COUNTER, "tags": labels}, "value_fixed": 1}
    return {
        "name": "envoy.access_loggers.stats",
        "filter": which,
        "typed_config": {
            "@type": _CONFIG,
            "stats_scope": {"prefix": SCOPE, "max_counters": _MOST, "sharing_name": COUNTER},
            "counters": [counter],
        },
    }


def _status(comparison: str, status: int) -> dict[str, object]:
    value = {"default_value": status, "runtime_key": "gateway.no_such_key"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


def _label(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value_format": value}
