"""What an executor answers: Open Inference Protocol v2 for pipelines."""

from __future__ import annotations

import asyncio

import msgspec

from modelfleet.serving.pipelines.executor.answer import Answer
from modelfleet.serving.pipelines.executor.calls import Gateway
from modelfleet.serving.pipelines.executor.runner import Runner
from modelfleet.serving.pipelines.plan import Published
from modelfleet_worker import log
from modelfleet_worker.exchange import Books
from modelfleet_worker.heads import Heads
from modelfleet_worker.http import Connection, Request, error_body
from modelfleet_worker.invocations import VERB
from modelfleet_worker.server import ALLOW_READS, HALF_READ_SECONDS, READS, parse_path
from modelfleet_worker.wire.signature import TensorSpec

_encode = msgspec.json.Encoder().encode


class PipelineServer:
    """The handler of all connections."""

    def __init__(self, gateway: Gateway, books: Books, max_body: int) -> None:
        self.max_body = max_body
        self.draining = False
        self.ready = False
        self.connections: set[Connection] = set()
        self.heads = Heads()
        self.runners: dict[str, Runner] = {}
        self._gateway = gateway
        self._books = books
        self._tasks: set[asyncio.Task[None]] = set()

    def hold(self, published: Published) -> None:
        """Serve these pipelines from now on; requests that run go on with what they have."""
        self.runners = {
            plan.name: Runner(plan, self.runners.get(plan.name)) for plan in published.pipelines
        }

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer, now or when the pipeline has."""
        if request.refusal is not None:
            connection.respond(request.refusal[0], error_body(request.refusal[1]))
            return
        head = request.head
        path = parse_path(head.target) if head.target.startswith(b"/v2/models/") else None
        if path is None:
            self._about_server(request, connection)
            return
        runner = self.runners.get(path.endpoint)
        if runner is None:
            connection.respond(404, error_body(f"there is no pipeline {path.endpoint!r}"))
        elif path.verb == "infer" and head.method == b"POST":
            task = asyncio.create_task(self._infer(runner, request, connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif path.verb == VERB:
            connection.respond(404, error_body("pipelines have no scoring protocol: use infer"))
        elif path.verb == "infer" or head.method not in READS:
            allow = b"allow: POST" if path.verb == "infer" else ALLOW_READS
            reason = "metadata is read by GET, inference is POST"
            connection.respond(405, error_body(reason), allow)
        elif path.verb == "ready":
            connection.respond(200, _encode({"name": path.endpoint, "ready": True}))
        else:
            connection.respond(200, _encode(_metadata(runner)))

    def sweep(self, now: float) -> None:
        """Refuse what never arrives. now: monotonic seconds."""
        for connection in list(self.connections):
            if connection.half_read_for(now) > HALF_READ_SECONDS:
                connection.time_out()

    def _about_server(self, request: Request, connection: Connection) -> None:
        target = request.head.target.partition(b"?")[0]
        if target == b"/v2/health/ready":
            ready = self.ready and not self.draining
            connection.respond(200 if ready else 503, _encode({"live": True, "ready": ready}))
        elif target == b"/v2/health/live":
            connection.respond(200, b'{"live":true}')
        else:
            connection.respond(404, error_body("there is no such page"))

    async def _infer(self, runner: Runner, request: Request, connection: Connection) -> None:
        answer = Answer(runner, request, connection, self._books)
        try:
            await answer.run(self._gateway)
        except Exception as error:  # noqa: BLE001  # no request may stay without its answer
            log.failure("a pipeline failed", error, pipeline=runner.plan.name)
            answer.fail(500, log.describe(error))


def _metadata(runner: Runner) -> dict[str, object]:
    def tensor(spec: TensorSpec) -> dict[str, object]:
        return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}

    plan = runner.plan
    return {
        "name": plan.name,
        "versions": [str(plan.revision)],
        "platform": "modelfleet_pipeline",
        "inputs": [tensor(spec) for spec in plan.inputs],
        "outputs": [tensor(fed.spec) for fed in plan.outputs],
    }
