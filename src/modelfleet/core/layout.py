"""Where everything lies below one home folder. Nobody else builds these paths by hand."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SOCKET_PATH_LIMIT = 100  # sockaddr_un holds 108 bytes, the terminating zero included


@dataclass(frozen=True)
class Layout:
    """Paths of one modelfleet home. Pure: creates nothing."""

    home: Path

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def signing_key(self) -> Path:
        return self.keys / "signing.pem"

    @property
    def jwks(self) -> Path:
        return self.keys / "jwks.json"

    @property
    def authority_key(self) -> Path:
        return self.keys / "authority.key"

    @property
    def authority_certificate(self) -> Path:
        return self.keys / "authority.pem"

    @property
    def admin_key(self) -> Path:
        return self.home / "admin.key"

    @property
    def settings_file(self) -> Path:
        return self.home / "settings.toml"

    @property
    def fleet_database(self) -> Path:
        return self.home / "fleet.db"

    @property
    def evidence_database(self) -> Path:
        return self.home / "evidence.db"

    @property
    def blobs(self) -> Path:
        return self.home / "blobs"

    @property
    def bundles(self) -> Path:
        return self.home / "cache" / "bundles"

    def bundle(self, digest: str) -> Path:
        return self.bundles / digest

    @property
    def environments(self) -> Path:
        return self.home / "environments"

    def environment(self, digest: str) -> Path:
        return self.environments / digest

    def building(self, environment: str) -> Path:
        """Locked by whoever builds this environment."""
        return self.run / "building" / f"{environment}.lock"

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def ports(self) -> Path:
        return self.run / "ports.json"

    @property
    def agent(self) -> Path:
        return self.run / "agent.json"

    @property
    def observed(self) -> Path:
        return self.run / "observed.json"

    @property
    def members(self) -> Path:
        """A lock for each control plane of this home."""
        return self.run / "members"

    @property
    def control_plane_lock(self) -> Path:
        """Held while one runs on SQLite."""
        return self.run / "control-plane.lock"

    @property
    def generation(self) -> Path:
        """A number; processes of an older one are replaced, one after the other."""
        return self.run / "generation"

    @property
    def reconciled(self) -> Path:
        """Touched after each good round of the reconciler."""
        return self.run / "reconciled"

    @property
    def heartbeat(self) -> Path:
        """What the heartbeat process last found."""
        return self.run / "heartbeat.json"

    @property
    def watch(self) -> Path:
        return self.run / "watch.json"

    @property
    def replay(self) -> Path:
        """Written by whoever replays past data: which second stands for which day."""
        return self.run / "replay.json"

    @property
    def desired(self) -> Path:
        return self.run / "desired"

    def pool(self, pool: str) -> Path:
        return self.desired / f"{pool}.json"

    @property
    def pipelines(self) -> Path:
        """What the executors of pipelines should hold."""
        return self.run / "pipelines.json"

    @property
    def pipeline_layouts(self) -> Path:
        """The signatures of pipelines, in the form of a pool, for readers of their records."""
        return self.run / "pipelines" / "layouts.json"

    def pipeline_bundle(self, index: int) -> Path:
        return self.run / "pipelines" / str(index)

    def pipeline_counters(self, replica: int) -> Path:
        return self.run / "pipelines" / f"counters-{replica}.json"

    @property
    def batch_layouts(self) -> Path:
        """The versions of batches, in the form of a pool, for readers of their records."""
        return self.run / "batches" / "layouts.json"

    def batch_order(self, batch: str) -> Path:
        """What the process of a batch is to do."""
        return self.run / "batches" / f"{batch}.order.json"

    def batch_progress(self, batch: str) -> Path:
        """How far it is."""
        return self.run / "batches" / f"{batch}.progress.json"

    @property
    def sealing_key(self) -> Path:
        """Opens the secrets that lie in the database."""
        return self.keys / "sealing.key"

    @property
    def pipelines_key(self) -> Path:
        return self.keys / "pipelines.key"

    @property
    def control(self) -> Path:
        return self.run / "control"

    def control_block(self, pool: str, replica: int) -> Path:
        return self.control / f"{pool}-{replica}.ctl"

    @property
    def gateway(self) -> Path:
        return self.run / "gateway"

    @property
    def gateway_shares(self) -> Path:
        """What each caller may ask of endpoints that are asked for too much."""
        return self.gateway / "shares.json"

    @property
    def worker_package(self) -> Path:
        """Folder holding a copy of `modelfleet_worker` alone: the PYTHONPATH of workers."""
        return self.run / "worker"

    @property
    def sockets(self) -> Path:
        inside = self.run / "sockets"
        if len(str(inside)) + 50 <= _SOCKET_PATH_LIMIT:
            return inside
        short = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"modelfleet-{short}"

    def worker_socket(self, pool: str, replica: int) -> Path:
        return self.sockets / f"{pool}-{replica}.sock"

    @property
    def gateway_admin_socket(self) -> Path:
        return self.sockets / "gateway-admin.sock"

    @property
    def gateway_socket(self) -> Path:
        """Where the platform's own processes call models, past TLS."""
        return self.sockets / "gateway.sock"

    @property
    def grpc_socket(self) -> Path:
        """Where the service that speaks gRPC listens; the gateway passes its calls on."""
        return self.sockets / "grpc.sock"

    @property
    def segments(self) -> Path:
        return self.home / "segments"

    @property
    def predictions(self) -> Path:
        return self.home / "evidence" / "predictions"

    @property
    def outcomes(self) -> Path:
        return self.home / "evidence" / "outcomes"

    @property
    def outcome_inbox(self) -> Path:
        return self.home / "inbox" / "outcomes"

    @property
    def logs(self) -> Path:
        return self.home / "logs"
