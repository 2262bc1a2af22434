"""Approvals: who counts, once, for what exactly."""

from __future__ import annotations

import threading

import pytest

from modelfleet.core import audit
from modelfleet.core.authorization import Grant, Principal, Role
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, FleetError, InvalidInput, NotAllowed, WrongState
from modelfleet.identity.approvals import Approvals

WHAT = {"bundle": "a" * 64, "spec": "b" * 64}
SUBJECT = "rollout/r1/step/2"


def person(name: str, role: Role = Role.APPROVER, team: str = "growth") -> Principal:
    return Principal(f"{name}-id", name, (Grant(role, team),))


ASKER = person("dora", Role.DEPLOYER)
AMY, BOB = person("amy"), person("bob")


def ask(
    database: Database, digests: dict[str, str] = WHAT, quorum: int = 1, seconds: float = 60
) -> str:
    with database.begin() as connection:
        return Approvals(database).ask(
            connection,
            ASKER,
            SUBJECT,
            digests,
            role="approver",
            quorum=quorum,
            team="growth",
            not_by=["ann"],
            expires_seconds=seconds,
        )


def standing(database: Database, digests: dict[str, str] = WHAT, quorum: int = 1) -> str:
    with database.read() as connection:
        return Approvals(database).standing(
            connection, SUBJECT, digests, "approver", quorum, ["ann"]
        )[0]


def test_a_quorum_counts_distinct_people(database: Database) -> None:
    service, one = Approvals(database), ask(database, quorum=2)
    assert service.answer(AMY, one, approve=True).state == "waiting"
    with pytest.raises(Conflict, match="counts once"):
        service.answer(AMY, one, approve=True)
    assert standing(database, quorum=2) == "waiting"
    assert service.answer(BOB, one, approve=True).state == "approved"
    assert standing(database, quorum=2) == "approved"
    actions = [event.action for event in audit.events(database)]
    assert actions == ["answer-approval", "answer-approval", "ask-approval"]


@pytest.mark.parametrize(
    "actor",
    [
        Principal(ASKER.id, "dora", (Grant(Role.APPROVER, "growth"),)),
        person("ann"),
        person("dan", Role.DEPLOYER),
        person("eve", Role.APPROVER, "risk"),
    ],
    ids=["who asked", "the author", "another role", "another team"],
)
def test_who_may_not_approve(database: Database, actor: Principal) -> None:
    one = ask(database)
    with pytest.raises(NotAllowed):
        Approvals(database).answer(actor, one, approve=True)
    assert standing(database) == "waiting"


def test_any_change_voids_it(database: Database) -> None:
    one = ask(database)
    Approvals(database).answer(AMY, one, approve=True)
    changed = WHAT | {"spec": "c" * 64}
    assert standing(database, changed) == "waiting"
    again = ask(database, changed)
    assert again != one
    assert Approvals(database).get(AMY, one).state == "void"
    assert standing(database, changed) == "waiting"


def test_asking_twice_is_asking_once(database: Database) -> None:
    assert ask(database) == ask(database)
    assert len(Approvals(database).list(AMY, mine=True)) == 1


def test_one_no_ends_it(database: Database) -> None:
    service, one = Approvals(database), ask(database, quorum=2)
    service.answer(AMY, one, approve=True)
    service.answer(BOB, one, approve=False, reason="not before the audit")
    assert standing(database, quorum=2) == "rejected"
    with pytest.raises(WrongState, match="bob rejected"):
        service.answer(person("cat"), one, approve=True)


def test_it_expires_and_can_be_asked_again(database: Database) -> None:
    one = ask(database, seconds=0)
    assert standing(database) == "expired"
    with pytest.raises(WrongState, match="expired"):
        Approvals(database).answer(AMY, one, approve=True)
    assert ask(database) != one
    assert standing(database) == "waiting"


def test_a_role_that_nobody_can_have_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInput), database.begin() as connection:
        Approvals(database).ask(connection, ASKER, SUBJECT, WHAT, role="emperor")


@pytest.mark.parametrize("quorum", [1, 2])
def test_two_racing_approvals_count_once_each(database: Database, quorum: int) -> None:
    """With a quorum of one the second gets told who was first; with two both count."""
    service, one = Approvals(database), ask(database, quorum=quorum)
    said: list[str] = []
    start = threading.Barrier(4)

    def answer(actor: Principal) -> None:
        start.wait()
        try:
            said.append(service.answer(actor, one, approve=True).state)
        except FleetError as error:
            said.append(type(error).__name__)

    threads = [threading.Thread(target=answer, args=(who,)) for who in (AMY, BOB, AMY, BOB)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.principal for one in service.get(AMY, one).answers) == (
        ["amy", "bob"] if quorum == 2 else [service.get(AMY, one).answers[0].principal]
    )
    assert said.count("approved") == 1
    assert standing(database, quorum=quorum) == "approved"
