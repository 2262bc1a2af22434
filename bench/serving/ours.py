"""Our side: `modelfleet up` with everything on, and a second gateway in front of a peer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np

from modelfleet.client import Client
from modelfleet.core.layout import Layout
from modelfleet.serving.gateway import (
    EndpointRoutes,
    GatewayConfig,
    GatewayFiles,
    PoolAddress,
    Target,
    command,
)
from serving.models import ROW, training_data

GATE_PORT = 18_190


@dataclass(frozen=True)
class Fleet:
    home: Path
    gateway: str
    key: str
    client: Client

    def url(self, model: str) -> str:
        return f"{self.gateway}/v2/models/{model}/infer"

    def body(self, model: str) -> str:
        """One row, flat, in the datatype of the signature."""
        url = f"{self.gateway}/v2/models/{model}"
        (tensor,) = httpx2.get(url, headers=dict(self.headers)).json()["inputs"]
        one = {"name": tensor["name"], "datatype": tensor["datatype"], "shape": [1, len(ROW)]}
        return json.dumps({"inputs": [one | {"data": ROW}]})

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        return (("content-type", "application/json"), ("authorization", f"Bearer {self.key}"))


@contextmanager
def platform(home: Path, links: Path) -> Iterator[Fleet]:
    """links: a folder of wheels that environments may be built from."""
    shutil.rmtree(home, ignore_errors=True)
    up = subprocess.Popen(
        [sys.executable, "-m", "modelfleet.cli.main", "up", "--home", str(home)]
        + ["--port", "0", "--gateway-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "UV_FIND_LINKS": str(links)},
    )
    assert up.stdout is not None
    try:
        for line in up.stdout:
            if line.startswith("Key"):
                break
        with Client(home=home) as client:
            key = (home / "admin.key").read_text().strip()
            yield Fleet(home, client.gateway_url, key, client)
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()


def deploy(fleet: Fleet, name: str, model: Any, **how: Any) -> None:
    """model: an object, or the path of a saved one."""
    x, _ = training_data()
    rows = x if not isinstance(model, Path) else x.astype(np.float32)
    fleet.client.register(
        model, rows[:256], name=name, team="bench", reference=rows, wait=True, **how
    )
    fleet.client.deploy(name, wait=True)


@contextmanager
def gate(fleet: Fleet, root: Path, peer_url: str) -> Iterator[str]:
    """An Envoy with our listener, key check and retries before a peer; yields its URL."""
    layout = Layout(root / "gate")
    shutil.rmtree(layout.home, ignore_errors=True)
    for folder in (layout.gateway, layout.keys, layout.sockets):
        folder.mkdir(parents=True)
    parts = urlsplit(peer_url)
    assert parts.hostname is not None
    assert parts.port is not None
    files = GatewayFiles(layout)
    jwks = Layout(fleet.home).jwks.read_text()
    files.bootstrap(host="127.0.0.1", port=GATE_PORT, control_plane=("127.0.0.1", 9), jwks=jwks)
    target = Target(1, "1.0.0", 1, "peer", 10_000)
    routes = EndpointRoutes("peer", (target,))
    files.write(GatewayConfig(1, (routes,), (PoolAddress("peer", (str(layout.run / "s"),)),)))
    address = {"socket_address": {"address": parts.hostname, "port_value": parts.port}}
    _rewrite(layout.gateway / "cds.json", lambda node: _to_peer(node, address))
    _rewrite(layout.gateway / "rds.json", lambda node: _new_path(node, parts.path))
    envoy = subprocess.Popen(command(layout.gateway), stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{GATE_PORT}/v2/models/peer/infer"
    try:
        for _ in range(100):
            try:
                if httpx2.get(f"http://127.0.0.1:{GATE_PORT}/v2/health/live").status_code == 200:
                    break
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
        time.sleep(0.5)
        yield url
    finally:
        envoy.terminate()
        envoy.wait()


def _to_peer(node: dict[str, Any], address: object) -> None:
    """A pool's socket becomes the peer's port; a peer is not asked for its health."""
    if "pipe" in node.get("address", {}):
        node["address"] = address
    node.pop("health_checks", None)


def _new_path(node: dict[str, Any], path: str) -> None:
    if "timeout" in node and ("weighted_clusters" in node or "cluster" in node):
        node["regex_rewrite"] = {"pattern": {"regex": "^/.*$"}, "substitution": path}


def _rewrite(path: Path, change: Any) -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            change(node)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    content = json.loads(path.read_bytes())
    walk(content)
    path.write_text(json.dumps(content))
