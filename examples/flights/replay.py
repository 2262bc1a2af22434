"""Half a year of flights as live traffic: one row a request, through the gateway.

Runs as a process of its own (`python -m flights.replay PLAN`), tells its progress as JSON lines on
stdout, and reports arrival delays as outcomes some seconds after each prediction. The client is
deliberately light: raw HTTP/1.1 over a few connections that are kept open.
"""

from __future__ import annotations

import asyncio
import collections
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from flights.data import Flights, load
from flights.models import FIRST_HALF
from modelfleet.client.transport import Transport

SAMPLED = {"delay": 0.15, "cancelled": 0.10, "carrier-delay": 0.05, "connection": 0.02}
CONNECTIONS = 24


@dataclass(frozen=True)
class Plan:
    url: str
    gateway_url: str
    key_file: str
    seconds: float
    outcome_seconds: float
    """from a prediction to the report of what happened"""


@dataclass
class Tally:
    sent: int = 0
    answered: int = 0
    failed: int = 0
    outcomes: int = 0
    failures: list[str] = field(default_factory=list)

    def fail(self, why: str) -> None:
        self.failed += 1
        if len(self.failures) < 20:
            self.failures.append(why)


@dataclass(frozen=True)
class Request:
    at: float
    """seconds after the start"""
    endpoint: str
    body: bytes
    outcome: float
    """NaN if there will be none"""
    then: bytes = b""
    """what the connection model gets besides this answer; empty if it isn't asked"""
    then_endpoint: str = ""


def requests(flights: Flights, seconds: float) -> Iterator[Request]:
    """Every flight to its pair's `late` model, the other questions for a sample."""
    dice = np.random.default_rng(7).random((len(flights), len(SAMPLED)))
    start = FIRST_HALF * 1440
    at = (flights.minute - start) / (365 * 1440 - start) * seconds
    for k in range(len(flights)):
        row, when = flights.x[k], float(at[k])
        pair = f"{flights.origin[k]}-{flights.carrier[k]}"
        body, delay = _matrix(row), float(flights.delay[k])
        gone = delay != delay
        late = float("nan") if gone else float(flights.late[k])
        asked = dice[k] < list(SAMPLED.values())
        then = b"%r,%r" % (float(row[2]), float(row[0])) if asked[3] else b""
        connection = f"connection-risk-{flights.origin[k]}"
        yield Request(when, f"late-{pair}", body, late, then, connection)
        if asked[0]:
            yield Request(when, f"delay-{pair}", body, delay)
        if asked[1]:
            yield Request(when, f"cancelled-{pair}", body, float(gone))
        if asked[2]:
            yield Request(when, f"carrier-delay-{flights.carrier[k]}", body, delay)


def _matrix(row: np.ndarray) -> bytes:
    numbers = ",".join(repr(value) for value in row.tolist())
    return (
        f'{{"inputs":[{{"name":"x","datatype":"FP64","shape":[1,{len(row)}],"data":[{numbers}]}}]}}'
    ).encode()


def _connection_body(answer: bytes, then: bytes) -> bytes:
    outputs = {one["name"]: one for one in json.loads(answer)["outputs"]}
    distance, hour = then.decode().split(",")
    late = outputs["probability"]["data"][1]
    columns = {"late_probability": late, "distance": float(distance), "hour": float(hour)}
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}
        for name, value in columns.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


class Connection(asyncio.Protocol):
    """One kept-open connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: asyncio.Future[tuple[int, bytes, bytes]] | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("closed before the answer"))

    def ask(self, content: bytes) -> asyncio.Future[tuple[int, bytes, bytes]]:
        """(status, head, body) of the answer."""
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(content)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._waiting is None or self._waiting.done():
            return
        head = bytes(self._buffer[:end])
        length = int(header(head, b"content-length") or 0)
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        self._waiting.set_result((int(head[9:12]), head, body))


def header(head: bytes, name: bytes) -> bytes:
    place = head.find(b"\r\n" + name + b":")
    if place < 0:
        return b""
    start = place + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


class Replay:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._key = Path(plan.key_file).read_text().strip()
        self._host = urlsplit(plan.gateway_url)
        self._queue: asyncio.Queue[Request | None] = asyncio.Queue()
        self._labels: collections.deque[tuple[float, str, float]] = collections.deque()
        self.tally = Tally()
        self._over = threading.Event()

    async def run(self, wanted: list[Request]) -> None:
        reporter = threading.Thread(target=self._report, name="outcomes")
        reporter.start()
        began = time.monotonic()
        workers = [asyncio.create_task(self._work()) for _ in range(CONNECTIONS)]
        told, place = 0.0, 0
        while place < len(wanted):
            now = time.monotonic() - began
            while place < len(wanted) and wanted[place].at <= now:
                self._queue.put_nowait(wanted[place])
                place += 1
            if now - told > 0.5:
                self._tell(now)
                told = now
            await asyncio.sleep(0.004)
        for _ in workers:
            self._queue.put_nowait(None)
        await asyncio.gather(*workers)
        self._over.set()
        await asyncio.to_thread(reporter.join)
        self._tell(time.monotonic() - began, over=True)

    def _tell(self, now: float, over: bool = False) -> None:
        told = {"second": round(now, 2), "over": over, **self.tally.__dict__}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(Connection, self._host.hostname, self._host.port)
        return made

    async def _work(self) -> None:
        connection = await self._connect()
        while (request := await self._queue.get()) is not None:
            if connection.closed:
                connection = await self._connect()
            answer = await self._ask(connection, request.endpoint, request.body, request.outcome)
            if answer is not None and request.then:
                body = _connection_body(answer, request.then)
                await self._ask(connection, request.then_endpoint, body, float("nan"))

    async def _ask(
        self, connection: Connection, endpoint: str, body: bytes, outcome: float
    ) -> bytes | None:
        head = (
            f"POST /v2/models/{endpoint}/infer HTTP/1.1\r\nhost: {self._host.netloc}\r\n"
            f"authorization: Bearer {self._key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode()
        self.tally.sent += 1
        try:
            status, told, answer = await asyncio.wait_for(connection.ask(head + body), 30)
        except (TimeoutError, ConnectionError) as error:
            self.tally.fail(f"{endpoint}: {error or 'no answer in 30 s'}")
            return None
        if status != 200:
            self.tally.fail(f"{endpoint}: {status} {answer[:200].decode(errors='replace')}")
            return None
        self.tally.answered += 1
        if outcome == outcome:
            due = time.monotonic() + self._plan.outcome_seconds
            prediction = header(told, b"x-mf-prediction-id").decode()
            self._labels.append((due, prediction, outcome))
        return answer

    def _report(self) -> None:
        """Report outcomes that are due, twice a second, until all are told."""
        api = Transport(self._plan.url, self._key)
        while not (self._over.is_set() and not self._labels):
            now = time.monotonic()
            lines = []
            while self._labels and self._labels[0][0] <= now:
                _, prediction, value = self._labels.popleft()
                lines.append(
                    f'{{"prediction_id":"{prediction}","value":{value},"source":"arrivals"}}'
                )
            if lines:
                content = "\n".join(lines).encode()
                api.call("POST", "/v1/outcomes:batch", content=content)
                self.tally.outcomes += len(lines)
            time.sleep(0.5)


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    flights = load()
    wanted = list(requests(flights.where(flights.day > FIRST_HALF), plan.seconds))
    sys.stdout.write(json.dumps({"requests": len(wanted)}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()  # the demo says when
    replay = Replay(plan)
    import gc

    gc.freeze()
    asyncio.run(replay.run(wanted))


if __name__ == "__main__":
    main()
