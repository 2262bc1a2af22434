"""The gateway's files: written whole, in an order that never routes to a cluster not yet there.

Clusters before routes, and routes when their clusters have a healthy worker; clusters that are no
longer used go later than the routes to them. What Envoy refuses is taken back, so that a restarted
gateway finds the last good configuration.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modelfleet.core.clock import now_us
from modelfleet.core.errors import FleetError
from modelfleet.core.files import locked, write_atomically
from modelfleet.core.layout import Layout
from modelfleet.serving.gateway import (
    access,
    admin,
    bootstrap,
    clusters,
    listener,
    overload,
    routes,
    shed,
)
from modelfleet.serving.gateway.certificates import Certificates
from modelfleet.serving.gateway.config import GatewayConfig
from modelfleet.serving.gateway.decide import Asked
from modelfleet.serving.gateway.explain import Explanation, explain, health_of

_PATIENCE_SECONDS = 2.5
"""How long `write` waits for Envoy; a new cluster's first health check may take a second."""
_KEEP_SECONDS = 5.0
"""How long a cluster stays after the last route to it: requests and retries may be under way."""
_VERSION = {
    "cds.json": "cluster_manager.cds",
    "rds.json": f"http.gateway.rds.{routes.ROUTES}",
    "lds.json": "listener_manager.lds",
    shed.FILE: f"extension_config_discovery.http_filter.{shed.FILTER}",
}
_DEFAULT = overload.Capacity()
_MEMBERS = "membership_healthy"
_HEALTHY = rf"^cluster\.pool-.*\.{_MEMBERS}$"
_FILTER = r"(version_text|update_rejected|warming_clusters)$"


class GatewayRefused(FleetError):
    """The gateway refused its new configuration; the one before still runs."""

    slug = "gateway-refused"


@dataclass(frozen=True)
class GatewayStatistics:
    """What Envoy says of its configuration. Versions are 0 while it runs none."""

    clusters_version: int
    routes_version: int
    warming_clusters: int
    rejected: int
    """updates refused since Envoy started: always an alarm"""


class GatewayFiles:
    """Reads and writes `run/gateway/` of one home."""

    def __init__(
        self,
        layout: Layout,
        *,
        limits: listener.Limits = listener.Limits(),  # noqa: B008  # it is frozen
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        """tls: paths of the certificate chain and key that clients are shown."""
        self.certificates = Certificates(layout, tls)
        self._folder = layout.gateway
        self._keys = layout.keys
        self._admin = layout.gateway_admin_socket
        self._inside = layout.gateway_socket
        self._shares = layout.gateway_shares
        self._limits = limits
        self._grpc = layout.grpc_socket
        self._routes = routes.RouteRenderer()
        self._wanted: list[dict[str, object]] | None = None

    def bootstrap(
        self,
        *,
        host: str,
        port: int,
        control_plane: tuple[str, int],
        jwks: str,
        capacity: overload.Capacity = _DEFAULT,
    ) -> None:
        """All that Envoy needs to start. Routes and clusters of an earlier life are kept.

        host, port: where clients come in. control_plane: address and port.
        jwks: the public keys as JSON. capacity: what is too much.
        """
        start = bootstrap.render(self._folder, self._admin, control_plane, self._grpc, capacity)
        entrance = listener.render(
            "1",
            host=host,
            port=port,
            jwks=jwks,
            limits=self._limits,
            folder=self._folder,
            secure=self.certificates.server,
            inside=self._inside,
        )
        self.certificates.publish_server()
        self._put("bootstrap.json", start)
        if not (self._folder / "cds.json").exists():
            self._put("cds.json", clusters.render("0", []))
        if not (self._folder / "rds.json").exists():
            self._put("rds.json", routes.render(GatewayConfig(0), self.secret()))
        if not (self._folder / shed.FILE).exists():
            self.set_shares(())
        self._renew_routes()
        self._put("lds.json", entrance)

    def _renew_routes(self) -> None:
        """Before the listener: it must not meet routes of a release with other filters, which
        would ask for no scope."""
        wanted = self.configuration()
        if str(wanted.revision) == self._version("rds.json"):
            self._put("rds.json", self._routes.render(wanted, self.secret()))
        elif access.NAMED.encode() not in (self._folder / "rds.json").read_bytes():
            self._put("rds.json", self._routes.render(GatewayConfig(0), self.secret()))

    def take_over(self) -> None:
        """Another control plane may have written meanwhile: nothing of ours is to be tidied."""
        self._wanted = None

    def secret(self) -> str:
        """What the gateway adds to feedback as `x-mf-gateway`: only then is the caller proven."""
        path = self._keys / "gateway.key"
        if not path.exists():
            self._keys.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(path, secrets.token_hex(32).encode(), 0o600)
        return path.read_text("ascii")

    def write(self, config: GatewayConfig) -> None:
        """Publish. Returns when Envoy runs it, or after 2.5 s; `GatewayRefused` if it won't.

        Without a running Envoy the files are written for its next start.
        """
        version = str(config.revision)
        if any(pool.elsewhere for pool in config.pools):
            self.certificates.publish_client()
        self._wanted = clusters.of(config, self._folder)
        names = {cluster["name"] for cluster in self._wanted}
        leaving = [c for c in self._present() if c["name"] not in names]
        self._publish("cds.json", clusters.render(version, [*self._wanted, *leaving]), version)
        self._await_health(names)
        self._publish("rds.json", self._routes.render(config, self.secret()), version)

    def set_shares(self, shares: Sequence[shed.FairShare]) -> None:
        """From now on the gateway refuses what is more than these. Of several who say so at a time
        one has the last word in both files."""
        with locked(self._folder / "shares.lock"):
            self._put(shed.FILE, shed.render(str(now_us()), shares))
            write_atomically(self._shares, msgspec.json.encode(shares))

    def shares(self) -> list[shed.FairShare]:
        """The fair shares that count now."""
        try:
            return msgspec.json.decode(self._shares.read_bytes(), type=list[shed.FairShare])
        except FileNotFoundError:
            return []

    def tidy(self) -> bool:
        """Drop the clusters that nothing routes to since five seconds. True if none is left."""
        if self._wanted is None:
            return True
        names = {cluster["name"] for cluster in self._wanted}
        if all(cluster["name"] in names for cluster in self._present()):
            return True
        if time.time() - (self._folder / "rds.json").stat().st_mtime < _KEEP_SECONDS:
            return False
        version = self._version("cds.json")
        self._publish("cds.json", clusters.render(version, self._wanted), version)
        return True

    def acknowledged(self) -> int:
        """The revision that Envoy runs, routes and clusters; 0 if unknown."""
        found = self.statistics()
        if found is None or found.warming_clusters:
            return 0
        return min(found.routes_version, found.clusters_version)

    def configuration(self) -> GatewayConfig:
        """What was wanted last; it outlives the control plane."""
        try:
            return msgspec.json.decode(self.wanted_file.read_bytes(), type=GatewayConfig)
        except FileNotFoundError:
            return GatewayConfig(0)

    @property
    def wanted_file(self) -> Path:
        return self._folder / "config.json"

    def explain(self, endpoint: str, asked: Asked | None = None) -> Explanation:
        """What happens to requests for `endpoint`, to `asked` in particular."""
        found = self.statistics()
        return explain(
            self.configuration(),
            endpoint,
            running=self.acknowledged(),
            refused=found.rejected if found else 0,
            health=health_of(self._admin),
            shares=self.shares(),
            asked=asked,
        )

    def statistics(self) -> GatewayStatistics | None:
        """None while Envoy doesn't answer."""
        found = admin.statistics(self._admin, _FILTER)
        if found is None:
            return None
        return GatewayStatistics(
            clusters_version=_number(found.get(f"{_VERSION['cds.json']}.version_text")),
            routes_version=_number(found.get(f"{_VERSION['rds.json']}.version_text")),
            warming_clusters=_number(found.get("cluster_manager.warming_clusters")),
            rejected=sum(_number(found.get(f"{v}.update_rejected")) for v in _VERSION.values()),
        )

    def _publish(self, name: str, content: dict[str, object], version: str) -> None:
        """Put the file, wait until Envoy runs it, take it back if Envoy refuses it."""
        path = self._folder / name
        before = path.read_bytes() if path.exists() else None
        rejected = self._rejected(name)
        if not self._put(name, content) or rejected is None:
            return
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = admin.statistics(self._admin, _FILTER)
            if found is None:
                return
            if _number(found.get(f"{_VERSION[name]}.update_rejected")) > rejected:
                if before is not None:
                    write_atomically(path, before, 0o600)
                raise GatewayRefused(f"The gateway refused revision {version} of {name}.")
            running = found.get(f"{_VERSION[name]}.version_text") == version
            if running and not _number(found.get("cluster_manager.warming_clusters")):
                return
            time.sleep(0.005)

    def _await_health(self, names: Set[object]) -> None:
        """A pool that comes back under its name while its cluster is still there is unhealthy until
        the next health check. Those that stay so must not hold up the others for ever."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = admin.statistics(self._admin, _HEALTHY)
            if found is None:
                return
            if all(_number(found.get(f"cluster.{name}.{_MEMBERS}")) for name in names):
                return
            time.sleep(0.02)

    def _rejected(self, name: str) -> int | None:
        found = admin.statistics(self._admin, _FILTER)
        return None if found is None else _number(found.get(f"{_VERSION[name]}.update_rejected"))

    def _put(self, name: str, content: dict[str, object]) -> bool:
        """Write what has changed; False if nothing has. The secret makes these files ours."""
        path = self._folder / name
        data = msgspec.json.encode(content)
        if path.exists() and path.read_bytes() == data:
            return False
        write_atomically(path, data, 0o600)
        return True

    def _present(self) -> list[dict[str, object]]:
        path = self._folder / "cds.json"
        if not path.exists():
            return []
        resources = msgspec.json.decode(path.read_bytes())["resources"]
        return [{key: value for key, value in c.items() if key != "@type"} for c in resources]

    def _version(self, name: str) -> str:
        return str(msgspec.json.decode((self._folder / name).read_bytes())["version_info"])


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
