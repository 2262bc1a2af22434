"""One settings object. Later sources win: defaults, HOME/settings.toml, environment, command line.

An environment variable is `MODELFLEET_` and the name in capitals; two underscores step into a
group: `MODELFLEET_PORT=0`, `MODELFLEET_SERVING__REPLICAS=1`. The file has the same shape in TOML.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from modelfleet.core.errors import InvalidInput
from modelfleet.core.layout import Layout

_PREFIX = "MODELFLEET_"


class RegistrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models, runs and the protocol of MLflow."""

    create_namespaces: bool = False
    """A namespace (`/t/<name>`) exists as soon as somebody names it. For tests and development."""
    default_team: str = "unassigned"
    """Owner of models that a client registers without naming a team."""
    private_webhooks: bool = False
    """Webhooks may be delivered to private and local addresses. For tests and development."""


class ServingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Workers and gateway."""

    replicas: int = 2
    """Workers of a pool. Fewer than two can't answer while one is being replaced."""
    worker_user: str = "nobody"
    """Whom workers become when modelfleet runs as root."""
    allow_root_workers: bool = False
    """Let workers stay root where privileges can't be dropped. Model code may then read keys."""
    sandbox_checks: bool = True
    """While a version is checked and compiled, its model can open its own files only and no
    connection, and start no program. Off: for models that must reach out while they load."""
    max_body_bytes: int = 16 * 1024 * 1024
    """Largest request; a larger one gets 413."""
    max_headers: Annotated[int, msgspec.Meta(ge=10, le=1000)] = 100
    """Most headers of a request; more get 431."""
    max_header_kb: Annotated[int, msgspec.Meta(ge=4, le=60)] = 60
    """Most KiB of headers, of all together; more get 431."""
    header_timeout_seconds: Annotated[float, msgspec.Meta(ge=0.1)] = 10.0
    """How long the headers of a request may take to arrive; then 408."""
    read_timeout_seconds: Annotated[float, msgspec.Meta(ge=0.1)] = 120.0
    """How long a whole request may take to arrive; then 408."""
    memory_mb: int = 4096
    """Memory limit of one worker."""
    resident_mb: int = 0
    """What the models of one worker may hold together; the least valuable ones are let go and come
    back when they are asked for. 0 is three quarters of memory_mb."""
    worker_cpus: int = 0
    """Cores that one worker may use at a time, 0 for all."""
    quarantine_crashes: int = 3
    """A version that brought its worker down so often within an hour is not run any more; 0 never
    stops one."""
    segment_mb: int = 64
    """Size of one prediction segment on disk."""
    max_connections: int = 50_000
    """Clients' connections that the gateway holds at a time; further ones are closed at once.
    Counts when the gateway starts anew, as after `restart --rolling`."""
    gateway_memory_mb: int = 0
    """Memory of the gateway: near it, requests are refused with 503; 0 is no limit. Counts like
    max_connections."""
    request_timeout_ms: int = 30_000
    """Of endpoints that are made from now on."""
    grpc: bool = True
    """Speak gRPC, too, on the gateway's port: one more process."""
    tls_cert: str = ""
    """The gateway's certificate chain in PEM, absolute or below HOME; then https is spoken only."""
    tls_key: str = ""
    """Its private key in PEM. A new pair in these files is taken up within a second."""


class EvidenceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The collector. All lengths in seconds unless the name says otherwise."""

    tick_seconds: float = 1.0
    """Length of a judge tick."""
    window_seconds: int = 60
    """Length of a window state, the finest grain of monitoring."""
    rotate_seconds: int = 60
    """A Parquet file of predictions is sealed after this long"""
    rotate_mb: int = 128
    """or when it has this size, in MiB."""
    collect_interval_seconds: float = 0.2
    """How often segments are read."""
    outcome_retry_seconds: float = 2.0
    """When an outcome of an unknown prediction is tried again for the first time."""


class MonitoringSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Drift and alerts."""

    drift_window_seconds: int = 3600
    """Length of the windows whose distributions are compared with the reference."""
    psi0: float = 0.01
    """Chi-square distance that is tolerated: about a shift by a tenth of a standard deviation."""
    fdr_q: float = 0.05
    """Share of false alarms among all drift alarms of a window, over the whole fleet."""


class BatchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Batch scoring."""

    folders: tuple[str, ...] = ()
    """Where jobs may read and write. Without any, admins alone start jobs, on any file but those of
    the home."""
    parallel: int = 1
    """Jobs that run at a time; others wait for them."""
    nice: int = 10
    """How far a job stands back behind those who answer requests, 0 to 19."""
    cpus: int = 1
    """Cores that one job may use, 0 for all."""


class ReconcileSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The loop that makes what is into what should be."""

    interval_seconds: float = 0.25
    """Shortest time between two rounds."""


class DatabaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models, versions, rollouts, access, audit. What predictions tell is always kept in HOME."""

    url: str = ""
    """PostgreSQL, as `postgresql://USER@HOST:5432/NAME`; without one it is SQLite, in
    HOME/fleet.db. With PostgreSQL there may be several control planes."""
    password: str = ""
    """Better than in the address: in MODELFLEET_DATABASE__PASSWORD"""
    password_file: str = ""
    """or in a file, absolute or below HOME."""


class HeartbeatSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Telling somebody outside that all is well, so that silence is heard."""

    url: str = ""
    """Called while everything is ready, and with /fail behind its path and a reason in the body
    when it is not: a check of healthchecks.io or the like. Keep it as secret as a password."""
    interval_seconds: float = 60.0
    """Between two calls; allow for twice as long before you are woken."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One machine's modelfleet."""

    home: Path
    """Where everything lies. Not in the file: `--home` or MODELFLEET_HOME."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8080
    """Control plane: API and pages. 0 picks a free one."""
    gateway_port: int = 8081
    """Inference. 0 picks a free one."""
    metrics_port: int = 0
    """Prometheus. 0 picks a free one."""
    registry: RegistrySettings = RegistrySettings()
    serving: ServingSettings = ServingSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    batch: BatchSettings = BatchSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    database: DatabaseSettings = DatabaseSettings()

    @property
    def tls(self) -> tuple[Path, Path] | None:
        """Certificate and key of the gateway. Raises `InvalidInput` if only one is set."""
        certificate, key = self.serving.tls_cert, self.serving.tls_key
        if bool(certificate) != bool(key):
            raise InvalidInput("serving.tls_cert and serving.tls_key are set together or not.")
        return (self.home / certificate, self.home / key) if certificate else None

    @property
    def layout(self) -> Layout:
        return Layout(self.home)

    def database_password(self) -> str:
        """From the setting or the file. Raises `InvalidInput` for both, or an unreadable file."""
        given = self.database
        if given.password and given.password_file:
            raise InvalidInput("database.password and database.password_file exclude each other.")
        if not given.password_file:
            return given.password
        try:
            return (self.home / given.password_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"database.password_file can't be read: {error}") from error


def default_home(environment: Mapping[str, str] = os.environ) -> Path:
    named = environment.get("MODELFLEET_HOME")
    return Path(named) if named else Path.home() / ".modelfleet"


def load_settings(
    home: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Merge all sources into one `Settings`. `overrides` has the shape of the file."""
    place = (home or default_home(environment)).expanduser().resolve()
    file = Layout(place).settings_file
    merged: dict[str, object] = {}
    if file.exists():
        try:
            merged = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{file}: {error}", hint="Mend the file or remove it.") from error
    merged = _merge(merged, _from_environment(environment))
    merged = _merge(merged, dict(overrides or {})) | {"home": str(place)}
    try:
        return msgspec.convert(merged, Settings, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"settings: {error}", hint=f"See {file} and MODELFLEET_* variables."
        ) from error


def _path(kind: type, value: object) -> object:
    if kind is Path:
        return Path(str(value))
    raise NotImplementedError(f"{kind} in settings")


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    known = set(Settings.__struct_fields__) - {"home"}
    for name, value in environment.items():
        if not name.startswith(_PREFIX):
            continue
        path = name.removeprefix(_PREFIX).lower().split("__")
        if path[0] not in known:
            continue  # MODELFLEET_URL and the like belong to the client
        here = found
        for step in path[:-1]:
            nested = here.setdefault(step, {})
            if not isinstance(nested, dict):
                raise InvalidInput(f"{name} contradicts another variable.")
            here = nested
        here[path[-1]] = value
    return found


def _merge(low: dict[str, object], high: dict[str, object]) -> dict[str, object]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged
