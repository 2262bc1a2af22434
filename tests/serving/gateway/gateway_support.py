"""A real Envoy in front of stub workers, and clients that never rest."""

from __future__ import annotations

import collections
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.serving.gateway import GatewayFiles, PoolAddress, command

INFER = "/v2/models/m1/infer"
STUB = Path(__file__).with_name("stub_worker.py")


@dataclass(frozen=True)
class Issued:
    certificate: Path
    key: Path
    serial: int


class TestAuthority:
    """Signs certificates for 127.0.0.1, as a company's own authority would."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.file = folder / "test-authority.pem"
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        made = self._sign(self._name, self._key, constraints, days=1)
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, days: float = 1) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
        where = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        made = self._sign(subject, key, where, days=days)
        at = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        at[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        at[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Issued(*at, made.serial_number)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
        days: float,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(extension, critical=True)
            .sign(self._key, hashes.SHA256())
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> dict[str, object]:
        found = json.loads(self.raw)
        assert isinstance(found, dict)
        return found

    @property
    def seen(self) -> dict[str, str]:
        """The headers that the worker saw."""
        headers = self.json["headers"]
        assert isinstance(headers, dict)
        return headers


@dataclass
class Gateway:
    layout: Layout
    files: GatewayFiles
    port: int
    control_plane_port: int
    key: SigningKey
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_files(self) -> None:
        """What the host agent does at each of its starts, also while the gateway runs."""
        self.files.bootstrap(
            host="127.0.0.1",
            port=self.port,
            control_plane=("127.0.0.1", self.control_plane_port),
            jwks=self.layout.jwks.read_text(),
        )

    def start(self) -> subprocess.Popen[bytes]:
        self.start_files()
        log = (self.layout.home / "envoy.log").open("ab")
        envoy = subprocess.Popen(command(self.layout.gateway), stdout=log, stderr=log)
        log.close()
        self.processes.append(envoy)
        wait_until(self.listening, "the gateway")
        return envoy

    def listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def worker(self, name: str) -> tuple[subprocess.Popen[bytes], str]:
        self.layout.sockets.mkdir(parents=True, exist_ok=True)
        path = str(self.layout.sockets / f"{name}.sock")
        stub = subprocess.Popen([sys.executable, STUB, path, name, self.log_of(name)])
        self.processes.append(stub)
        wait_until(lambda: _answers(path), f"stub {name}")
        return stub, path

    def pool(self, name: str, replicas: int = 1) -> PoolAddress:
        return PoolAddress(name, tuple(self.worker(f"{name}-{n}")[1] for n in range(replicas)))

    def log_of(self, name: str) -> str:
        return str(self.layout.home / f"{name}.log")

    def requests_of(self, name: str) -> list[dict[str, object]]:
        path = Path(self.log_of(name))
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def token(self, *models: str, seconds: int = 600) -> tuple[str, str]:
        """(token, its id)"""
        text, token = self.key.issue("caller-1", "test", models=models, seconds=seconds)
        return text, token.id

    def token_of(
        self, caller: str, *models: str, teams: tuple[str, ...] = (), priority: str = ""
    ) -> str:
        issued = self.key.issue(
            caller, "test", models=models, seconds=600, teams=teams, priority=priority
        )
        return issued[0]

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(
        self,
        path: str,
        token: str | None = None,
        *,
        method: str = "POST",
        body: bytes | None = b"{}",
        headers: dict[str, str] | None = None,
        connection: HTTPConnection | None = None,
    ) -> Reply:
        used = connection or self.connect()
        sent = dict(headers or {})
        if token:
            sent["authorization"] = f"Bearer {token}"
        used.request(method, path, body if method == "POST" else None, sent)
        answer = used.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        reply = Reply(answer.status, found, answer.read())
        if connection is None:
            used.close()
        return reply

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        for process in self.processes:
            process.wait()


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


class Load:
    """Clients that ask without pause and count what is not 200."""

    def __init__(self, gateway: Gateway, clients: int = 4, path: str = INFER) -> None:
        self._gateway = gateway
        self._token, _ = gateway.token("*")
        self._path = path
        self._stop = threading.Event()
        self.good = 0
        self.bad: list[str] = []
        self.versions: collections.Counter[str] = collections.Counter()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        connection = self._gateway.connect()
        while not self._stop.is_set():
            try:
                reply = self._gateway.ask(self._path, self._token, connection=connection)
            except (OSError, HTTPException) as error:
                self.bad.append(repr(error))
                connection = self._gateway.connect()
                continue
            if reply.status == 200:
                self.good += 1
                self.versions[reply.seen["x-mf-version"]] += 1
            else:
                self.bad.append(f"{reply.status} {reply.raw!r}")
        connection.close()
