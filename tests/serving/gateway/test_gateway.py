"""The gateway with a real Envoy and workers that echo."""

from __future__ import annotations

import collections
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import msgspec
import pytest
from gateway_support import STUB, Gateway, Load, wait_until

from modelfleet import __version__
from modelfleet.core.files import write_atomically
from modelfleet.serving.gateway import (
    EndpointRoutes,
    GatewayConfig,
    PoolAddress,
    Shadow,
    Sticky,
    Target,
    admin,
    clusters,
)
from modelfleet.serving.gateway.files import GatewayRefused

pytestmark = pytest.mark.e2e
INFER = "/v2/models/m1/infer"


def one(pool: str = "p", weight: int = 10_000, index: int = 17) -> Target:
    return Target(index, "1.2.0", 3, pool, weight)


def test_without_any_configuration_everything_is_unknown(gateway: Gateway) -> None:
    gateway.start()
    token, _ = gateway.token("*")
    reply = gateway.ask(INFER, token)
    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    assert set(reply.json) == {"error"}
    assert gateway.ask("/v2/health/live", method="GET").json == {"live": True}
    assert gateway.ask("/v2/health/ready", method="GET").json == {"live": True, "ready": True}
    told = gateway.ask("/v2", method="GET").json
    assert (told["name"], told["version"]) == ("modelfleet", __version__)


def test_who_may_call_what(gateway: Gateway) -> None:
    gateway.start()
    pool = gateway.pool("p")
    gateway.files.write(GatewayConfig(1, (EndpointRoutes("m1", (one(),)),), (pool,)))
    assert gateway.files.acknowledged() == 1

    for token, status in (
        (None, 401),
        ("nonsense", 401),
        (gateway.token("m1", seconds=-5)[0], 401),
        (gateway.token("m10")[0], 403),
        (gateway.token()[0], 403),
        (gateway.token("m1")[0], 200),
        (gateway.token("other", "m1")[0], 200),
        (gateway.token("*")[0], 200),
        (gateway.token("m1:infer")[0], 200),
        (gateway.token("*:infer")[0], 200),
        (gateway.token("m1:metadata", "*:feedback", "m10:infer")[0], 403),
    ):
        reply = gateway.ask(INFER, token)
        assert reply.status == status, reply.raw
        assert reply.headers["content-type"] == "application/json"
        if status != 200:
            assert list(reply.json) == ["error"]
    token, _ = gateway.token("*")
    for path in ("/v2/models/m2/infer", "/v2/models/m10", "/v2/models/m1/other", "/other", "/"):
        assert gateway.ask(path, token).status == 404, path


def test_what_old_and_careless_clients_send(gateway: Gateway) -> None:
    """HTTP/1.0, without a Host even, as some proxies do; schemes of keys have no case."""
    gateway.start()
    pool = gateway.pool("p")
    gateway.files.write(GatewayConfig(1, (EndpointRoutes("m1", (one(),)),), (pool,)))
    token, _ = gateway.token("m1")
    assert gateway.ask(INFER, headers={"authorization": f"bearer {token}"}).status == 200
    for version, key, host, status in (
        ("1.0", "Bearer", "", 200),
        ("1.0", "bearer", "Host: x\r\n", 200),
        ("1.0", "Basic", "", 401),
        ("1.1", "Bearer", "", 400),
    ):
        with socket.create_connection(("127.0.0.1", gateway.port), 20) as asking:
            head = f"POST {INFER} HTTP/{version}\r\n{host}authorization: {key} {token}\r\n"
            asking.sendall(f"{head}content-length: 2\r\n\r\n{{}}".encode())
            said = asking.makefile("rb").readline()
        assert int(said.split()[1]) == status, (version, key, host, said)


def test_keys_may_be_for_one_action(gateway: Gateway) -> None:
    gateway.start()
    pool = gateway.pool("p")
    gateway.files.write(GatewayConfig(1, (EndpointRoutes("m1", (one(),)),), (pool,)))
    base = "/v2/models/m1"
    calls = {
        "infer": [("POST", f"{base}/infer"), ("POST", f"{base}/versions/3/invocations?a=/b")],
        "metadata": [("GET", base), ("GET", f"{base}/ready?x=1"), ("GET", f"{base}/versions/3")],
        "feedback": [("POST", f"{base}/feedback")],
    }
    for scope in ("infer", "metadata", "feedback"):
        for name in ("m1", "*"):
            token, _ = gateway.token(f"{name}:{scope}", "m2")
            for action, requests in calls.items():
                for method, path in requests:
                    status = gateway.ask(path, token, method=method).status
                    good = 503 if action == "feedback" else 200  # there is no control plane
                    assert status == (good if action == scope else 403), (scope, method, path)


def test_a_revoked_key_counts_no_more_whatever_it_says_of_itself(gateway: Gateway) -> None:
    gateway.start()
    pool, routes = gateway.pool("p"), (EndpointRoutes("m1", (one(),)),)
    gateway.files.write(GatewayConfig(1, routes, (pool,)))
    keys = [gateway.token("m1"), gateway.token("*"), gateway.token("m1:infer")]
    for token, _ in keys:
        assert gateway.ask(INFER, token).status == 200
    ids = tuple(key for _, key in keys)
    gateway.files.write(GatewayConfig(2, routes, (pool,), ids))
    for token, _ in keys:
        assert gateway.ask(INFER, token).status == 403
        assert gateway.ask(INFER, token, headers={"x-mf-key-id": "another"}).status == 403
    assert gateway.ask(INFER, gateway.token("m1")[0]).status == 200


def test_nobody_forges_a_scope(gateway: Gateway) -> None:
    gateway.start()
    pool = gateway.pool("p")
    gateway.files.write(GatewayConfig(1, (EndpointRoutes("m1", (one(),)),), (pool,)))
    forged = {
        "x-mf-scope": "*",
        "x-mf-named": ",m1,",
        "x-mf-key-id": "another",
        "x-mf-teams": "risk",
        "x-mf-priority": "high",
    }
    for token in (gateway.token("m2")[0], gateway.token()[0]):
        assert gateway.ask(INFER, token, headers=forged).status == 403
    seen = gateway.ask(INFER, gateway.token("m1")[0], headers=forged).seen
    assert not {"x-mf-scope", "x-mf-named", "x-mf-key-id"} & set(seen)
    assert "x-mf-teams" not in seen
    assert "x-mf-priority" not in seen  # which is normal


def test_the_worker_sees_the_caller_and_nothing_forged(gateway: Gateway) -> None:
    gateway.start()
    pool = gateway.pool("p")
    gateway.files.write(GatewayConfig(1, (EndpointRoutes("m1", (one(),)),), (pool,)))
    token, _ = gateway.token("m1")
    forged = {
        "x-request-id": "mine",
        "X-MF-Caller": "root",
        "x-mf-version": "1",
        "x_mf_version": "1",
        "x-mf-shadow": "1",
        "x-mf-gateway": "guess",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "mf-deadline": "5",
        "x-mf-timeout-ms": "1500",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    reply = gateway.ask(INFER, token, headers=forged)
    seen = reply.seen
    assert seen["x-mf-caller"] == "caller-1"
    assert seen["x-mf-version"] == "17"
    assert seen["x-mf-client-request-id"] == "mine"
    assert seen["x-mf-timeout-ms"] == "1500"
    assert seen["x-envoy-attempt-count"] == "1"
    assert seen["traceparent"] == forged["traceparent"]
    assert seen["x-request-id"] == reply.headers["x-request-id"] != "mine"
    for gone in ("authorization", "x-mf-shadow", "x-mf-gateway", "x_mf_version", "mf-deadline"):
        assert gone not in seen
    assert gateway.ask(INFER, token).seen["x-mf-timeout-ms"] == "30000"


def test_pins(gateway: Gateway) -> None:
    gateway.start()
    pool = gateway.pool("p")
    targets = (one(), Target(18, "2.0.0-rc.1", 4, "p", 0))
    gateway.files.write(GatewayConfig(1, (EndpointRoutes("m1", targets),), (pool,)))
    token, _ = gateway.token("m1")

    def version(path: str, pin: str | None = None) -> str | None:
        headers = {"x-model-version": pin} if pin else {}
        method = "POST" if path.endswith("infer") else "GET"
        reply = gateway.ask(path, token, method=method, headers=headers)
        return reply.seen["x-mf-version"] if reply.status == 200 else None

    for path in ("/v2/models/m1", "/v2/models/m1?a=/b", "/v2/models/m1/ready", INFER):
        assert version(path) == "17"
        assert version(path, "2.0.0-rc.1") == "18"
        assert version(path, "3") == "17"
        assert version(path, "2x0.0-rc.1") is None
        assert version(path, "9") is None
    for end in ("", "/infer", "/ready", "/ready?x=1", "/invocations"):
        assert version(f"/v2/models/m1/versions/4{end}") == "18"
        assert version(f"/v2/models/m1/versions/1.2.0{end}") == "17"
        assert version(f"/v2/models/m1/versions/5{end}") is None
    assert gateway.ask("/v2/models/m1/versions/4/infer", gateway.token("x")[0]).status == 403


def test_weights_shadow_and_sticky(gateway: Gateway) -> None:
    gateway.start()
    pool = gateway.pool("p", 2)
    targets = (one(weight=9_000), Target(18, "1.3.0", 4, "p", 1_000))
    shadows = (Shadow(99, "p", 5_000),)
    sticky = EndpointRoutes("s1", targets, sticky=Sticky("header", "x-user"))
    endpoints = (EndpointRoutes("m1", targets, shadows), sticky)
    gateway.files.write(GatewayConfig(1, endpoints, (pool,)))
    token, _ = gateway.token("*")
    connection = gateway.connect()

    live: collections.Counter[str] = collections.Counter()
    ids = set()
    for _ in range(1000):
        reply = gateway.ask(INFER, token, connection=connection)
        live[reply.seen["x-mf-version"]] += 1
        ids.add(reply.headers["x-request-id"])
    assert len(ids) == 1000
    assert 60 <= live["18"] <= 140, live  # 4 standard errors around 100
    assert live["17"] + live["18"] == 1000

    def mirrored() -> list[dict[str, str]]:
        both = gateway.requests_of("p-0") + gateway.requests_of("p-1")
        seen: list[dict[str, str]] = [request["headers"] for request in both]  # type: ignore[misc]
        return [headers for headers in seen if "x-mf-shadow" in headers]

    wait_until(lambda: len(mirrored()) > 430, "the mirrored requests")
    found = mirrored()
    assert len(found) < 570  # 4 standard errors around 500
    assert {(h["x-mf-version"], h["x-mf-shadow"]) for h in found} == {("99", "1")}
    assert {h["x-request-id"] for h in found} <= ids

    for user in range(40):
        headers = {"x-user": f"u{user}"}
        path = "/v2/models/s1/infer"
        answers = {
            gateway.ask(path, token, headers=headers, connection=connection).seen["x-mf-version"]
            for _ in range(4)
        }
        assert len(answers) == 1


def test_a_large_body_gets_a_clear_answer(gateway: Gateway) -> None:
    gateway.start()
    pool = gateway.pool("p")
    gateway.files.write(GatewayConfig(1, (EndpointRoutes("m1", (one(),)),), (pool,)))
    token, _ = gateway.token("m1")
    assert gateway.ask(INFER, token, body=bytes(1 << 20)).json["size"] == 1 << 20
    big = bytes(50_000_000)
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway.port}{INFER}", big, {"authorization": f"Bearer {token}"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=20)
    with caught.value as error:
        assert error.code == 413
        assert error.headers["content-type"] == "application/json"
        assert json.loads(error.read()) == {"error": "The request is larger than 1048576 bytes."}
    connection = gateway.connect()
    chunks = iter([b"x" * 600_000] * 2)
    connection.request(
        "POST", INFER, chunks, {"authorization": f"Bearer {token}"}, encode_chunked=True
    )
    assert connection.getresponse().status == 413
    connection.close()
    assert len(gateway.requests_of("p-0")) == 1


def test_revocation_counts_on_an_open_connection(gateway: Gateway) -> None:
    gateway.start()
    pool = gateway.pool("p")
    endpoints = (EndpointRoutes("m1", (one(),)),)
    gateway.files.write(GatewayConfig(1, endpoints, (pool,)))
    token, token_id = gateway.token("m1")
    other, _ = gateway.token("m1")
    connection = gateway.connect()
    assert gateway.ask(INFER, token, connection=connection).status == 200
    sock = connection.sock
    gateway.files.write(GatewayConfig(2, endpoints, (pool,), ("0" * 32, token_id)))
    get = "/v2/models/m1"
    wait_until(
        lambda: gateway.ask(get, token, method="GET", connection=connection).status == 403, "403"
    )
    assert connection.sock is sock
    assert gateway.ask(INFER, other).status == 200


def test_feedback_goes_to_the_control_plane(gateway: Gateway) -> None:
    gateway.start()
    pool = gateway.pool("p")
    gateway.files.write(GatewayConfig(1, (EndpointRoutes("m1", (one(),)),), (pool,)))
    token, _ = gateway.token("m1")
    path = "/v2/models/m1/feedback"
    down = gateway.ask(path, token)
    assert (down.status, list(down.json)) == (503, ["error"])
    listening = str(gateway.control_plane_port)
    stub = subprocess.Popen([sys.executable, STUB, listening, "api", gateway.log_of("api")])
    gateway.processes.append(stub)
    wait_until(lambda: gateway.ask(path, token).status == 200, "the control plane")
    seen = gateway.ask(path, token).seen
    assert seen["x-mf-caller"] == "caller-1"
    assert seen["x-mf-gateway"] == gateway.files.secret()
    assert gateway.ask(path, gateway.token("m2")[0]).status == 403


def test_a_killed_worker_fails_no_request(gateway: Gateway) -> None:
    gateway.start()
    first, path0 = gateway.worker("p-0")
    second, path1 = gateway.worker("p-1")
    pool = PoolAddress("p", (path0, path1))
    gateway.files.write(GatewayConfig(1, (EndpointRoutes("m1", (one(),)),), (pool,)))
    with Load(gateway) as load:
        for name, victim in (("p-0", first), ("p-1", second)):
            time.sleep(0.7)
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            time.sleep(0.5)
            gateway.worker(name)
            time.sleep(2.2)  # until the ejection is over
    assert load.bad == []
    assert load.good > 500


def test_changes_under_load_fail_no_request(gateway: Gateway) -> None:
    gateway.start()
    pools = [gateway.pool("a", 2), gateway.pool("b", 2)]
    first = GatewayConfig(1, (EndpointRoutes("m1", (one("a"),)),), (pools[0],))
    gateway.files.write(first)
    waits = []
    with Load(gateway) as load:
        for revision in range(2, 22):
            turn = revision % 2
            target = one("ab"[turn], index=100 + revision)
            endpoints = (EndpointRoutes("m1", (target,)),)
            started = time.monotonic()
            gateway.files.write(GatewayConfig(revision, endpoints, (pools[turn],)))
            waits.append(time.monotonic() - started)
            assert gateway.files.acknowledged() == revision
            time.sleep(0.05)
    assert load.bad == []
    assert len(load.versions) == 21
    assert sorted(waits)[len(waits) // 2] < 1.0
    found = gateway.files.statistics()
    assert found is not None
    assert found.rejected == 0
    assert not gateway.files.tidy()  # the routes are younger than five seconds
    wait_until(gateway.files.tidy, "the end of the old pool")
    content = (gateway.layout.gateway / "cds.json").read_text()
    assert clusters.name_of("b") in content
    assert clusters.name_of("a") not in content
    assert gateway.ask(INFER, gateway.token("m1")[0]).status == 200


def test_a_pool_that_comes_back_under_its_name_is_waited_for(gateway: Gateway) -> None:
    """Its cluster is still there, and what it knows of the workers is out of date."""
    gateway.start()
    stays = gateway.pool("a")
    worker, path = gateway.worker("b-0")
    pools = (stays, PoolAddress("b", (path,)))
    both = (EndpointRoutes("m1", (one("a", 5_000, 1), one("b", 5_000, 2))),)
    alone = (EndpointRoutes("m1", (one("a", index=1),)),)
    gateway.files.write(GatewayConfig(1, both, pools))
    with Load(gateway) as load:
        for turn in range(2, 10, 2):
            gateway.files.write(GatewayConfig(turn, both, pools))
            time.sleep(0.3)
            gateway.files.write(GatewayConfig(turn + 1, alone, pools[:1]))
            time.sleep(0.1)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            wait_until(lambda: healthy(gateway, "b") == 0, "the gateway to see it")
            worker, _ = gateway.worker("b-0")
    assert load.bad == []
    assert set(load.versions) == {"1", "2"}


def light(index: int = 17) -> Target:
    return Target(index, "1.2.0", 3, "p", 10_000, light=True)


def test_a_light_model_stays_with_one_replica_and_leaves_one_that_dies(gateway: Gateway) -> None:
    gateway.start()
    workers = [gateway.worker(f"p-{n}") for n in range(3)]
    pool = PoolAddress("p", tuple(path for _, path in workers))
    names = [f"m{k}" for k in range(1, 13)]
    routes = tuple(EndpointRoutes(name, (light(),)) for name in names)
    gateway.files.write(GatewayConfig(1, routes, (pool,)))
    token, _ = gateway.token("*")
    homes: dict[str, set[str]] = {}
    for name in names:
        for _ in range(5):
            reply = gateway.ask(f"/v2/models/{name}/infer", token)
            assert reply.status == 200
            homes.setdefault(name, set()).add(str(reply.json["worker"]))
    assert all(len(one) == 1 for one in homes.values())
    assert len({one for found in homes.values() for one in found}) > 1  # not all with the same
    (home,) = homes["m1"]
    with Load(gateway) as load:
        time.sleep(0.3)
        number = int(home.removeprefix("p-"))
        workers[number][0].kill()
        time.sleep(1.0)
    assert load.bad == []
    assert load.good > 50


def test_a_light_model_leaves_a_replica_that_hangs(gateway: Gateway) -> None:
    gateway.start()
    workers = [gateway.worker(f"p-{n}") for n in range(2)]
    pool = PoolAddress("p", tuple(path for _, path in workers))
    routes = (EndpointRoutes("m1", (light(),), per_try_timeout_ms=300),)
    gateway.files.write(GatewayConfig(1, routes, (pool,)))
    home = str(gateway.ask(INFER, gateway.token("m1")[0]).json["worker"])
    process = workers[int(home.removeprefix("p-"))][0]
    with Load(gateway, clients=8) as load:
        time.sleep(0.3)
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        process.send_signal(signal.SIGCONT)
    assert load.bad == []
    assert load.good > 50


def healthy(gateway: Gateway, pool: str) -> int:
    name = f"cluster.{clusters.name_of(pool)}.membership_healthy"
    found = admin.statistics(gateway.layout.gateway_admin_socket, name)
    return int((found or {}).get(name, -1))


def test_what_envoy_refuses_is_taken_back(gateway: Gateway) -> None:
    gateway.start()
    pool = gateway.pool("p")
    endpoints = (EndpointRoutes("m1", (one(),)),)
    gateway.files.write(GatewayConfig(1, endpoints, (pool,)))
    too_long = PoolAddress("q", ("/" + "x" * 200,))  # no Unix socket can have this name
    with pytest.raises(GatewayRefused):
        gateway.files.write(GatewayConfig(2, endpoints, (pool, too_long)))
    found = gateway.files.statistics()
    assert found is not None
    assert found.rejected >= 1
    assert "xxxx" not in (gateway.layout.gateway / "cds.json").read_text()
    gateway.files.write(GatewayConfig(3, endpoints, (pool,)))
    assert gateway.files.acknowledged() == 3
    assert gateway.ask(INFER, gateway.token("m1")[0]).status == 200


def test_a_restarted_gateway_serves_the_last_good_configuration(gateway: Gateway) -> None:
    envoy = gateway.start()
    pool = gateway.pool("p")
    gateway.files.write(GatewayConfig(4, (EndpointRoutes("m1", (one(),)),), (pool,)))
    envoy.kill()
    envoy.wait()
    assert gateway.files.acknowledged() == 0
    gateway.start()
    wait_until(lambda: gateway.files.acknowledged() == 4, "revision 4")
    assert gateway.ask(INFER, gateway.token("m1")[0]).status == 200


def test_routes_of_another_release_are_written_anew_before_they_count(gateway: Gateway) -> None:
    """Its filters had other names, so that its routes would ask ours for no scope."""
    config = GatewayConfig(1, (EndpointRoutes("m1", (one(),)),), (gateway.pool("p"),))
    gateway.files.write(config)
    token, _ = gateway.token("m1")
    stranger, _ = gateway.token("m2")
    routes = gateway.layout.gateway / "rds.json"

    def age() -> None:
        old = routes.read_bytes().replace(b'"modelfleet.access"', b'"modelfleet.scopes"')
        write_atomically(routes, old.replace(b'"modelfleet.named"', b'"modelfleet.old"'), 0o600)

    age()
    gateway.start()  # nobody knows what was wanted
    assert gateway.ask(INFER, stranger).status == 404
    gateway.files.write(config)
    age()
    write_atomically(gateway.files.wanted_file, msgspec.json.encode(config))
    gateway.start_files()
    # The gateway runs meanwhile, and may have read the aged ones.
    wait_until(lambda: gateway.ask(INFER, stranger).status == 403, "our own routes")
    assert gateway.ask(INFER, token).status == 200


def test_a_hanging_worker_is_passed_by(gateway: Gateway) -> None:
    gateway.start()
    hanging, path0 = gateway.worker("p-0")
    _, path1 = gateway.worker("p-1")
    routes = EndpointRoutes("m1", (one(),), timeout_ms=3000, per_try_timeout_ms=300)
    alone = EndpointRoutes("alone", (one("q"),), timeout_ms=300)
    pools = (PoolAddress("p", (path0, path1)), PoolAddress("q", (path0,)))
    gateway.files.write(GatewayConfig(1, (routes, alone), pools))
    hanging.send_signal(signal.SIGSTOP)
    token, _ = gateway.token("*")
    assert [gateway.ask(INFER, token).status for _ in range(8)] == [200] * 8
    late = gateway.ask("/v2/models/alone/infer", token)
    assert (late.status, list(late.json)) == (504, ["error"])
