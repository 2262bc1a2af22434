"""Documents and what is observed, brought to one shape, so that they can be compared.

Lists that are sets (consumers, models that are used) become mappings, and what only names the
document is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from modelfleet.delivery.diff import Flat, Path, flat
from modelfleet.registry import Model
from modelfleet.serving.endpoints import Endpoint

WATCHED: tuple[Path, ...] = (
    ("metadata",),
    ("consumers",),
    ("uses",),
    ("serve", "isolation"),
    ("serve", "timeout"),
    ("endpoint",),
)
"""fields of a model's document whose present value can be seen"""
DEFAULTS: Flat = {
    ("metadata", "description"): "",
    ("metadata", "function"): "",
    ("metadata", "tier"): "normal",
    ("serve", "isolation"): "shared",
    ("endpoint", "sticky"): "none",
    ("endpoint", "priority"): "normal",
    ("endpoint", "rules"): [],
}
_USED = "uses of"
"""what is said of a use beside that there is one; nothing of it can be observed"""
RULES: Path = ("endpoint", "rules")
KEPT = {
    "scale": "scaling",
    "monitor": "monitors of this document",
    "budget": "budgets",
}
"""sections that are kept with the document, and what will act on them"""


def file_facts(document: Mapping[str, Any]) -> Flat:
    """Of a model's document in plain values."""
    told = {
        key: value
        for key, value in document.items()
        if key not in ("apiVersion", "kind", "uses", "consumers", "metadata", "endpoint")
    }
    metadata = {key: value for key, value in document["metadata"].items() if key != "name"}
    told["metadata"] = metadata
    endpoint = dict(document.get("endpoint", {}))
    rules = endpoint.pop("rules", None)
    if "endpoint" in document:
        endpoint.setdefault("name", document["metadata"]["name"])
        told["endpoint"] = endpoint
    found = flat(told)
    if rules is not None:  # their order decides: they are one value
        found[RULES] = rules
    for one in document.get("consumers", ()):
        [(kind, name)] = one.items()
        found[("consumers", f"{kind} {name}")] = True
    for one in document.get("uses", ()):
        found[("uses", one["model"])] = True
        for key in ("version", "as"):
            if key in one:
                found[(_USED, one["model"], key)] = one[key]
    kept = ("gates",)  # `signature: {}` says something
    return {p: one for p, one in found.items() if len(p) > 1 and (one != {} or p[0] in kept)}


def seen_facts(
    model: Model | None,
    endpoint: Endpoint | None,
    uses: Collection[str],
    consumers: Collection[str],
) -> Flat:
    """Of what is there."""
    found: Flat = {}
    if model is not None:
        found |= {
            ("metadata", "owner"): model.owner_team,
            ("metadata", "description"): model.description,
            ("metadata", "function"): model.business_function,
            ("metadata", "tier"): model.criticality,
            ("serve", "isolation"): model.isolation,
        }
        found |= {("metadata", "tags", key): value for key, value in model.tags.items()}
    found |= {("uses", name): True for name in uses}
    found |= {("consumers", name): True for name in consumers}
    if endpoint is not None:
        found |= _endpoint_facts(endpoint)
    return found


def _endpoint_facts(endpoint: Endpoint) -> Flat:
    traffic = endpoint.traffic
    sticky = "none"
    if traffic.sticky is not None:
        name = f":{traffic.sticky.name}" if traffic.sticky.name else ""
        sticky = f"{traffic.sticky.by}{name}"
    limit = traffic.rate_limit
    rules = [
        {
            key: getattr(rule, key)
            for key in ("version", "header", "equals", "prefix", "caller", "team")
            if getattr(rule, key)
        }
        for rule in traffic.rules
    ]
    found: dict[str, Any] = {
        "name": endpoint.name,
        "sticky": sticky,
        "priority": traffic.priority,
        "concurrency": traffic.concurrency,
        "rate_limit": (
            {"requests": limit.requests, "per": float(limit.seconds)} if limit else None
        ),
        "try_timeout": _seconds(traffic.per_try_timeout_ms),
    }
    told = {key: value for key, value in found.items() if value is not None}
    timeout = _seconds(traffic.timeout_ms)
    facts = flat({"endpoint": told}) | {RULES: rules}
    return facts | ({("serve", "timeout"): timeout} if timeout is not None else {})


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def traffic_of(document: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the traffic policy that the document sets, or that it set before."""
    endpoint, serve = document.get("endpoint", {}), document.get("serve", {})
    was, was_serve = before.get("endpoint", {}), before.get("serve", {})
    found: dict[str, Any] = {}
    for key, name in (("concurrency", "concurrency"), ("try_timeout", "per_try_timeout_ms")):
        if key in endpoint or key in was:
            found[name] = endpoint.get(key)
    if "timeout" in serve or "timeout" in was_serve:
        found["timeout_ms"] = serve.get("timeout")
    for name in ("per_try_timeout_ms", "timeout_ms"):
        if found.get(name) is not None:
            found[name] = round(found[name] * 1000)
    if "priority" in endpoint or "priority" in was:
        found["priority"] = endpoint.get("priority", "normal")
    if "sticky" in endpoint or "sticky" in was:
        by, _, name = endpoint.get("sticky", "none").partition(":")
        found["sticky"] = None if by == "none" else {"by": by, "name": name}
    if "rules" in endpoint or "rules" in was:
        found["rules"] = [dict(rule) for rule in endpoint.get("rules", ())]
    if "rate_limit" in endpoint or "rate_limit" in was:
        limit = endpoint.get("rate_limit")
        found["rate_limit"] = limit and {
            "requests": limit["requests"],
            "seconds": round(limit.get("per", 1)),
        }
    return found
