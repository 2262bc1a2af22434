"""Which version a request would go to, and why: what the rendered routes do, in words.

A test asks a real gateway the same questions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet.serving.gateway.config import EndpointRoutes, Rule, Target
from modelfleet.serving.gateway.routes import PIN

_BELOW = re.compile(r"(?:/versions/(?P<pin>[^/]+))?(?P<call>/infer|/invocations|/ready)?")


@dataclass(frozen=True)
class Asked:
    """A request, as the gateway sees it. Header names in lower case."""

    path: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    caller: str = ""
    """id of the principal"""
    teams: frozenset[str] = frozenset()
    """as the caller's key says"""


@dataclass(frozen=True)
class Decision:
    status: int | None
    """of the gateway's own answer; None if the request is passed on"""
    why: str
    version: str | None = None
    """None if weights decide, too"""
    chances: Mapping[str, float] = field(default_factory=dict)
    """percent by version"""
    shadows: Mapping[str, float] = field(default_factory=dict)
    """percent of such requests that are copied, by version"""
    scope: str = ""
    """what the key must allow"""


def decide(endpoint: EndpointRoutes, asked: Asked) -> Decision:
    path = asked.path.partition("?")[0]
    base = f"/v2/models/{endpoint.name}"
    method = asked.method.upper()
    if path == f"{base}/feedback" and method == "POST":
        return Decision(None, "Feedback goes to the control plane.", scope=_scope(endpoint, path))
    found = _BELOW.fullmatch(path.removeprefix(base)) if path.startswith(base) else None
    if found is None:
        return Decision(404, f"{path} is no path of this endpoint.")
    action = "infer" if method == "POST" else "metadata"
    scope = f"{endpoint.name}:{action}"
    pin, header = found["pin"], asked.headers.get(PIN, "")
    if pin or header:
        return _pinned(endpoint, pin, header, scope)
    for number, rule in enumerate(endpoint.rules, 1):
        if _fits(rule, asked):
            version = _by_index(endpoint, rule.version_index).version
            return Decision(
                None, f"Rule {number}: {in_words(rule)}.", version, {version: 100.0}, scope=scope
            )
    return _by_weight(endpoint, method == "POST" and found["call"] in _INFERENCE, scope)


_INFERENCE = ("/infer", "/invocations")


def _pinned(endpoint: EndpointRoutes, pin: str | None, header: str, scope: str) -> Decision:
    for target in endpoint.targets:
        names = (target.version, str(target.sequence))
        if all(one in names for one in (pin, header) if one):
            how = f"The path names version {pin}." if pin else f"{PIN} names version {header}."
            return Decision(None, how, target.version, {target.version: 100.0}, scope=scope)
    asked = " and ".join(one for one in (pin, header) if one)
    return Decision(404, f"No one version that this endpoint routes to is called {asked}.")


def _by_weight(endpoint: EndpointRoutes, mirrored: bool, scope: str) -> Decision:
    live = [target for target in endpoint.targets if target.weight]
    if not live:
        return Decision(404, "No version has any weight.")
    chances = {target.version: target.weight / 100 for target in live}
    shadows = {
        _by_index(endpoint, one.version_index).version: one.fraction / 100
        for one in endpoint.shadows
        if mirrored
    }
    if len(live) == 1:
        why, version = "It is the only version with weight.", live[0].version
        return Decision(None, why, version, chances, shadows, scope)
    sticky = endpoint.sticky
    if sticky is None:
        why = "Weights decide, by chance."
    elif sticky.by == "caller":
        why = "Weights decide; the same caller gets the same version."
    else:
        why = f"Weights decide; the same {sticky.by} {sticky.name} gets the same version."
    return Decision(None, why, None, chances, shadows, scope)


def in_words(rule: Rule) -> str:
    if rule.by == "header":
        verb = "begins with" if rule.prefix else "is"
        return f"header {rule.name} {verb} {rule.value}"
    return f"the {rule.by} is {rule.value}"


def _fits(rule: Rule, asked: Asked) -> bool:
    if rule.by == "caller":
        return asked.caller == rule.value
    if rule.by == "team":
        return rule.value in asked.teams
    found = asked.headers.get(rule.name)
    if found is None:
        return False
    return found.startswith(rule.value) if rule.prefix else found == rule.value


def _by_index(endpoint: EndpointRoutes, index: int) -> Target:
    return next(target for target in endpoint.targets if target.version_index == index)


def _scope(endpoint: EndpointRoutes, path: str) -> str:
    return f"{endpoint.name}:{path.rpartition('/')[2]}"
