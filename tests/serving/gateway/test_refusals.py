"""What a real gateway refuses is counted by endpoint and reason; what workers answer is not."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from gateway_support import INFER, Gateway, wait_until

from modelfleet.core import unix_http
from modelfleet.serving.gateway import (
    EndpointRoutes,
    FairShare,
    GatewayConfig,
    PoolAddress,
    RateLimit,
    Target,
    successor,
)
from modelfleet.telemetry.database import open_writer, transaction
from modelfleet.telemetry.evidence import EvidenceReader
from modelfleet.telemetry.gateway import GatewayCounters

pytestmark = pytest.mark.e2e
LIVE = (Target(17, "1.0.0", 1, "p", 10_000),)
DEAD = (Target(18, "1.0.0", 1, "gone", 10_000),)
ENDPOINTS = (
    EndpointRoutes("m1", LIVE),
    EndpointRoutes("a.b", LIVE),
    EndpointRoutes("dead", DEAD),
    EndpointRoutes("rated", LIVE, rate_limit=RateLimit(1, 60)),
    EndpointRoutes("slow", LIVE, timeout_ms=100),
)


class Counting:
    """The collector's part that counts what `gateway` refuses."""

    def __init__(self, gateway: Gateway) -> None:
        self._database = gateway.layout.evidence_database
        self._connection = open_writer(self._database)
        self._counters = GatewayCounters(gateway.layout.gateway_admin_socket, self._connection)

    def look(self) -> dict[str, dict[str, int]]:
        """What was refused until now."""
        self._counters._due = 0.0
        self._counters.look()
        with transaction(self._connection):
            self._counters.save(self._connection)
        reader = EvidenceReader(self._database)
        found: dict[str, dict[str, int]] = {}
        for endpoint, reason, count in reader.refused_ever():
            found.setdefault(endpoint, {})[reason] = count
        reader.close()
        return found

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def counting(gateway: Gateway) -> Iterator[Counting]:
    gateway.start()
    gone = PoolAddress("gone", (str(gateway.layout.sockets / "nobody.sock"),))
    gateway.files.write(GatewayConfig(1, ENDPOINTS, (gateway.pool("p"), gone)))
    made = Counting(gateway)
    yield made
    made.close()


def path_of(endpoint: str) -> str:
    return f"/v2/models/{endpoint}/infer"


def test_each_refusal_counts_with_its_endpoint_and_reason(
    gateway: Gateway, counting: Counting
) -> None:
    key, narrow = gateway.token_of("alice", "*"), gateway.token_of("bob", "m1")
    old, _ = gateway.key.issue("carol", "test", models=("*",), seconds=-60)
    assert gateway.ask(path_of("a.b"), key).status == 200
    statuses = [
        gateway.ask(INFER).status,
        gateway.ask(INFER, "nonsense").status,
        gateway.ask(INFER, old).status,
        gateway.ask(path_of("a.b"), narrow).status,
        gateway.ask(path_of("nowhere"), key).status,
        gateway.ask(path_of("dead"), key).status,
        gateway.ask(path_of("slow"), key, body=b"slow:1").status,
        gateway.ask(path_of("a.b"), key, body=b"x" * (1 << 21)).status,
        *(gateway.ask(path_of("rated"), key).status for _ in range(3)),
    ]
    assert statuses == [401, 401, 401, 403, 404, 503, 504, 413, 200, 429, 429]
    assert counting.look() == {
        "": {"not-found": 1},
        "a.b": {"not-allowed": 1, "too-large": 1},
        "dead": {"no-worker": 1},
        "m1": {"key-missing": 1, "key-invalid": 1, "key-expired": 1},
        "rated": {"rate-limit": 2},
        "slow": {"timeout": 1},
    }


def test_a_client_hears_which_limit_it_was(gateway: Gateway, counting: Counting) -> None:
    key = gateway.token_of("alice", "*")
    gateway.files.set_shares([FairShare("m1", 0.2)])
    wait_until(lambda: gateway.ask(INFER, key).status == 429, "the shares to count")
    before = counting.look()["m1"]["overload"]
    replies = [gateway.ask(INFER, key) for _ in range(5)]
    assert {reply.headers["x-mf-refused"] for reply in replies} == {"overload"}
    assert counting.look()["m1"]["overload"] == before + 5
    rated = [gateway.ask(path_of("rated"), key) for _ in range(2)][-1]
    assert (rated.headers["x-mf-refused"], rated.headers["retry-after"]) == ("rate-limit", "60")


def test_an_answer_of_a_worker_is_no_refusal(gateway: Gateway, counting: Counting) -> None:
    """Not even one that says it was: the header counts at the gateway's own answers alone."""
    key = gateway.token_of("alice", "*")
    for status in (400, 404, 429, 500):
        asked = gateway.ask(INFER, key, body=b"status:%d" % status)
        assert (asked.status, asked.headers["x-mf-refused"]) == (status, "overload")
    assert counting.look() == {}


def test_nothing_counts_twice_when_the_gateway_is_replaced(
    gateway: Gateway, counting: Counting
) -> None:
    asked = 0

    def refuse(count: int) -> None:
        nonlocal asked
        asked += count
        assert {gateway.ask(INFER).status for _ in range(count)} == {401}

    time.sleep(5.5)  # beyond the first time at which Envoy takes stock
    refuse(20)
    assert counting.look()["m1"]["key-missing"] == 20
    first = gateway.processes[0]
    log = (gateway.layout.home / "envoy.log").open("ab")
    words = successor(gateway.layout.gateway, first.pid)
    second = subprocess.Popen(words, stdout=log, stderr=log)
    log.close()
    gateway.processes.append(second)
    wait_until(lambda: asked_pid(gateway) == second.pid, "the successor")
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        assert counting.look()["m1"]["key-missing"] == 20
    refuse(7)
    assert counting.look()["m1"]["key-missing"] == 27
    for one in (first, second):
        one.kill()
        one.wait()
    gateway.start()
    refuse(30)  # more than its predecessor had
    assert counting.look()["m1"]["key-missing"] == asked == 57


def asked_pid(gateway: Gateway) -> int:
    answer = unix_http.get(gateway.layout.gateway_admin_socket, "/ready")
    return answer.pid if answer else 0


def test_counters_do_not_fill_the_memory(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelfleet.serving.gateway.refusals._MOST", 5)
    gateway.start()
    many = tuple(EndpointRoutes(f"m{n}", LIVE) for n in range(12))
    gateway.files.write(GatewayConfig(1, many, (gateway.pool("p"),)))
    for _ in range(2):
        assert {gateway.ask(path_of(one.name)).status for one in many} == {401}
    counting = Counting(gateway)
    assert list(counting.look().values()) == [{"key-missing": 2}] * 5
    counting.close()
    assert gateway.ask(path_of("m11"), gateway.token_of("alice", "*")).status == 200
