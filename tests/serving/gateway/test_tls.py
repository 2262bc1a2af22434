"""TLS at both ends of a real gateway."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509
from gateway_support import Gateway, Issued, TestAuthority, wait_until

from modelfleet.core.errors import InvalidInput
from modelfleet.serving.authority import GATEWAY, Authority, worker_name
from modelfleet.serving.gateway import (
    EndpointRoutes,
    GatewayConfig,
    GatewayFiles,
    PoolAddress,
    Target,
    admin,
)
from modelfleet.serving.gateway.certificates import Certificates
from modelfleet.serving.gateway.explain import health_of
from modelfleet.serving.gateway.tls import file_of, read_pair

INFER = "/v2/models/m1/infer"
ENDPOINT = EndpointRoutes("m1", (Target(17, "1.2.0", 3, "p", 10_000),))


# Towards clients -------------------------------------------------------------------------------


def context(authority: TestAuthority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


def shown(gateway: Gateway, trusted: ssl.SSLContext) -> int:
    """The serial number of the certificate that a client is shown."""
    with (
        socket.create_connection(("127.0.0.1", gateway.port)) as plain,
        trusted.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        der = secure.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def use(gateway: Gateway, issued: Issued) -> tuple[Path, Path]:
    home = gateway.layout.home
    pair = (home / "gateway.pem", home / "gateway.key")
    shutil.copy(issued.certificate, pair[0])
    shutil.copy(issued.key, pair[1])
    return pair


@pytest.mark.e2e
def test_clients_come_by_tls_and_a_new_pair_is_taken_up(gateway: Gateway) -> None:
    authority = TestAuthority(gateway.layout.home)
    first, second = authority.issue("one"), authority.issue("two")
    pair = use(gateway, first)
    gateway.files = GatewayFiles(gateway.layout, tls=pair)
    gateway.start()
    gateway.files.write(GatewayConfig(1, (ENDPOINT,), (gateway.pool("p"),)))
    trusted = context(authority)
    connection = HTTPSConnection("127.0.0.1", gateway.port, timeout=20, context=trusted)
    token, _ = gateway.token("m1")
    assert gateway.ask(INFER, token, connection=connection).status == 200
    assert gateway.ask(INFER, connection=connection).status == 401
    assert shown(gateway, trusted) == first.serial

    shutil.copy(second.certificate, pair[0])  # the key is still the old one
    gateway.files.certificates.refresh()
    assert shown(gateway, trusted) == first.serial
    shutil.copy(second.key, pair[1])
    gateway.files.certificates.refresh()
    wait_until(lambda: shown(gateway, trusted) == second.serial, "the new certificate")
    assert gateway.ask(INFER, token, connection=connection).status == 200  # the old connection
    connection.close()


@pytest.mark.e2e
def test_old_versions_and_plain_text_are_refused(gateway: Gateway) -> None:
    authority = TestAuthority(gateway.layout.home)
    gateway.files = GatewayFiles(gateway.layout, tls=use(gateway, authority.issue("one")))
    gateway.start()
    old = context(authority)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        shown(gateway, old)
    with pytest.raises(ssl.SSLError):
        shown(gateway, ssl.create_default_context())  # nobody it knows
    plain = HTTPConnection("127.0.0.1", gateway.port, timeout=5)
    with pytest.raises(OSError):
        gateway.ask("/v2", method="GET", connection=plain)
    offered = context(authority)
    offered.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", gateway.port)) as raw,
        offered.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"


def test_a_bad_pair_is_told(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    one, two, past = authority.issue("one"), authority.issue("two"), authority.issue("past", -1)
    assert read_pair(one.certificate, one.key)
    for certificate, key, said in (
        (one.certificate, two.key, "not that of"),
        (one.certificate, tmp_path / "none", "can't be read"),
        (one.key, one.key, "no certificate"),
        (one.certificate, one.certificate, "no private key"),
        (past.certificate, past.key, "ended on"),
    ):
        with pytest.raises(InvalidInput, match=said):
            read_pair(certificate, key)


# Towards workers on other hosts ----------------------------------------------------------------


class RemoteWorker:
    """A server that demands a certificate of the platform's authority, and notes whose it saw."""

    def __init__(self, gateway: Gateway, name: str, issuer: Authority | None = None) -> None:
        home = gateway.layout.home
        trusted = Authority(gateway.layout)
        certificate, key = (issuer or trusted).issue(name)
        chain, secret, anchor = home / "w.pem", home / "w.key", home / "w-ca.pem"
        chain.write_bytes(certificate)
        secret.write_bytes(key)
        anchor.write_bytes(trusted.certificate())
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(chain, secret)
        self._context.load_verify_locations(anchor)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.callers: set[str] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(plain,), daemon=True).start()

    def _answer(self, plain: socket.socket) -> None:
        try:
            with self._context.wrap_socket(plain, server_side=True) as secure:
                peer = secure.getpeercert() or {}
                self.callers |= {value for _, value in peer["subjectAltName"]}  # type: ignore[misc]
                while secure.recv(65536):
                    secure.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        except (OSError, ValueError):
            return

    def close(self) -> None:
        self._listener.close()


@pytest.mark.e2e
def test_workers_on_other_hosts_are_reached_by_mutual_tls(gateway: Gateway) -> None:
    gateway.start()
    worker = RemoteWorker(gateway, worker_name("p"))
    _, here = gateway.worker("p-0")
    gateway.files.write(GatewayConfig(1, (ENDPOINT,), (PoolAddress("p", (worker.address, here)),)))
    token, _ = gateway.token("m1")
    bodies = [gateway.ask(INFER, token).raw for _ in range(20)]
    assert b"{}" in bodies  # from there
    assert any(b"p-0" in body for body in bodies)  # and from here, without TLS
    assert worker.callers == {GATEWAY}
    health = health_of(gateway.layout.gateway_admin_socket)
    assert health == {worker.address: "healthy", here: "healthy"}
    worker.close()


@pytest.mark.e2e
@pytest.mark.parametrize("who", ["another pool", "another authority"])
def test_others_are_not_taken_for_workers(gateway: Gateway, who: str, tmp_path: Path) -> None:
    from modelfleet.core.layout import Layout

    gateway.start()
    if who == "another pool":
        worker = RemoteWorker(gateway, worker_name("q"))
    else:
        worker = RemoteWorker(gateway, worker_name("p"), Authority(Layout(tmp_path)))
    pool = PoolAddress("p", (worker.address,))
    gateway.files.write(GatewayConfig(1, (ENDPOINT,), (pool,)))
    assert gateway.ask(INFER, gateway.token("m1")[0]).status == 503
    found = admin.statistics(gateway.layout.gateway_admin_socket, r"pool-p\.ssl\.fail_verify")
    assert sum(map(int, (found or {}).values())) > 0
    worker.close()


def test_leaves_are_short_lived_and_renewed(gateway: Gateway) -> None:
    import os

    kept = Certificates(gateway.layout, None)
    kept.publish_client()
    path = file_of(gateway.layout.gateway, "client")
    first = path.read_bytes()
    kept.refresh()
    assert path.read_bytes() == first
    os.utime(path, (0, 0))
    kept.refresh()
    assert path.read_bytes() != first
    assert path.stat().st_mode & 0o077 == 0
    certificate, _ = Authority(gateway.layout).issue(GATEWAY)
    leaf = x509.load_pem_x509_certificate(certificate)
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days <= 7


@pytest.mark.parametrize(
    "sockets",
    [("tcp://1.2.3.4",), ("tcp://1.2.3.4:0",), ("tcp://:80",), ("tcp://host:80", "/here.sock")],
)
def test_addresses_that_can_not_be(sockets: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        PoolAddress("p", sockets)
