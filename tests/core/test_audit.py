"""The chain of events."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Resource
from modelfleet.core.database import Database
from modelfleet.identity import IdentityService, store
from people import ADMIN

TABLE = audit.audit_event


def write(database: Database, count: int, name: str = "thing") -> None:
    for k in range(count):
        with database.begin() as connection:
            audit.record(connection, ADMIN, "change", Resource("kind", name, "team"), {"k": k})


def change(database: Database, statement: sa.Executable) -> None:
    with database.begin() as connection:
        connection.execute(statement)


def test_events_tell_who_what_and_when_newest_first(database: Database) -> None:
    write(database, 2)
    write(database, 1, "other")
    found = audit.events(database)
    assert [e.sequence for e in found] == [3, 2, 1]
    assert (found[0].principal, found[0].action, found[0].resource) == ("ada", "change", "other")
    assert found[1].details == {"k": 1}
    assert [e.sequence for e in audit.events(database, before=3, limit=1)] == [2]
    one = audit.events(database, resource=Resource("kind", "other"))
    assert [e.sequence for e in one] == [3]


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        (sa.update(TABLE).where(TABLE.c.sequence == 3).values(principal="eve"), 3),
        (sa.update(TABLE).where(TABLE.c.sequence == 3).values(details={"k": 9}), 3),
        (sa.update(TABLE).where(TABLE.c.sequence == 3).values(at=1), 3),
        (sa.update(TABLE).where(TABLE.c.sequence == 5).values(hash="0" * 64), 5),
        (sa.delete(TABLE).where(TABLE.c.sequence == 2), 2),
        (sa.delete(TABLE).where(TABLE.c.sequence == 1), 1),
    ],
)
def test_tampering_is_found_where_it_was_done(
    database: Database, statement: sa.Executable, broken: int
) -> None:
    write(database, 5)
    assert audit.first_broken(database) is None
    change(database, statement)
    assert audit.first_broken(database) == broken


def test_a_rehashed_event_breaks_the_next_one(database: Database) -> None:
    write(database, 3)
    with database.begin() as connection:
        row = dict(
            connection.execute(sa.select(TABLE).where(TABLE.c.sequence == 2)).mappings().one()
        )
        first = connection.execute(
            sa.select(TABLE.c.hash).where(TABLE.c.sequence == 1)
        ).scalar_one()
        row["principal"] = "eve"
        forged = audit.chain(first, row)
        connection.execute(
            sa.update(TABLE).where(TABLE.c.sequence == 2).values(principal="eve", hash=forged)
        )
    assert audit.first_broken(database) == 3


def test_eight_writers_leave_no_gap(database: Database) -> None:
    threads = [threading.Thread(target=write, args=(database, 15, f"t{k}")) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = audit.events(database, limit=1000)
    assert [e.sequence for e in reversed(found)] == list(range(1, 121))
    assert audit.first_broken(database) is None


def test_an_event_and_its_change_are_undone_together(
    database: Database, fleet_identity: IdentityService, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = audit.record

    def record_then_die(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        raise RuntimeError("power cut")

    monkeypatch.setattr(audit, "record", record_then_die)
    with pytest.raises(RuntimeError):
        fleet_identity.create_principal(ADMIN, "bob", "person")
    assert audit.events(database) == []
    with database.read() as connection:
        assert store.find_principal(connection, "bob") is None


def test_no_change_without_its_event(
    database: Database, fleet_identity: IdentityService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no audit")

    monkeypatch.setattr(audit, "record", refuse)
    with pytest.raises(RuntimeError):
        fleet_identity.create_principal(ADMIN, "bob", "person")
    with database.read() as connection:
        assert store.find_principal(connection, "bob") is None
