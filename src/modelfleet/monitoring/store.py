"""Tables and SQL of monitoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from modelfleet.core.clock import iso
from modelfleet.core.database import Json, metadata
from modelfleet.monitoring.alerts import Alert, AlertKey, AlertKind, AlertState
from modelfleet.monitoring.types import AlertInfo, DriftResult, FeatureTest, WindowReport

drift_window = sa.Table(
    "drift_window",
    metadata,
    sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("versions", sa.Integer, nullable=False),
    sa.Column("tests", sa.Integer, nullable=False),
    sa.Column("inconclusive", sa.Integer, nullable=False),
    sa.Column("alarms", sa.Integer, nullable=False),
)
"""One row per judged window of the fleet: a window is judged once."""

drift_result = sa.Table(
    "drift_result",
    metadata,
    sa.Column("window_start", sa.ForeignKey("drift_window.start"), primary_key=True),
    sa.Column("version_index", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("layout", sa.String(64), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("alarms", sa.Integer, nullable=False),
    sa.Column("tests", Json, nullable=False),
    sa.Index("ix_drift_result_version_index", "version_index", "window_start"),
)

alert = sa.Table(
    "alert",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("endpoint", sa.String(200), nullable=False),
    sa.Column("version_index", sa.BigInteger, nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("team", sa.String(120), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("version", sa.String(80), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("evidence", Json, nullable=False),
    sa.Column("opened_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("fired_at", sa.BigInteger),
    sa.Column("resolved_at", sa.BigInteger),
    sa.Column("acknowledged_at", sa.BigInteger),
    sa.Column("acknowledged_by", sa.String(200), nullable=False),
    sa.Column("breached_windows", sa.Integer, nullable=False),
    sa.Column("clean_windows", sa.Integer, nullable=False),
    sa.Index("ix_alert_state_updated_at", "state", "updated_at"),
)
sa.Index(
    "uq_alert_open",
    alert.c.kind,
    alert.c.endpoint,
    alert.c.version_index,
    alert.c.subject,
    unique=True,
    sqlite_where=alert.c.state != "resolved",
    postgresql_where=alert.c.state != "resolved",
)


@dataclass(frozen=True)
class StoredAlert:
    """An alert with what the pure one doesn't need."""

    id: str
    team: str
    model: str
    version: str
    alert: Alert


def open_alerts(
    connection: sa.Connection, kinds: tuple[AlertKind, ...]
) -> dict[AlertKey, StoredAlert]:
    rows = connection.execute(
        sa.select(alert).where(alert.c.state != "resolved", alert.c.kind.in_(kinds))
    )
    return {one.alert.key: one for one in map(_stored, rows)}


def find_alert(connection: sa.Connection, alert_id: str) -> StoredAlert | None:
    row = connection.execute(sa.select(alert).where(alert.c.id == alert_id)).first()
    return None if row is None else _stored(row)


def list_alerts(
    connection: sa.Connection, condition: sa.ColumnElement[bool], limit: int
) -> list[AlertInfo]:
    """Newest first."""
    rows = connection.execute(
        sa.select(alert)
        .where(condition)
        .order_by(alert.c.updated_at.desc(), alert.c.id.desc())
        .limit(limit)
    )
    return [info(_stored(row)) for row in rows]


def fired(connection: sa.Connection, kind: AlertKind, since_us: int) -> list[StoredAlert]:
    """Alerts that began to fire after a moment, and are open still; oldest first."""
    rows = connection.execute(
        sa.select(alert)
        .where(alert.c.kind == kind, alert.c.fired_at > since_us, alert.c.state != "resolved")
        .order_by(alert.c.fired_at, alert.c.id)
    )
    return [_stored(row) for row in rows]


def open_counts(connection: sa.Connection) -> list[tuple[str, str, int]]:
    """(endpoint, team, open alerts)."""
    query = (
        sa.select(alert.c.endpoint, alert.c.team, sa.func.count())
        .where(alert.c.state != "resolved")
        .group_by(alert.c.endpoint, alert.c.team)
    )
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def save_alert(connection: sa.Connection, stored: StoredAlert) -> None:
    one = stored.alert
    values = {
        "kind": one.key.kind.value,
        "endpoint": one.key.endpoint,
        "version_index": one.key.version_index,
        "subject": one.key.subject,
        "team": stored.team,
        "model": stored.model,
        "version": stored.version,
        "state": one.state.value,
        "summary": one.summary,
        "evidence": dict(one.evidence),
        "opened_at": one.opened_at,
        "updated_at": one.updated_at,
        "fired_at": one.fired_at,
        "resolved_at": one.resolved_at,
        "acknowledged_at": one.acknowledged_at,
        "acknowledged_by": one.acknowledged_by,
        "breached_windows": one.breached_windows,
        "clean_windows": one.clean_windows,
    }
    changed = connection.execute(sa.update(alert).where(alert.c.id == stored.id).values(values))
    if changed.rowcount == 0:
        connection.execute(sa.insert(alert).values(id=stored.id, **values))


def delete_alert(connection: sa.Connection, alert_id: str) -> None:
    connection.execute(sa.delete(alert).where(alert.c.id == alert_id))


def info(stored: StoredAlert) -> AlertInfo:
    one = stored.alert
    return AlertInfo(
        id=stored.id,
        kind=one.key.kind.value,
        state=one.state.value,
        endpoint=one.key.endpoint,
        model=stored.model,
        version=stored.version,
        version_index=one.key.version_index,
        team=stored.team,
        subject=one.key.subject,
        summary=one.summary,
        opened_at=iso(one.opened_at),
        updated_at=iso(one.updated_at),
        fired_at=_iso(one.fired_at),
        resolved_at=_iso(one.resolved_at),
        acknowledged_at=_iso(one.acknowledged_at),
        acknowledged_by=one.acknowledged_by,
        breached_windows=one.breached_windows,
        evidence=one.evidence,
    )


def _stored(row: sa.Row[tuple[object, ...]]) -> StoredAlert:
    columns = row._mapping
    fields = {name: columns[name] for name in Alert.__dataclass_fields__ if name in columns}
    key = AlertKey(AlertKind(row.kind), row.endpoint, row.version_index, row.subject)
    return StoredAlert(
        row.id,
        row.team,
        row.model,
        row.version,
        Alert(**(fields | {"key": key, "state": AlertState(row.state)})),
    )


def _iso(moment: int | None) -> str:
    return "" if moment is None else iso(moment)


# Drift ---------------------------------------------------------------------------------------


def last_window(connection: sa.Connection) -> int | None:
    """End of the last judged drift window."""
    end: int | None = connection.execute(sa.select(sa.func.max(drift_window.c.end))).scalar_one()
    return end


def is_judged(connection: sa.Connection, start_us: int) -> bool:
    query = sa.select(drift_window.c.start).where(drift_window.c.start == start_us)
    return connection.execute(query).first() is not None


def save_window(
    connection: sa.Connection,
    report: WindowReport,
    results: Mapping[int, tuple[str, int, tuple[FeatureTest, ...]]],
) -> None:
    """results: by version index (layout, rows, tests)."""
    connection.execute(
        sa.insert(drift_window).values(
            start=report.start_us,
            end=report.end_us,
            versions=report.versions,
            tests=report.tests,
            inconclusive=report.inconclusive,
            alarms=report.alarms,
        )
    )
    if results:
        connection.execute(
            sa.insert(drift_result),
            [
                {
                    "window_start": report.start_us,
                    "version_index": index,
                    "layout": layout,
                    "rows": rows,
                    "alarms": sum(test.verdict == "drift" for test in tests),
                    "tests": [asdict(test) for test in tests],
                }
                for index, (layout, rows, tests) in results.items()
            ],
        )


def drift_results(
    connection: sa.Connection, version_index: int, since_us: int, limit: int
) -> list[DriftResult]:
    """Newest window first."""
    rows = connection.execute(
        sa.select(drift_result, drift_window.c.end)
        .join(drift_window, drift_window.c.start == drift_result.c.window_start)
        .where(drift_result.c.version_index == version_index)
        .where(drift_result.c.window_start >= since_us)
        .order_by(drift_result.c.window_start.desc())
        .limit(limit)
    )
    return [
        DriftResult(
            iso(row.window_start),
            iso(row.end),
            row.version_index,
            row.layout,
            row.rows,
            row.alarms,
            tuple(FeatureTest(**test) for test in row.tests),
        )
        for row in rows
    ]


def drift_alarms(connection: sa.Connection) -> int:
    query = sa.select(sa.func.coalesce(sa.func.sum(drift_window.c.alarms), 0))
    return int(connection.execute(query).scalar_one())


def forget_windows(connection: sa.Connection, before_us: int) -> None:
    """Delete drift results of windows that began before this moment."""
    connection.execute(sa.delete(drift_result).where(drift_result.c.window_start < before_us))
    connection.execute(sa.delete(drift_window).where(drift_window.c.start < before_us))
