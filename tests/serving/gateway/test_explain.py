"""The gateway explained, held against what a real one does."""

from __future__ import annotations

import signal

import msgspec
import pytest
from gateway_support import Gateway, wait_until

from modelfleet.core.files import write_atomically
from modelfleet.serving.gateway import (
    Asked,
    EndpointRoutes,
    GatewayConfig,
    PoolAddress,
    RateLimit,
    Rule,
    Shadow,
    Sticky,
    Target,
)
from modelfleet.serving.gateway.decide import decide

TARGETS = (
    Target(1, "1.0.0", 1, "p", 9_000),
    Target(2, "2.0.0-rc.1", 2, "p", 1_000),
    Target(3, "3.0.0", 3, "p", 0),
)
RULES = (
    Rule(3, "header", "beta", "x-channel"),
    Rule(1, "header", "10.", "x-client", prefix=True),
    Rule(2, "caller", "alice"),
    Rule(3, "team", "risk"),
)
FULL = EndpointRoutes("m1", TARGETS, (Shadow(3, "p", 2_500),), Sticky("header", "x-user"), RULES)
SINGLE = EndpointRoutes("m2", TARGETS[:1])
NOTHING = EndpointRoutes("m3", (Target(1, "1.0.0", 1, "p", 0),))
PATHS = ("", "/infer", "/ready", "/invocations", "/feedback", "/other", "/infer?a=b", "0/infer")
PINS = ("/versions/1", "/versions/1.0.0/infer", "/versions/2.0.0-rc.1/infer", "/versions/9/infer")
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"x-model-version": "1"},
    {"x-model-version": "1.0.0"},
    {"x-model-version": "9"},
    {"x-channel": "beta"},
    {"x-channel": "beta", "x-model-version": "1"},
    {"x-client": "10.2"},
    {"x-client": "9"},
)


@pytest.mark.e2e
def test_a_real_gateway_does_what_is_said(gateway: Gateway) -> None:
    gateway.start()
    pools = (gateway.pool("p"),)
    gateway.files.write(GatewayConfig(1, (FULL, SINGLE, NOTHING), pools))
    callers = (("alice", ()), ("bob", ("ads", "risk")), ("carol", ()))
    connection = gateway.connect()
    asked = 0
    for endpoint in (FULL, SINGLE, NOTHING):
        for caller, teams in callers:
            token = gateway.token_of(caller, "*", teams=teams)
            for end in PATHS + PINS:
                for headers in HEADERS if "infer" in end or not end else HEADERS[:2]:
                    path = f"/v2/models/{endpoint.name}{end}"
                    method = "POST" if end else "GET"
                    said = decide(endpoint, Asked(path, method, headers, caller, frozenset(teams)))
                    reply = gateway.ask(
                        path, token, method=method, headers=headers, connection=connection
                    )
                    where = (path, headers, caller, said)
                    asked += 1
                    if said.status:
                        assert reply.status == said.status, where
                    elif end == "/feedback":
                        assert reply.status == 503, where  # there is no control plane
                    else:
                        version = by_index(reply.seen["x-mf-version"])
                        assert said.chances[version] > 0, where
                        assert said.version in (None, version), where
    assert asked > 400


def by_index(index: str) -> str:
    return next(one.version for one in TARGETS if str(one.version_index) == index)


@pytest.mark.e2e
def test_replicas_and_revisions_are_as_the_gateway_says(gateway: Gateway) -> None:
    gateway.start()
    worker, path0 = gateway.worker("p-0")
    _, path1 = gateway.worker("p-1")
    config = GatewayConfig(1, (SINGLE,), (PoolAddress("p", (path0, path1)),))
    write_atomically(gateway.files.wanted_file, msgspec.json.encode(config))
    gateway.files.write(config)
    found = gateway.files.explain("m2")
    assert (found.written, found.running, found.in_step, found.refused) == (1, 1, True, 0)
    assert [(one.address, one.health) for one in found.replicas] == [
        (path0, "healthy"),
        (path1, "healthy"),
    ]
    worker.send_signal(signal.SIGKILL)
    wait_until(lambda: gateway.files.explain("m2").replicas[0].health != "healthy", "it to be seen")
    ahead = GatewayConfig(2, (SINGLE,), config.pools)
    write_atomically(gateway.files.wanted_file, msgspec.json.encode(ahead))
    found = gateway.files.explain("m2")
    assert (found.written, found.running, found.in_step) == (2, 1, False)


def test_what_is_said_without_a_gateway(gateway: Gateway) -> None:
    limited = EndpointRoutes(
        "m1",
        TARGETS,
        (Shadow(3, "p", 2_500),),
        rules=RULES[:1],
        rate_limit=RateLimit(5, 60),
        concurrency=3,
        per_try_timeout_ms=300,
    )
    config = GatewayConfig(7, (limited,), (PoolAddress("p", ("/s",)),))
    write_atomically(gateway.files.wanted_file, msgspec.json.encode(config))
    found = gateway.files.explain("m1", Asked("/v2/models/m1/infer"))
    assert (found.written, found.running, found.in_step) == (7, 0, False)
    assert found.replicas[0].health == "unknown"
    assert found.rules == ("header x-channel is beta: 3.0.0",)
    assert found.shadows == ("25 % of inference is copied to 3.0.0",)
    assert "after 300 ms another replica is asked" in found.patience
    assert "5 requests in 60 s for each caller, then 429" in found.limits
    assert found.decision is not None
    assert found.decision.chances == {"1.0.0": 90.0, "2.0.0-rc.1": 10.0}
    assert found.decision.shadows == {"3.0.0": 25.0}
    unknown = gateway.files.explain("other", Asked("/v2/models/other/infer"))
    assert not unknown.known
    assert unknown.decision is not None
    assert unknown.decision.status == 404
