"""Verbs of monitoring. Each mutation is authorized and audited in its own transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, NotFound
from modelfleet.core.ids import new_id
from modelfleet.core.settings import Settings
from modelfleet.monitoring import alerts, overload, store
from modelfleet.monitoring.alerts import Alert, AlertKey, AlertKind, AlertState, Observation, Policy
from modelfleet.monitoring.limits import LIMIT_KINDS, LIMIT_WINDOW_US, limit_observations
from modelfleet.monitoring.store import StoredAlert
from modelfleet.monitoring.types import AlertInfo, DriftResult, LiveVersion, WindowReport
from modelfleet.monitoring.windows import VersionTests, judge, merged_by_version
from modelfleet.serving.gateway import FairShare
from modelfleet.telemetry.evidence import EvidenceReader

_SECOND = 1_000_000
_BACKLOG = 24
"""Drift windows that are made up for after a pause. Older ones are let go."""
_KEPT_US = 400 * 86_400 * _SECOND
_POLICIES = {
    AlertKind.DRIFT: Policy(windows=1, clear_windows=2),
    AlertKind.ERROR_RATE: Policy(),
    AlertKind.CRASH: Policy(),
    AlertKind.OVERLOAD: overload.POLICY,
}


@dataclass(frozen=True)
class Changes:
    """Alerts that began to fire, and that were resolved."""

    opened: tuple[AlertKey, ...] = ()
    resolved: tuple[AlertKey, ...] = ()


class MonitoringService:
    def __init__(self, database: Database, evidence: EvidenceReader, settings: Settings) -> None:
        self._database = database
        self._evidence = evidence
        self._settings = settings.monitoring
        self._length = settings.monitoring.drift_window_seconds * _SECOND
        self._limits_at = 0
        self._overload_at = 0

    # Judging ---------------------------------------------------------------------------------

    def due_windows(self) -> list[int]:
        """Starts of drift windows that are closed and not judged yet, oldest first."""
        until = self._evidence.closed_until() // self._length * self._length
        with self._database.read() as connection:
            judged = store.last_window(connection)
        begin = judged
        if begin is None:
            first = self._evidence.first_window()
            if first is None:
                return []
            begin = first // self._length * self._length
        begin = max(begin, until - _BACKLOG * self._length)
        return list(range(begin, until, self._length))

    def run_due(self, actor: Principal, live: Sequence[LiveVersion]) -> list[WindowReport]:
        """Judge all windows that are due, then the hard limits. Cheap when nothing is due."""
        reports = [
            report
            for start in self.due_windows()
            if (report := self.run_window(actor, start, live)) is not None
        ]
        self.check_limits(actor, live)
        return reports

    def run_window(
        self, actor: Principal, start_us: int, live: Sequence[LiveVersion]
    ) -> WindowReport | None:
        """Test every live version x (feature, score) of one drift window; update alerts.

        None if the window was judged before: running it again changes nothing.
        """
        resource = Resource("drift-window", str(start_us))
        authorize(actor, Action.ACKNOWLEDGE, resource)
        end = start_us + self._length
        indexes = {one.version_index for one in live}
        windows = merged_by_version(
            window
            for window in self._evidence.fleet_windows(start_us, end)
            if window.version_index in indexes
        )
        judged = judge(windows, self._evidence, psi0=self._settings.psi0, q=self._settings.fdr_q)
        observations = self._drift_observations(judged, live, end)
        tests = [test for one in judged.values() for test in one.tests]
        with self._database.begin() as connection:
            if store.is_judged(connection, start_us):
                return None
            changes = self._apply(connection, (AlertKind.DRIFT,), observations, live, end)
            report = WindowReport(
                start_us=start_us,
                end_us=end,
                versions=len(judged),
                tests=len(tests),
                inconclusive=sum(test.verdict == "inconclusive" for test in tests),
                alarms=sum(test.verdict == "drift" for test in tests),
                opened=len(changes.opened),
                resolved=len(changes.resolved),
            )
            rows = {
                index: (one.window.layout, one.window.rows, one.tests)
                for index, one in judged.items()
            }
            store.save_window(connection, report, rows)
            store.forget_windows(connection, start_us - _KEPT_US)
            if changes.opened or changes.resolved or report.alarms:
                details = {
                    "tests": report.tests,
                    "alarms": report.alarms,
                    "opened": [_name(key) for key in changes.opened],
                    "resolved": [_name(key) for key in changes.resolved],
                }
                audit.record(connection, actor, "run-drift-window", resource, details)
        return report

    def _drift_observations(
        self, judged: Mapping[int, VersionTests], live: Sequence[LiveVersion], end: int
    ) -> dict[AlertKey, Observation]:
        observations = {}
        for one in live:
            found = judged.get(one.version_index)
            for test in found.tests if found is not None else ():
                key = AlertKey(AlertKind.DRIFT, one.endpoint, one.version_index, test.feature)
                breached = None if test.verdict == "inconclusive" else test.verdict == "drift"
                if not breached or found is None:
                    observations[key] = Observation(end, breached)
                    continue
                bins, counts = found.evidence_bins[test.feature]
                evidence = {
                    "p": test.p,
                    "distance": test.distance,
                    "tolerated": self._settings.psi0,
                    "rows": test.rows,
                    "reference_rows": test.reference_rows,
                    "window_start": found.window.start_us,
                    "window_end": end,
                    "kind": bins.kind,
                    "edges": list(bins.edges),
                    "levels": list(bins.levels),
                    "window_counts": counts.tolist(),
                    "reference_counts": bins.counts.tolist(),
                }
                summary = (
                    f"{test.feature} of {one.model} {one.version} on {one.endpoint} lies "
                    f"{test.distance:.3f} from its reference; tolerated are {self._settings.psi0}"
                )
                observations[key] = Observation(end, True, summary, evidence)
        return observations

    def check_limits(self, actor: Principal, live: Sequence[LiveVersion]) -> Changes:
        """Error rates and crashes of the last minutes against hard limits, once a window."""
        latest = self._evidence.latest_window()
        if latest is None or latest <= self._limits_at:
            return Changes()
        self._limits_at = latest
        length = self._evidence.window_us()
        end = latest + length
        windows = self._evidence.fleet_windows(end - max(LIMIT_WINDOW_US, length), end)
        observations = limit_observations(windows, live, end)
        resource = Resource("alert", "limits")
        return self._check(actor, "check-limits", resource, LIMIT_KINDS, observations, live, end)

    def check_overload(
        self, actor: Principal, shares: Sequence[FairShare], live: Sequence[LiveVersion]
    ) -> Changes:
        """Which endpoints the gateway sheds, every ten seconds."""
        now = now_us()
        if now - self._overload_at < overload.EVERY_US:
            return Changes()
        self._overload_at = now
        observations = overload.observations(shares, live, now)
        resource = Resource("alert", "overload")
        return self._check(
            actor, "check-overload", resource, overload.KINDS, observations, live, now
        )

    def _check(
        self,
        actor: Principal,
        verb: str,
        resource: Resource,
        kinds: tuple[AlertKind, ...],
        observations: Mapping[AlertKey, Observation],
        live: Sequence[LiveVersion],
        at: int,
    ) -> Changes:
        """Writes nothing while nothing is open and nothing is wrong."""
        authorize(actor, Action.ACKNOWLEDGE, resource)
        with self._database.read() as connection:
            some_open = bool(store.open_alerts(connection, kinds))
        if not some_open and not any(seen.breached for seen in observations.values()):
            return Changes()
        with self._database.begin() as connection:
            changes = self._apply(connection, kinds, observations, live, at)
            if changes.opened or changes.resolved:
                details = {
                    "opened": [_name(key) for key in changes.opened],
                    "resolved": [_name(key) for key in changes.resolved],
                }
                audit.record(connection, actor, verb, resource, details)
        return changes

    def _apply(
        self,
        connection: sa.Connection,
        kinds: tuple[AlertKind, ...],
        observations: Mapping[AlertKey, Observation],
        live: Sequence[LiveVersion],
        at: int,
    ) -> Changes:
        """Move the alerts of these kinds one observation on."""
        known = store.open_alerts(connection, kinds)
        owners = {(one.endpoint, one.version_index): one for one in live}
        opened: list[AlertKey] = []
        resolved: list[AlertKey] = []
        for key in {**known, **observations}:
            stored = known.get(key)
            before = stored.alert if stored is not None else None
            owner = owners.get((key.endpoint, key.version_index))
            after: Alert | None
            if before is not None and owner is None:
                after = replace(
                    alerts.resolve(before, at), summary=f"{before.summary} (no longer live)"
                )
            elif key in observations:
                after = alerts.step(before, key, observations[key], _POLICIES[key.kind])
            else:
                continue
            if after == before:
                continue
            if after is None:
                store.delete_alert(connection, stored.id if stored is not None else "")
                continue
            if stored is None and owner is not None:
                stored = StoredAlert(new_id(), owner.team, owner.model, owner.version, after)
            if stored is not None:
                store.save_alert(connection, replace(stored, alert=after))
            if after.state is AlertState.FIRING and (
                before is None or before.state is AlertState.PENDING
            ):
                opened.append(key)
            if after.state is AlertState.RESOLVED:
                resolved.append(key)
        return Changes(tuple(opened), tuple(resolved))

    # People ----------------------------------------------------------------------------------

    def list_alerts(
        self,
        actor: Principal,
        *,
        open_only: bool = False,
        endpoint: str | None = None,
        limit: int = 1000,
    ) -> list[AlertInfo]:
        """Alerts that `actor` may read, the last changed first."""
        condition = sa.true() if not open_only else store.alert.c.state != "resolved"
        if endpoint is not None:
            condition = sa.and_(condition, store.alert.c.endpoint == endpoint)
        with self._database.read() as connection:
            found = store.list_alerts(connection, condition, limit)
        return [one for one in found if actor.may(Action.READ, one.team)]

    def open_counts(self, actor: Principal) -> Mapping[str, int]:
        """Open alerts by endpoint, as far as `actor` may read them."""
        with self._database.read() as connection:
            found = store.open_counts(connection)
        counts: dict[str, int] = {}
        for endpoint, team, count in found:
            if actor.may(Action.READ, team):
                counts[endpoint] = counts.get(endpoint, 0) + count
        return counts

    def get_alert(self, actor: Principal, alert_id: str) -> AlertInfo:
        with self._database.read() as connection:
            found = self._find(connection, alert_id)
        authorize(actor, Action.READ, Resource("alert", alert_id, found.team))
        return store.info(found)

    def acknowledge(self, actor: Principal, alert_id: str) -> AlertInfo:
        """Take note of a firing alert: somebody looks after it."""
        return self._change(actor, alert_id, "acknowledge-alert")

    def resolve(self, actor: Principal, alert_id: str) -> AlertInfo:
        """Close an alert by hand; if the next window is no better, a new one opens."""
        return self._change(actor, alert_id, "resolve-alert")

    def _change(self, actor: Principal, alert_id: str, verb: str) -> AlertInfo:
        with self._database.begin() as connection:
            stored = self._find(connection, alert_id)
            resource = Resource("alert", alert_id, stored.team)
            authorize(actor, Action.ACKNOWLEDGE, resource)
            if not stored.alert.is_open:
                raise Conflict(f"Alert {alert_id} is resolved already.")
            if verb == "resolve-alert":
                changed = alerts.resolve(stored.alert, now_us())
            elif stored.alert.state is AlertState.FIRING:
                changed = alerts.acknowledge(stored.alert, actor.name, now_us())
            else:
                raise Conflict(f"Alert {alert_id} is {stored.alert.state}, not firing.")
            stored = replace(stored, alert=changed)
            store.save_alert(connection, stored)
            details = {"alert": _name(changed.key), "summary": changed.summary}
            audit.record(connection, actor, verb, resource, details)
        return store.info(stored)

    def drift(self, version_index: int, since_us: int = 0, limit: int = 100) -> list[DriftResult]:
        """Drift results of one version, the newest window first. The caller checks who reads."""
        with self._database.read() as connection:
            return store.drift_results(connection, version_index, since_us, limit)

    @staticmethod
    def drifted(connection: sa.Connection, since_us: int) -> list[StoredAlert]:
        """Drift alerts that began to fire after a moment, oldest first; for the platform itself."""
        return store.fired(connection, AlertKind.DRIFT, since_us)

    def drift_alarms(self) -> int:
        """Alarmed tests of all judged windows."""
        with self._database.read() as connection:
            return store.drift_alarms(connection)

    @staticmethod
    def _find(connection: sa.Connection, alert_id: str) -> StoredAlert:
        found = store.find_alert(connection, alert_id)
        if found is None:
            raise NotFound(f"There is no alert {alert_id}.")
        return found


def _name(key: AlertKey) -> str:
    return "/".join((key.kind, key.endpoint, str(key.version_index), key.subject)).rstrip("/")
