"""What the worker answers: Open Inference Protocol v2 over the models it holds.

The gateway names the version to run by its index in `x-mf-version`. Without that header (somebody
talks to the worker directly) the model is found by its name in the path.
"""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Optional
from urllib.parse import unquote

import msgspec

from modelfleet_worker import __version__, binary
from modelfleet_worker.exchange import Books, Exchange, Facts
from modelfleet_worker.heads import Head, Heads
from modelfleet_worker.http import Connection, Request, error_body
from modelfleet_worker.invocations import VERB
from modelfleet_worker.residency import Residency
from modelfleet_worker.runtimes.base import WHOLE
from modelfleet_worker.wire.bundle import BundleCorrupt
from modelfleet_worker.wire.desired import VersionSpec
from modelfleet_worker.wire.signature import TensorSpec
from modelfleet_worker.wire.spec import BundleSpec, read_spec

MAX_BODY = 16 << 20
HALF_READ_SECONDS = 60.0
_MODELS = b"/v2/models/"
_ASKS = ("infer", VERB)
READS = (b"GET", b"HEAD")
ALLOW_READS = b"allow: GET, HEAD"
_encode = msgspec.json.Encoder().encode


class Path(msgspec.Struct, frozen=True):
    """`/v2/models/{endpoint}[/versions/{version}][/{verb}]`; the verb is "" for metadata."""

    endpoint: str
    version: Optional[str]
    verb: str


class ModelServer:
    """The handler of all connections."""

    def __init__(self, residency: Residency, books: Books, max_body: int = MAX_BODY) -> None:
        self.max_body = max_body
        self.draining = False
        self.ready = False
        self.connections: set[Connection] = set()
        self.heads = Heads()
        self._residency = residency
        self._books = books

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer, now or when the model has."""
        head = request.head
        if head.facts is not None:
            self._infer(head.facts, request, connection)
            return
        path = parse_path(head.target) if head.target.startswith(_MODELS) else None
        if path is not None and path.verb in _ASKS and head.method == b"POST":
            facts = self._facts(path, head)
            if facts.named is not None:  # else it depends on what is resident just now
                head.facts = facts
            self._infer(facts, request, connection)
            return
        if request.refusal is not None:
            connection.respond(request.refusal[0], error_body(request.refusal[1]))
        elif path is not None:
            self._describe(path, request, connection)
        else:
            self._about_server(request, connection)

    def sweep(self, now: float) -> None:
        """Answer what is past its deadline; refuse what never arrives. now: monotonic seconds."""
        self._residency.sweep(now)
        for connection in list(self.connections):
            if connection.half_read_for(now) > HALF_READ_SECONDS:
                connection.time_out()

    def _facts(self, path: Path, head: Head) -> Facts:
        header = head.headers.get(b"x-mf-version")
        return Facts.of(
            head.headers,
            path.endpoint,
            self._index(path, header),
            header,
            scoring=path.verb == VERB,
        )

    def _infer(self, facts: Facts, request: Request, connection: Connection) -> None:
        index = facts.version
        exchange = Exchange(self._books, facts, request.request_id, connection)
        if request.refusal is not None:
            exchange.fail(*request.refusal)
            return
        resident = self._residency.table.get(index)
        if resident is not None:
            exchange.run(resident, request.body)
        elif self._residency.spec(index) is not None:
            exchange.run_when_loaded(self._residency, index, request.body)
        elif facts.named is not None:
            exchange.fail(503, f"version {facts.named.decode('latin-1')} is not resident here")
        else:
            exchange.fail(404, f"there is no model {facts.endpoint!r}")

    def _describe(self, path: Path, request: Request, connection: Connection) -> None:
        asks = path.verb in _ASKS
        if asks or request.head.method not in READS:
            allow = b"allow: POST" if asks else ALLOW_READS
            reason = "metadata is read by GET, inference is POST"
            connection.respond(405, error_body(reason), allow)
            return
        index = self._index(path, request.head.headers.get(b"x-mf-version"))
        version = self._residency.spec(index)
        ready = version is not None and not self._residency.failure(index)
        if path.verb == "ready":
            body = _encode({"name": path.endpoint, "ready": ready})
            connection.respond(200 if ready else 404, body)
        elif version is None:
            connection.respond(404, error_body(f"there is no model {path.endpoint!r}"))
        else:
            self._describe_version(path.endpoint, version, connection)

    def _describe_version(
        self, endpoint: str, version: VersionSpec, connection: Connection
    ) -> None:
        resident = self._residency.table.get(version.index)
        try:
            spec = resident.loaded.spec if resident else read_spec(FilePath(version.path))
        except BundleCorrupt as error:
            connection.respond(500, error_body(str(error)))
            return
        connection.respond(200, _metadata(endpoint, version, spec))

    def _about_server(self, request: Request, connection: Connection) -> None:
        target = request.head.target.partition(b"?")[0].rstrip(b"/")
        if request.head.method not in READS:
            connection.respond(404, error_body("there is nothing to do here"))
        elif target == b"/v2":
            body: dict[str, object] = {
                "name": "modelfleet",
                "version": __version__,
                "extensions": [binary.EXTENSION],
            }
            connection.respond(200, _encode(body))
        elif target == b"/v2/health/live":
            connection.respond(200, b'{"live":true}')
        elif target == b"/v2/health/ready":
            ready = self.ready and not self.draining
            body_bytes = _encode({"live": True, "ready": ready})
            connection.respond(200 if ready else 503, body_bytes)
        else:
            connection.respond(404, error_body("there is no such page"))

    def _index(self, path: Path, header: Optional[bytes]) -> int:
        """The version that is asked for; 0, which none has, if there is no such."""
        if header is None:
            return self._residency.by_name(path.endpoint, path.version) or 0
        return version_index(header)


def version_index(header: Optional[bytes]) -> int:
    """The index in `x-mf-version`; 0, which no version has, if there is none."""
    if header is None or not header.isdigit() or len(header) > 10:
        return 0
    return int(header)


def parse_path(target: bytes) -> Optional[Path]:
    """Read a request target below `/v2/models/`; None if it is no path of the protocol."""
    parts = target.partition(b"?")[0].decode("latin-1").rstrip("/").split("/")[3:]
    names = [unquote(part) for part in parts]
    if not names or not all(names):
        return None
    endpoint, rest = names[0], names[1:]
    version: Optional[str] = None
    if len(rest) >= 2 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
    if rest not in ([], ["infer"], ["ready"], [VERB]):
        return None
    return Path(endpoint, version, rest[0] if rest else "")


def _metadata(endpoint: str, version: VersionSpec, spec: BundleSpec) -> bytes:
    whole = spec.options.get("batch") == WHOLE
    return _encode(
        {
            "name": endpoint,
            "versions": [version.version],
            "platform": f"modelfleet_{spec.runtime}",
            "inputs": [_tensor(tensor, whole) for tensor in spec.signature.inputs],
            "outputs": [_tensor(tensor, whole) for tensor in spec.signature.outputs],
        }
    )


def _tensor(spec: TensorSpec, whole: bool) -> dict[str, object]:
    """whole: the model takes no rows, so that its own shapes have none."""
    shape = spec.shape[1:] if whole else spec.shape
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape}
