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
from modelfleet.host.ports import Ports, read_ports
from modelfleet.host.workers import generation, install_worker_package, make_folders, worker_kit
from modelfleet.serving.gateway import GatewayFiles, Limits, command, successor
from modelfleet.serving.pipelines.plan import POOL, REPLICAS

_PREFIX = "MODELFLEET_"


def files_of(layout: Layout) -> Files:
    return Files(layout.run, layout.logs)


def platform(settings: Settings, ports: Ports) -> list[ProcessSpec]:
    """Gateway, control plane, executors of pipelines, collector, and what translates gRPC."""
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
        *(_executor(settings, ports, replica) for replica in range(REPLICAS)),
        ProcessSpec(
            "collector",
            (sys.executable, "-m", "modelfleet.telemetry.main", "--home", home),
            ready_at=(host, ports.metrics),
            last=True,
        ),
    ]
    if settings.serving.grpc:
        gateway = f"http://{_reachable(host)}:{ports.gateway}"
        argv = (sys.executable, "-m", "modelfleet.compat.grpc", "--home", home)
        found.append(ProcessSpec("grpc", (*argv, "--gateway", gateway)))
    return [replace(spec, env={**spec.env, **generation(layout)}) for spec in found]


def _executor(settings: Settings, ports: Ports, replica: int) -> ProcessSpec:
    argv = (
        *(sys.executable, "-m", "modelfleet.serving.pipelines.executor"),
        *("--home", str(settings.layout.home)),
        *("--replica", str(replica)),
        *("--gateway", f"{_reachable(settings.host)}:{ports.gateway}"),
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
        control_plane=(_reachable(settings.host), ports.api),
        jwks=layout.jwks.read_text("utf-8"),
    )
    chosen = platform(settings, ports) if specs is None else list(specs)
    return Agent(files_of(layout), chosen, worker_kit(settings))


def _reachable(host: str) -> str:
    """An IP address at which a listener on `host` can be reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(host, host)


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
