"""Fair shares at a real gateway: who asks for too much is refused, and nobody else."""

from __future__ import annotations

import threading
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import pytest
from gateway_support import INFER, Gateway, Reply, wait_until

from modelfleet.core.layout import Layout
from modelfleet.serving.gateway import (
    EndpointRoutes,
    FairShare,
    GatewayConfig,
    GatewayFiles,
    RateLimit,
    Target,
)
from modelfleet.serving.gateway.explain import explain

pytestmark = pytest.mark.e2e
LIVE = (Target(17, "1.0.0", 1, "p", 10_000),)
NAMES = ("m1", "m10", "m2")
CONFIG = GatewayConfig(1, tuple(EndpointRoutes(name, LIVE) for name in NAMES))


@pytest.fixture
def shedding(gateway: Gateway) -> Gateway:
    gateway.start()
    light = (Target(18, "1.0.0", 1, "p", 10_000, light=True),)
    more = (EndpointRoutes("light", light),)
    config = GatewayConfig(1, CONFIG.endpoints + more, (gateway.pool("p"),))
    gateway.files.write(config)
    return gateway


def told(gateway: Gateway, token: str, *shares: FairShare) -> None:
    """Set shares that refuse the second request of this caller to m1, or none."""
    gateway.files.set_shares(shares)
    path = "/v2/models/probe/infer" if not shares else INFER

    def arrived() -> bool:
        answers = {gateway.ask(path, token).status for _ in range(8)}
        return 429 in answers if shares else 429 not in answers

    wait_until(arrived, "the shares to count", 10)


def asked(
    gateway: Gateway,
    token: str,
    count: int,
    path: str = INFER,
    connection: HTTPConnection | None = None,
) -> Counter[int]:
    used = connection or gateway.connect()
    return Counter(gateway.ask(path, token, connection=used).status for _ in range(count))


def refused(gateway: Gateway, token: str, connection: HTTPConnection) -> Reply:
    for _ in range(50):
        reply = gateway.ask(INFER, token, connection=connection)
        if reply.status == 429:
            return reply
    raise AssertionError("nothing was refused")


def test_a_caller_gets_its_share_and_others_theirs(shedding: Gateway) -> None:
    alice, bob = shedding.token_of("alice", "*"), shedding.token_of("bob", "*")
    told(shedding, alice, FairShare("m1", 0.2))
    assert asked(shedding, alice, 10) == {429: 10}
    assert asked(shedding, bob, 5) == {200: 2, 429: 3}  # a bucket of its own, filled twice
    assert asked(shedding, alice, 10, "/v2/models/m1/versions/1.0.0/infer") == {429: 10}
    assert asked(shedding, alice, 10, "/v2/models/m1/invocations") == {429: 10}
    for other in ("m10", "m2", "light"):
        assert asked(shedding, alice, 10, f"/v2/models/{other}/infer") == {200: 10}, other
    ready = shedding.ask("/v2/models/m1/ready", alice, method="GET")
    assert ready.status == 200  # whether it is ready is not inference
    shares = shedding.files.shares()
    said = {n: explain(CONFIG, n, running=1, refused=0, health={}, shares=shares) for n in NAMES}
    assert "each caller gets 0.2 requests a second" in said["m1"].limits[-1]
    assert len(said["m2"].limits) == len(said["m1"].limits) - 1


def test_a_refusal_says_so_and_keeps_the_connection(shedding: Gateway) -> None:
    token = shedding.token_of("alice", "*")
    told(shedding, token, FairShare("m1", 0.2))
    connection = shedding.connect()
    connection.connect()
    held = connection.sock
    for _ in range(3):
        reply = refused(shedding, token, connection)
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["retry-after"] == "1"
        assert "no more requests of this caller" in str(reply.json["error"])
    large = shedding.ask(INFER, token, body=b"x" * 500_000, connection=connection)
    assert large.status == 429
    assert connection.sock is held
    connection.close()


def test_a_rate_limit_keeps_the_connection_too(gateway: Gateway) -> None:
    gateway.start()
    limited = EndpointRoutes("m1", LIVE, rate_limit=RateLimit(1, 60))
    gateway.files.write(GatewayConfig(1, (limited,), (gateway.pool("p"),)))
    token = gateway.token_of("alice", "*")
    connection = gateway.connect()
    connection.connect()
    held = connection.sock
    assert asked(gateway, token, 5, connection=connection) == {200: 1, 429: 4}
    assert connection.sock is held
    connection.close()


def test_priorities_get_shares_by_their_weight(shedding: Gateway) -> None:
    plain = shedding.token_of("a", "*")
    high, low = (shedding.token_of(p, "*", priority=p) for p in ("high", "low"))
    told(shedding, plain, FairShare("m1", 20.0, "normal"))
    time.sleep(0.3)  # buckets are full: twice what 0.1 s brings
    begun = time.monotonic()
    good = {name: asked(shedding, key, 40)[200] for name, key in (("high", high), ("low", low))}
    more = 20.0 * (time.monotonic() - begun)  # came in meanwhile
    assert 16 <= good["high"] <= 16 + 4 * more + 2
    assert 2 <= good["low"] <= 2 + more / 4 + 2
    assert good["high"] > good["low"]


def test_large_shares_read_like_numbers() -> None:
    assert FairShare("m1", 12345.6).in_words == "each caller gets 12,346 requests a second"
    assert FairShare("m1", 0.25).in_words == "each caller gets 0.25 requests a second"


def test_shares_end(shedding: Gateway) -> None:
    token = shedding.token_of("alice", "*")
    told(shedding, token, FairShare("m1", 0.2))
    shedding.files.set_shares(())
    wait_until(lambda: asked(shedding, token, 8) == {200: 8}, "the end of the shares", 10)


def test_shares_outlive_a_restart_of_what_writes_them(shedding: Gateway) -> None:
    token = shedding.token_of("alice", "*")
    told(shedding, token, FairShare("m1", 0.2))
    shedding.start_files()
    assert shedding.files.shares() == [FairShare("m1", 0.2)]
    assert asked(shedding, token, 5) == {429: 5}


def test_an_unreadable_file_stops_nobody(gateway: Gateway) -> None:
    """The gateway starts without shares."""
    gateway.start_files()
    (gateway.layout.gateway / "shed.json").write_text("{}")
    gateway.start()
    gateway.files.write(GatewayConfig(1, CONFIG.endpoints, (gateway.pool("p"),)))
    token = gateway.token_of("alice", "*")
    wait_until(lambda: asked(gateway, token, 5) == {200: 5}, "answers", 30)


def test_of_two_who_set_shares_one_has_the_last_word(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.gateway.mkdir(parents=True)
    begin = threading.Barrier(4)

    def set_often(number: int) -> None:
        files = GatewayFiles(layout)
        begin.wait()
        for k in range(25):
            files.set_shares([FairShare(f"m{number}", 1.0 + k)] if number else ())

    threads = [threading.Thread(target=set_often, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shed = (layout.gateway / "shed.json").read_text()
    names = {one.endpoint for one in GatewayFiles(layout).shares()}
    assert {name for name in ("m1", "m2", "m3") if f'"/v2/models/{name}/"' in shed} == names
