"""A real worker behind mutual TLS, a real gateway before it, and others who would like to be it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serving" / "gateway"))
from gateway_support import Gateway, free_port, wait_until

from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.serving.authority import GATEWAY, Authority, worker_name
from modelfleet.serving.gateway import (
    EndpointRoutes,
    GatewayConfig,
    GatewayFiles,
    PoolAddress,
    Target,
)

INFER = "/v2/models/m1/infer"
ENDPOINT = EndpointRoutes("m1", (Target(17, "1.2.0", 3, "pool", 10_000),))


class Remote:
    """One worker at a TCP port, and whom its gateway is."""

    def __init__(self, fleet: Any, authority: Authority) -> None:
        self.fleet = fleet
        self.authority = authority
        self.port = free_port()
        self.files = tuple(fleet.home / name for name in ("w.pem", "w.key", "w-ca.pem"))
        self.renew()
        options = zip(("--tls-cert", "--tls-key", "--tls-ca"), self.files, strict=True)
        self.options = ["--tls", f"127.0.0.1:{self.port}"]
        self.options += [str(part) for option in options for part in option]

    def renew(self, authority: Authority | None = None, name: str = worker_name("pool")) -> None:
        issuer = authority or self.authority
        for path, content in zip(
            self.files, (*issuer.issue(name), issuer.certificate()), strict=True
        ):
            path.write_bytes(content)

    def ask(self, context: ssl.SSLContext) -> tuple[int, bytes, int]:
        """Status, body, and the serial number of the worker's certificate."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        with context.wrap_socket(plain) as secure:
            shown = secure.getpeercert()
            connection = http.client.HTTPConnection("worker")
            connection.sock = secure
            connection.request("GET", "/v2/health/ready")
            answer = connection.getresponse()
            return answer.status, answer.read(), int(str((shown or {})["serialNumber"]), 16)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(Layout(tmp_path / "home"))


@pytest.fixture
def remote(fleet: Any, bundles: Any, authority: Authority) -> Remote:
    fleet.add(17, bundles.logistic(), model="m1", version="1.2.0")
    fleet.write()
    made = Remote(fleet, authority)
    fleet.start(0, *made.options)
    return made


def client(trusted: Authority, issuer: Authority | None, name: str, folder: Path) -> ssl.SSLContext:
    """Somebody with a certificate of `issuer` for `name`, or with none."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(cadata=trusted.certificate().decode())
    if issuer is not None:
        certificate, key = issuer.issue(name)
        (folder / "c.pem").write_bytes(certificate + key)
        made.load_cert_chain(folder / "c.pem")
    return made


def test_the_gateway_gets_answers_and_nobody_else(
    remote: Remote, authority: Authority, tmp_path: Path
) -> None:
    gateway = client(authority, authority, GATEWAY, tmp_path)
    assert remote.ask(gateway)[:2] == (200, b'{"live":true,"ready":true}')
    other = Authority(Layout(tmp_path / "other"))
    for who, stranger in {
        "nobody": client(authority, None, "", tmp_path),
        "another authority": client(authority, other, GATEWAY, tmp_path),
        "a worker": client(authority, authority, worker_name("pool"), tmp_path),
        "nearly": client(authority, authority, f"{GATEWAY}/x", tmp_path),
    }.items():
        with pytest.raises((OSError, http.client.HTTPException)):
            pytest.fail(f"{who} was answered: {remote.ask(stranger)}")
    old = client(authority, authority, GATEWAY, tmp_path)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        remote.ask(old)
    with socket.create_connection(("127.0.0.1", remote.port), timeout=10) as plain:
        plain.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")
    assert "refused: not the gateway" in remote.fleet.log()
    assert remote.ask(gateway)[0] == 200


def test_new_files_are_taken_up_and_bad_ones_are_not(
    remote: Remote, authority: Authority, tmp_path: Path
) -> None:
    gateway = client(authority, authority, GATEWAY, tmp_path)
    first = remote.ask(gateway)[2]
    remote.files[1].write_bytes(b"rubbish")
    remote.fleet.until(lambda: "can't be used" in remote.fleet.log())
    assert remote.ask(gateway)[2] == first
    remote.renew()
    remote.fleet.until(lambda: remote.ask(gateway)[2] != first)

    other = Authority(Layout(tmp_path / "other"))  # the authority itself is replaced
    remote.renew(other)
    successor = client(other, other, GATEWAY, tmp_path)

    def taken_up() -> bool:
        try:
            return remote.ask(successor)[0] == 200
        except OSError:
            return False

    remote.fleet.until(taken_up)
    both = client(other, authority, GATEWAY, tmp_path)  # trusts the new one, is of the old one
    with pytest.raises((OSError, http.client.HTTPException)):
        pytest.fail(f"answered: {remote.ask(both)}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls", "127.0.0.1:1"], "belong together"),
        (["--tls", "here", "--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a"], "not HOST:PORT"),
    ],
)
def test_what_can_not_be(fleet: Any, options: list[str], said: str) -> None:
    known = ["--home", fleet.home, "--pool", "p", "--replica", "0", "--incarnation", "1"]
    known += ["--socket", fleet.home / "s", "--control", fleet.home / "c"]
    done = subprocess.run(
        [sys.executable, "-m", "modelfleet_worker", *known, *options],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert said in done.stderr


# Through Envoy ---------------------------------------------------------------------------------


@pytest.fixture
def gateway(fleet: Any) -> Iterator[Gateway]:
    layout = Layout(fleet.home / "g")
    key = SigningKey(layout)
    layout.sockets.mkdir(parents=True)
    made = Gateway(layout, GatewayFiles(layout), free_port(), free_port(), key)
    yield made
    made.stop()


@pytest.mark.e2e
def test_requests_go_through_a_real_gateway(
    gateway: Gateway, fleet: Any, bundles: Any, request_of: Any
) -> None:
    fleet.add(17, bundles.logistic(), model="m1", version="1.2.0")
    fleet.write()
    remote = Remote(fleet, Authority(gateway.layout))
    fleet.start(0, *remote.options)
    gateway.start()
    pool = PoolAddress("pool", (f"tcp://127.0.0.1:{remote.port}",))
    gateway.files.write(GatewayConfig(1, (ENDPOINT,), (pool,)))
    token, _ = gateway.token("m1")
    body = request_of([[1.0, 2.0, 3.0, 4.0]])
    for _ in range(50):
        reply = gateway.ask(INFER, token, body=body)
        assert (reply.status, reply.json["model_version"]) == (200, "1.2.0")
    assert len(fleet.records()) == 50
    assert {record.caller for record in fleet.records()} == {"caller-1"}

    # New certificates on both sides, under load: no request fails.
    before = remote.files[0].read_bytes()
    remote.renew()
    client_file = gateway.layout.gateway / "sds-client.json"
    os.utime(client_file, (0, 0))
    gateway.files.certificates.refresh()
    fleet.until(lambda: "took up new certificates" in fleet.log())
    assert remote.files[0].read_bytes() != before
    for _ in range(20):
        assert gateway.ask(INFER, token, body=body).status == 200


@pytest.mark.e2e
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs network namespaces")
def test_a_worker_in_another_network(
    gateway: Gateway, fleet: Any, bundles: Any, request_of: Any
) -> None:
    """Two network namespaces: the worker's address is none of the gateway's."""
    name, here, there = f"mf{os.getpid() % 100000}", "10.213.77.1", "10.213.77.2"

    def ip(*words: str) -> bool:
        return subprocess.run(["ip", *words], capture_output=True).returncode == 0

    if not ip("netns", "add", name):
        pytest.skip("network namespaces are not permitted here")
    try:
        inside = ("-n", name)
        if not ip(
            "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name
        ):
            pytest.skip("no pair of interfaces can be made here")
        assert ip("addr", "add", f"{here}/24", "dev", f"{name}a")
        assert ip("link", "set", f"{name}a", "up")
        assert ip(*inside, "addr", "add", f"{there}/24", "dev", f"{name}b")
        assert ip(*inside, "link", "set", f"{name}b", "up")
        fleet.add(17, bundles.logistic(), model="m1", version="1.2.0")
        fleet.write()
        remote = Remote(fleet, Authority(gateway.layout))
        remote.options[1] = f"{there}:{remote.port}"
        fleet.start(0, *remote.options, prefix=("ip", "netns", "exec", name))
        gateway.start()
        pool = PoolAddress("pool", (f"tcp://{there}:{remote.port}",))
        gateway.files.write(GatewayConfig(1, (ENDPOINT,), (pool,)))
        token, _ = gateway.token("m1")
        body = request_of([[1.0, 2.0, 3.0, 4.0]])
        wait_until(lambda: gateway.ask(INFER, token, body=body).status == 200, "an answer")
        good = [gateway.ask(INFER, token, body=body) for _ in range(20)]
        assert {reply.status for reply in good} == {200}
        assert json.loads(good[0].raw)["model_name"] == "m1"
    finally:
        ip("netns", "del", name)
        ip("link", "del", f"{name}a")
