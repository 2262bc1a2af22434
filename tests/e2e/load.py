"""A small load generator: keep-alive connections in a thread of its own, and what came of them."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

NO_ANSWER = 0
"""instead of a status: the connection was refused or broke"""

Body = Callable[[random.Random], bytes]


def rows(features: int, count: int = 1) -> Body:
    """Bodies with `count` rows of normal numbers for a tensor `x`."""

    def make(chance: random.Random) -> bytes:
        data = [round(chance.gauss(0.0, 1.0), 6) for _ in range(count * features)]
        tensor = {"name": "x", "datatype": "FP64", "shape": [count, features], "data": data}
        return json.dumps({"inputs": [tensor]}).encode()

    return make


@dataclass
class Tally:
    """Answers by status, the first few bad ones in full, and the longest time without a good one
    (seconds)."""

    statuses: Counter[int] = field(default_factory=Counter)
    trouble: list[str] = field(default_factory=list)
    longest_gap: float = 0.0
    last_good: float = field(default_factory=time.monotonic)

    @property
    def good(self) -> int:
        return self.statuses[200]

    @property
    def bad(self) -> int:
        return self.statuses.total() - self.good

    def note(self, status: int, text: bytes) -> None:
        self.statuses[status] += 1
        now = time.monotonic()
        if status == 200:
            self.longest_gap = max(self.longest_gap, now - self.last_good)
            self.last_good = now
        elif len(self.trouble) < 5:
            self.trouble.append(f"{status} {text[:200].decode(errors='replace')}")


class Load:
    """Requests to one endpoint until the `with` block ends. pause: seconds between two requests
    of a connection."""

    def __init__(
        self,
        port: int,
        key: str,
        endpoint: str,
        body: Body,
        *,
        connections: int = 8,
        pause: float = 0.0,
        clients: int = 0,
    ) -> None:
        """clients: so many say who they are, in the header x-client."""
        self.tally = Tally()
        self._port = port
        self._path = f"/v2/models/{endpoint}/infer"
        self._key = key
        self._body = body
        self._connections = connections
        self._pause = pause
        self._clients = clients
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)

    def __enter__(self) -> Load:
        self.tally.last_good = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(60)

    def wait_for(self, more: int, seconds: float = 20.0) -> None:
        """Until so many more good answers came."""
        wanted = self.tally.good + more
        end = time.monotonic() + seconds
        while self.tally.good < wanted:
            assert time.monotonic() < end, f"no answers: {self.tally}"
            time.sleep(0.02)

    def _main(self) -> None:
        asyncio.run(self._all())

    async def _all(self) -> None:
        await asyncio.gather(*(self._connection(n) for n in range(self._connections)))

    async def _connection(self, number: int) -> None:
        chance = random.Random(number)
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._ending.is_set():
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", self._port)
                status, text, closes = await asyncio.wait_for(
                    self._ask(*streams, self._body(chance), self._client(chance)), 40
                )
            except (OSError, EOFError, TimeoutError) as error:
                status, text, closes = NO_ANSWER, repr(error).encode(), True
                await asyncio.sleep(0.05)
            self.tally.note(status, text)
            if closes and streams is not None:
                streams[1].close()
                streams = None
            if self._pause:
                await asyncio.sleep(self._pause)
        if streams is not None:
            streams[1].close()

    def _client(self, chance: random.Random) -> str:
        return f"x-client: {chance.randrange(self._clients)}\r\n" if self._clients else ""

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes, more: str
    ) -> tuple[int, bytes, bool]:
        head = (
            f"POST {self._path} HTTP/1.1\r\nhost: fleet\r\nauthorization: Bearer {self._key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
        )
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = 0
        for line in answer.split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        text = await reader.readexactly(length)
        return int(answer.split(b" ", 2)[1]), text, b"\r\nconnection: close" in answer
