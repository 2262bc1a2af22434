"""Too many connections, too little memory: what is new is refused, what is there goes on."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from gateway_support import Gateway, wait_until

from modelfleet.serving.gateway import Capacity, EndpointRoutes, GatewayConfig, Target, admin
from modelfleet.serving.gateway.overload import render

INFER = "/v2/models/m1/infer"
ENDPOINT = EndpointRoutes("m1", (Target(17, "1.2.0", 3, "p", 10_000),))


def start(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capacity: Capacity) -> str:
    """The gateway with these limits and one worker; a key."""
    whole = gateway.files.bootstrap
    monkeypatch.setattr(
        gateway.files, "bootstrap", lambda **given: whole(**given, capacity=capacity)
    )
    monkeypatch.setattr(gateway, "listening", lambda: True)  # it would take a connection
    gateway.start()
    socket = gateway.layout.gateway_admin_socket
    wait_until(lambda: admin.get(socket, "/ready") == "LIVE\n", "the gateway")
    gateway.files.write(GatewayConfig(1, (ENDPOINT,), (gateway.pool("p"),)))
    return gateway.token("m1")[0]


def ask(gateway: Gateway, token: str, connection: HTTPConnection) -> int:
    return gateway.ask(INFER, token, connection=connection).status


@pytest.mark.e2e
def test_one_connection_too_many(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 8
    token = start(gateway, monkeypatch, Capacity(connections=limit))
    held = [gateway.connect() for _ in range(limit)]
    assert [ask(gateway, token, one) for one in held] == [200] * limit
    for _ in range(3):
        with pytest.raises((OSError, HTTPException)):
            ask(gateway, token, gateway.connect())
        assert [ask(gateway, token, one) for one in held] == [200] * limit  # the others go on
    socket = gateway.layout.gateway_admin_socket
    assert gateway.files.statistics() is not None  # we still get in
    counted = admin.statistics(socket, "downstream_global_cx_overflow")
    assert sum(map(int, (counted or {}).values())) == 3
    held.pop().close()

    def let_in() -> bool:
        connection = gateway.connect()
        try:
            return ask(gateway, token, connection) == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    wait_until(let_in, "a free place")
    said = (gateway.layout.home / "envoy.log").read_text()
    assert "no configured limit" not in said
    for one in held:
        one.close()


@pytest.mark.e2e
def test_too_little_memory(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than Envoy needs is well; a limit that it is over already refuses everything new."""
    token = start(gateway, monkeypatch, Capacity(memory_mb=1000))
    assert gateway.ask(INFER, token).status == 200
    gateway.stop()
    gateway.processes.clear()
    monkeypatch.undo()
    token = start(gateway, monkeypatch, Capacity(memory_mb=1))

    def refused() -> bool:
        try:
            return gateway.ask(INFER, token).status == 503
        except (OSError, HTTPException):
            return True

    wait_until(refused, "a refusal")
    assert gateway.files.statistics() is not None
    found = admin.statistics(gateway.layout.gateway_admin_socket, r"^overload.*active$")
    assert set((found or {}).values()) == {"1"}
    assert any("stop_accepting_requests" in name for name in found or {})


@pytest.mark.e2e
def test_a_large_body_passes_small_buffers(gateway: Gateway, tmp_path: Path) -> None:
    gateway.start()
    gateway.files.write(GatewayConfig(1, (ENDPOINT,), (gateway.pool("p"),)))
    token, _ = gateway.token("m1")
    reply = gateway.ask(INFER, token, body=b"x" * 1_000_000)
    assert (reply.status, reply.json["size"]) == (200, 1_000_000)


def test_without_a_limit_of_memory_only_connections_are_counted() -> None:
    found: Any = render(Capacity())
    assert len(found["resource_monitors"]) == 1
    assert found["actions"] == []
    assert (
        found["resource_monitors"][0]["typed_config"]["max_active_downstream_connections"] == 50_000
    )
