"""What one machine's modelfleet is made of."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from modelfleet.core.errors import Unavailable
from modelfleet.core.layout import Layout
from modelfleet.core.settings import Settings, load_settings
from modelfleet.engines.local import Agent, Files, ProcessSpec
from modelfleet.host.ports import Ports, reachable, read_ports
from modelfleet.host.workers import generation, install_worker_package, make_folders, worker_kit
from modelfleet.serving.gateway import Capacity, GatewayFiles, Limits, command, successor
from modelfleet.serving.pipelines.plan import POOL, REPLICAS

_PREFIX = "MODELFLEET_"


def files_of(layout: Layout) -> Files:
    return Files(layout.run, layout.logs)


def platform(settings: Settings, ports: Ports) -> list[ProcessSpec]:
    """Gateway, control plane, executors of pipelines, collector, heartbeat, gRPC's translator."""
    layout = settings.layout
    home = str(layout.home)
    host = settings.host
    found = [
        ProcessSpec(
            "gateway",
            command(layout.gateway),
            successor=lambda pid: successor(layout.gateway, pid),
            ready_at=(host, ports.gateway),
            detached=True,
            stop_seconds=3.0,
        ),
        ProcessSpec(
            "control-plane",
            (sys.executable, "-m", "modelfleet.app", "--home", home),
            ready_at=(host, ports.api),
        ),
        *(_executor(settings, replica) for replica in range(REPLICAS)),
        ProcessSpec(
            "collector",
            (sys.executable, "-m", "modelfleet.telemetry.main", "--home", home),
            ready_at=(host, ports.metrics),
            last=True,
        ),
    ]
    heart = (sys.executable, "-m", "modelfleet.host.heartbeat", "--home", home)
    found.append(ProcessSpec("heartbeat", heart, stop_seconds=3.0))
    if settings.serving.grpc:
        argv = (sys.executable, "-m", "modelfleet.compat.grpc", "--home", home)
        found.append(ProcessSpec("grpc", argv))
    return [replace(spec, env={**spec.env, **generation(layout)}) for spec in found]


def _executor(settings: Settings, replica: int) -> ProcessSpec:
    argv = (
        *(sys.executable, "-m", "modelfleet.serving.pipelines.executor"),
        *("--home", str(settings.layout.home)),
        *("--replica", str(replica)),
        *("--segment-mb", str(settings.serving.segment_mb)),
        *("--max-body", str(settings.serving.max_body_bytes)),
        *("--incarnation", "0"),
    )
    return ProcessSpec(
        f"{POOL}-{replica}",
        argv,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        incarnation_from=len(argv) - 1,
        stop_seconds=11.0,
    )


def compose(settings: Settings, specs: Sequence[ProcessSpec] | None = None) -> Agent:
    """The agent of this home. specs: other processes than the platform's own."""
    layout = settings.layout
    ports = read_ports(layout)
    if ports is None:
        raise Unavailable(f"{layout.ports} is missing.", hint="Start with: modelfleet up.")
    make_folders(settings)
    install_worker_package(layout)
    gateway = GatewayFiles(layout, limits=Limits.of(settings.serving), tls=settings.tls)
    gateway.bootstrap(
        host=settings.host,
        port=ports.gateway,
        control_plane=(reachable(settings.host), ports.api),
        jwks=layout.jwks.read_text("utf-8"),
        capacity=Capacity(settings.serving.max_connections, settings.serving.gateway_memory_mb),
    )
    chosen = platform(settings, ports) if specs is None else list(specs)
    return Agent(files_of(layout), chosen, worker_kit(settings))


def overrides_as_environment(settings: Settings) -> dict[str, str]:
    """What the command line changed, as variables for the processes that we start."""
    plain = msgspec.to_builtins(load_settings(settings.home), enc_hook=str)
    changed: dict[str, str] = {}
    _differences(msgspec.to_builtins(settings, enc_hook=str), plain, _PREFIX, changed)
    return changed


def _differences(
    wanted: Mapping[str, object], plain: Mapping[str, object], prefix: str, into: dict[str, str]
) -> None:
    for name, value in wanted.items():
        other = plain[name]
        if isinstance(value, dict) and isinstance(other, dict):
            _differences(value, other, f"{prefix}{name.upper()}__", into)
        elif value != other:
            into[f"{prefix}{name.upper()}"] = (
                str(value).lower() if isinstance(value, bool) else str(value)
            )
