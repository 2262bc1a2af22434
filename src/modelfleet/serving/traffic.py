"""The traffic policy of an endpoint: what decides besides weights, and what limits its callers.

A policy is stored with its endpoint, as JSON. `changed` is how it is set: what is not named stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from modelfleet.core.errors import InvalidInput

MAX_RULES = 50
MAX_ADDED = 50
"""rules of a rollout, beside the endpoint's own"""
MAX_TIMEOUT_MS = 120_000
_HEADER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?")
_COOKIE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,498}[\x21-\x7e])?")
_OURS = ("x-mf-", "x-envoy-")
_TAKEN = frozenset(
    {"authorization", "connection", "content-length", "host", "te", "transfer-encoding", "upgrade"}
    | {"x-model-version", "x-request-id"}
)


@dataclass(frozen=True)
class Sticky:
    """The same header, cookie or caller gets the same version while the weights stay."""

    by: Literal["header", "cookie", "caller"]
    name: str = ""
    """of the header (lower case) or cookie"""


@dataclass(frozen=True)
class Rule:
    """Requests that go to `version` before any weight counts. One of header, caller and team."""

    version: str
    """semantic version or sequence number; kept as the semantic version"""
    header: str = ""
    equals: str = ""
    prefix: str = ""
    """instead of `equals`: how the header's value begins"""
    caller: str = ""
    """name of a principal"""
    team: str = ""
    """as the caller's key says, which it does since it was made"""
    version_id: str = ""
    caller_id: str = ""


@dataclass(frozen=True)
class RateLimit:
    """Of each caller by itself; beyond it 429."""

    requests: int
    seconds: int = 1


@dataclass(frozen=True)
class Traffic:
    sticky: Sticky | None = None
    rules: tuple[Rule, ...] = ()
    """tried in this order; the first that fits decides"""
    rate_limit: RateLimit | None = None
    concurrency: int | None = None
    """requests that one worker runs at once for this endpoint"""
    priority: Literal["high", "normal", "low"] = "normal"
    """of callers whose key has none of its own"""
    timeout_ms: int | None = None
    """of a request; None is what was set when the endpoint was made"""
    per_try_timeout_ms: int | None = None
    """of one try: after it another worker is asked"""

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class Overlay:
    """What a rollout adds to an endpoint's own policy for as long as it runs."""

    sticky: Sticky | None = None
    """instead of the policy's own; None keeps that one"""
    rules: tuple[Rule, ...] = ()
    """before the policy's own"""

    def over(self, own: Traffic) -> Traffic:
        if not self.sticky and not self.rules:
            return own
        return replace(own, sticky=self.sticky or own.sticky, rules=(*self.rules, *own.rules))


def changed(before: Traffic, changes: Mapping[str, object]) -> Traffic:
    """`before` with `changes` by field name. Raises `InvalidInput` with the field at fault."""
    plain = msgspec.to_builtins(before)
    given = {**plain, **changes}
    try:
        found = msgspec.convert(given, Traffic)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        if isinstance(cause, InvalidInput):
            raise cause from error
        raise InvalidInput(f"traffic: {error}") from error
    _refuse_unknown(given, msgspec.to_builtins(found), "traffic")
    if len(found.rules) > MAX_RULES:
        raise InvalidInput(f"An endpoint has at most {MAX_RULES} rules.")
    return found


def _refuse_unknown(given: object, kept: object, where: str) -> None:
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name not in kept:
                raise InvalidInput(f"{where}: there is no field {str(name)[:80]!r}.")
            _refuse_unknown(value, kept[name], f"{where}.{name}")
    elif isinstance(given, list | tuple) and isinstance(kept, list | tuple):
        for number, (one, other) in enumerate(zip(given, kept, strict=False)):
            _refuse_unknown(one, other, f"{where}[{number}]")


def _check(traffic: Traffic) -> None:
    if traffic.sticky:
        _check_sticky(traffic.sticky)
    if len(traffic.rules) > MAX_RULES + MAX_ADDED:
        raise InvalidInput(f"An endpoint has at most {MAX_RULES} rules.")
    for rule in traffic.rules:
        _check_rule(rule)
    limit = traffic.rate_limit
    if limit and not (1 <= limit.requests <= 1_000_000 and 1 <= limit.seconds <= 86_400):
        raise InvalidInput("A rate limit is 1 to 1000000 requests in 1 to 86400 seconds.")
    if traffic.concurrency is not None and not 1 <= traffic.concurrency <= 10_000:
        raise InvalidInput("concurrency lies between 1 and 10000.")
    whole, one_try = traffic.timeout_ms, traffic.per_try_timeout_ms
    for name, value in (("timeout_ms", whole), ("per_try_timeout_ms", one_try)):
        if value is not None and not 1 <= value <= MAX_TIMEOUT_MS:
            raise InvalidInput(f"{name} lies between 1 and {MAX_TIMEOUT_MS}.")
    if whole is not None and one_try is not None and one_try >= whole:
        raise InvalidInput("per_try_timeout_ms must be shorter than timeout_ms.")


def _check_sticky(sticky: Sticky) -> None:
    if sticky.by == "header":
        check_header(sticky.name)
    elif sticky.by == "cookie" and not _COOKIE.fullmatch(sticky.name):
        raise InvalidInput(f"{sticky.name[:120]!r} is not the name of a cookie.")
    elif sticky.by == "caller" and sticky.name:
        raise InvalidInput("Sticky by caller has no name.")


def _check_rule(rule: Rule) -> None:
    if not rule.version:
        raise InvalidInput("A rule names a version.")
    if sum(map(bool, (rule.header, rule.caller, rule.team))) != 1:
        raise InvalidInput("A rule asks for one of header, caller and team.")
    if rule.header:
        check_header(rule.header)
        if bool(rule.equals) == bool(rule.prefix):
            raise InvalidInput(f"The rule for {rule.header} needs one of equals and prefix.")
    elif rule.equals or rule.prefix:
        raise InvalidInput("Only a rule for a header has equals or prefix.")
    for value in (rule.equals, rule.prefix, rule.team):
        if value and not _VALUE.fullmatch(value):
            raise InvalidInput(f"{value[:80]!r} can't be matched: use 1 to 500 ASCII characters.")


def check_header(name: str) -> None:
    """Raises `InvalidInput` for headers that clients can't send or that mean something else."""
    if not _HEADER.fullmatch(name):
        raise InvalidInput(
            f"{name[:120]!r} is not a header name.",
            hint="Use lower-case letters, digits and hyphens; the gateway drops underscores.",
        )
    if name in _TAKEN or name.startswith(_OURS):
        raise InvalidInput(f"The header {name} is not for clients to choose by.")
