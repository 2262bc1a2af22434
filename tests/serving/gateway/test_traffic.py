"""What an endpoint's policy makes of its requests, with a real Envoy and workers that echo."""

from __future__ import annotations

import collections
import signal
import socket

import pytest
from gateway_support import Gateway, Load, wait_until

from modelfleet.serving.gateway import (
    EndpointRoutes,
    GatewayConfig,
    PoolAddress,
    RateLimit,
    Rule,
    Shadow,
    Sticky,
    Target,
)

pytestmark = pytest.mark.e2e
INFER = "/v2/models/m1/infer"
HALVES = (Target(1, "1.0.0", 1, "p", 5_000), Target(2, "2.0.0", 2, "p", 5_000))
STABLE = (Target(1, "1.0.0", 1, "p", 10_000), Target(2, "2.0.0", 2, "p", 0))


def serve(gateway: Gateway, *endpoints: EndpointRoutes, replicas: int = 1) -> None:
    gateway.start()
    gateway.files.write(GatewayConfig(1, endpoints, (gateway.pool("p", replicas),)))
    assert gateway.files.acknowledged() == 1


def version(gateway: Gateway, token: str, path: str = INFER, **headers: str) -> str:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = gateway.ask(path, token, headers=sent)
    assert reply.status == 200, reply.raw
    return reply.seen["x-mf-version"]


def test_invocations_are_routed_and_mirrored_like_inference(gateway: Gateway) -> None:
    serve(gateway, EndpointRoutes("m1", STABLE, (Shadow(2, "p", 10_000),)))
    token, _ = gateway.token("m1")
    for path in ("/v2/models/m1/invocations", "/v2/models/m1/versions/1/invocations"):
        assert version(gateway, token, path) == "1"
    assert version(gateway, token, "/v2/models/m1/versions/2/invocations") == "2"

    def mirrored() -> list[object]:
        seen = gateway.requests_of("p-0")
        return [r["path"] for r in seen if "x-mf-shadow" in r["headers"]]  # type: ignore[operator]

    wait_until(lambda: bool(mirrored()), "the shadow")
    assert mirrored() == ["/v2/models/m1/invocations"]  # pins are not mirrored


def test_a_cookie_or_the_caller_sticks_to_a_version(gateway: Gateway) -> None:
    cookie = EndpointRoutes("m1", HALVES, sticky=Sticky("cookie", "visitor"))
    caller = EndpointRoutes("m2", HALVES, sticky=Sticky("caller"))
    serve(gateway, cookie, caller)
    token, _ = gateway.token("*")
    seen = collections.Counter[str]()
    for visitor in range(30):
        found = {version(gateway, token, cookie=f"a=1; visitor=v{visitor}") for _ in range(4)}
        assert len(found) == 1
        seen.update(found)
    assert set(seen) == {"1", "2"}
    seen.clear()
    for person in range(30):
        theirs = gateway.token_of(f"caller-{person}", "*")
        found = {version(gateway, theirs, "/v2/models/m2/infer") for _ in range(4)}
        assert len(found) == 1
        seen.update(found)
    assert set(seen) == {"1", "2"}


def test_rules_come_before_weights_and_after_pins(gateway: Gateway) -> None:
    rules = (
        Rule(2, "header", "beta", "x-channel"),
        Rule(1, "header", "10.", "x-client", prefix=True),
        Rule(2, "caller", "alice"),
        Rule(2, "team", "risk"),
    )
    serve(gateway, EndpointRoutes("m1", STABLE, rules=rules))
    plain, _ = gateway.token("m1")
    assert version(gateway, plain) == "1"
    assert version(gateway, plain, x_channel="beta") == "2"
    assert version(gateway, plain, x_channel="betas") == "1"
    assert version(gateway, plain, x_channel="beta", x_model_version="1") == "1"
    assert version(gateway, plain, "/v2/models/m1/versions/1/infer", x_channel="beta") == "1"
    alice = gateway.token_of("alice", "m1")
    assert version(gateway, alice) == "2"
    assert version(gateway, alice, x_client="10.1") == "1"  # an earlier rule
    assert version(gateway, alice, x_model_version="1") == "1"
    assert version(gateway, plain, x_mf_caller="alice", x_mf_teams="risk") == "1"
    for teams, expected in (
        (("risk",), "2"),
        (("ads", "risk", "web"), "2"),
        (("risky",), "1"),
        (("ads", "no-risk"), "1"),
    ):
        token = gateway.token_of("bob", "m1", teams=teams)
        assert version(gateway, token) == expected, teams


def test_each_caller_has_a_rate_limit_of_its_own(gateway: Gateway) -> None:
    limited = EndpointRoutes("m1", STABLE, rate_limit=RateLimit(3, 60))
    serve(gateway, limited, EndpointRoutes("m2", STABLE))
    alice, bob = gateway.token_of("alice", "*"), gateway.token_of("bob", "*")
    assert [gateway.ask(INFER, alice).status for _ in range(5)] == [200] * 3 + [429] * 2
    refused = gateway.ask(INFER, alice)
    assert refused.headers["retry-after"] == "60"
    assert refused.headers["content-type"] == "application/json"
    assert list(refused.json) == ["error"]
    assert gateway.ask(INFER, bob).status == 200
    assert gateway.ask("/v2/models/m2/infer", alice).status == 200
    for _ in range(3):  # who may not call uses up nothing
        assert gateway.ask(INFER, gateway.token_of("carol", "m2")).status == 403
    assert gateway.ask(INFER, gateway.token_of("carol", "m1")).status == 200


def test_workers_learn_limits_priorities_and_deadlines(gateway: Gateway) -> None:
    low = EndpointRoutes("m1", STABLE, concurrency=7, priority="low", timeout_ms=1_500)
    serve(gateway, low, EndpointRoutes("m2", STABLE))
    plain = gateway.token_of("a", "*")
    seen = gateway.ask(INFER, plain).seen
    assert (seen["x-mf-concurrency"], seen["x-mf-priority"]) == ("7", "low")
    assert seen["x-mf-timeout-ms"] == "1500"
    urgent = gateway.token_of("b", "*", priority="high")
    assert gateway.ask(INFER, urgent).seen["x-mf-priority"] == "high"
    forged = {"x-mf-priority": "high", "x-mf-concurrency": "999"}
    other = gateway.ask("/v2/models/m2/infer", plain, headers=forged).seen
    assert "x-mf-priority" not in other  # which is normal
    assert "x-mf-concurrency" not in other


def test_a_hang_under_load_fails_no_request(gateway: Gateway) -> None:
    gateway.start()
    hanging, path0 = gateway.worker("p-0")
    _, path1 = gateway.worker("p-1")
    endpoint = EndpointRoutes("m1", STABLE[:1], timeout_ms=5_000, per_try_timeout_ms=300)
    gateway.files.write(GatewayConfig(1, (endpoint,), (PoolAddress("p", (path0, path1)),)))
    with Load(gateway) as load:
        wait_until(lambda: load.good > 100, "some answers")
        hanging.send_signal(signal.SIGSTOP)
        before = load.good
        wait_until(lambda: load.good > before + 500, "answers in spite of the hang", 30)
        hanging.send_signal(signal.SIGCONT)
    assert load.bad == []


def test_overload_says_when_to_come_back(gateway: Gateway) -> None:
    gateway.start()
    nobody = PoolAddress("p", (str(gateway.layout.sockets / "nobody.sock"),))
    gateway.files.write(GatewayConfig(1, (EndpointRoutes("m1", STABLE[:1]),), (nobody,)))
    reply = gateway.ask(INFER, gateway.token("m1")[0])
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")


def test_grpc_goes_to_its_service_with_the_callers_key(gateway: Gateway) -> None:
    """Over HTTP/2 on the port of everything else; the service asks us again with that key."""
    serve(gateway, EndpointRoutes("m1", STABLE))
    stub = Http2Stub(str(gateway.layout.grpc_socket))
    path = "/inference.GRPCInferenceService/ModelInfer"
    reply = gateway.ask(path, "anything", headers={"content-type": "application/grpc"})
    assert stub.preface() == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert reply.headers["grpc-status"] == "14"  # the stub hangs up
    assert gateway.ask(path, method="GET").status == 404
    assert gateway.ask("/inference.Other/ModelInfer").status == 401


class Http2Stub:
    """Accepts, reads the preface of HTTP/2, hangs up."""

    def __init__(self, path: str) -> None:
        import threading

        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._seen = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self._seen = connection.recv(24)
        self._listener.close()

    def preface(self) -> bytes:
        self._thread.join()
        return self._seen
