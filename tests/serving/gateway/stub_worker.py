"""A worker that only tells what it was asked: JSON of its name, the path and the headers.

`python stub_worker.py SOCKET NAME LOG` (SOCKET: a path, or a TCP port) appends one line a request
to LOG. A body of `slow:S` is answered after S seconds, one of `status:N` with that status and a
header that is not its to send.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
            body = await read_body(reader, headers)
            if path != "/v2/health/ready":
                await answer_slowly(body)
            seen = {"worker": NAME, "method": method, "path": path, "size": len(body)}
            text = json.dumps({**seen, "headers": headers}).encode()
            if path != "/v2/health/ready":
                with open(LOG, "ab") as log:
                    log.write(text + b"\n")
            begin = b"200 OK"
            if body.startswith(b"status:"):
                begin = body.removeprefix(b"status:") + b" As Told\r\nx-mf-refused: overload"
            writer.write(
                b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (begin, len(text), text)
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int((await reader.readline()).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


async def answer_slowly(body: bytes) -> None:
    if body.startswith(b"slow:"):
        await asyncio.sleep(float(body.removeprefix(b"slow:")))


async def main() -> None:
    if SOCKET.isdigit():
        server: asyncio.Server = await asyncio.start_server(handle, "127.0.0.1", int(SOCKET))
    else:
        if os.path.exists(SOCKET):
            os.unlink(SOCKET)
        server = await asyncio.start_unix_server(handle, SOCKET, limit=1 << 22)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    SOCKET, NAME, LOG = sys.argv[1:4]
    asyncio.run(main())
