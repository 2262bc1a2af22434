"""`python -m modelfleet.compat.grpc --home HOME`: serve until SIGTERM, then finish what is in."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import grpc
import httpx2

from modelfleet.compat.grpc.service import InferenceService
from modelfleet.core.settings import Settings, load_settings

_DRAIN_SECONDS = 10.0
_CONNECTIONS = 256


async def serve(settings: Settings) -> None:
    """Listen on the home's gRPC socket."""
    limits = httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    largest = settings.serving.max_body_bytes + (1 << 20)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", largest),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    way = httpx2.AsyncHTTPTransport(uds=str(settings.layout.gateway_socket), limits=limits)
    async with httpx2.AsyncClient(
        base_url="http://modelfleet", transport=way, timeout=None
    ) as http:
        server.add_generic_rpc_handlers((InferenceService(http).handlers(),))
        socket = settings.layout.grpc_socket
        socket.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        socket.chmod(0o600)
        await stop.wait()
        await server.stop(_DRAIN_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="modelfleet.compat.grpc", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    asyncio.run(serve(load_settings(parser.parse_args().home)))


if __name__ == "__main__":
    main()
