from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Grant, Principal, Role
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, NotFound, WrongState
from modelfleet.core.sealing import Sealer
from modelfleet.events import Dispatcher, WebhookService
from modelfleet.events.tables import delivery
from modelfleet.registry.collaboration import tables
from modelfleet.registry.collaboration.people import watchers_of
from modelfleet.registry.collaboration.types import TEXT_LIMIT, Template
from modelfleet.registry.types import DEFAULT_NAMESPACE_ID
from modelfleet.wiring import Fleet
from people import ADMIN, NOBODY, principal

if TYPE_CHECKING:
    from registrar import Registrar

MAKER = Principal("m", "mia", (Grant(Role.DATA_SCIENTIST, "growth"),))
READER = Principal("r", "rob", (Grant(Role.VIEWER, "growth"),))
APPROVER = Principal("a", "anna", (Grant(Role.APPROVER, "growth"),))
STRANGER = principal(Role.DEPLOYER, "risk")


@pytest.fixture
def made(fleet: Fleet, registrar: Registrar) -> str:
    """The number of a version of `churn` that mia registered."""
    registrar.model()
    return fleet.registry.register(MAKER, "churn", registrar.new()).version


def actions(fleet: Fleet) -> list[str]:
    with fleet.database.read() as connection:
        table = audit.audit_event
        return list(
            connection.execute(sa.select(table.c.action).order_by(table.c.sequence)).scalars()
        )


def test_owners_are_kept_beside_the_team(fleet: Fleet, made: str) -> None:
    registry = fleet.registry
    registry.add_owner(MAKER, "churn", "rob")
    assert [one.principal for one in registry.add_owner(MAKER, "churn", "rob")] == ["rob"]
    assert actions(fleet).count("add-owner") == 1
    for other in (READER, STRANGER, NOBODY):
        with pytest.raises(NotAllowed):
            registry.add_owner(other, "churn", "eve")
    registry.remove_owner(MAKER, "churn", "rob")
    with pytest.raises(NotFound):
        registry.remove_owner(MAKER, "churn", "rob")
    assert registry.owners(READER, "churn") == []


def test_who_may_read_may_watch(fleet: Fleet, made: str) -> None:
    registry = fleet.registry
    registry.watch(READER, "churn")
    registry.watch(READER, "churn")
    registry.watch(MAKER, "churn")
    assert [one.principal for one in registry.watchers(READER, "churn")] == ["mia", "rob"]
    with pytest.raises(NotAllowed):
        registry.watch(STRANGER, "churn")
    registry.unwatch(READER, "churn")
    registry.unwatch(READER, "churn")
    with fleet.database.read() as connection:
        assert watchers_of(connection, "churn") == ["mia"]
        assert watchers_of(connection, "lab/churn") == []
    assert (actions(fleet).count("watch-model"), actions(fleet).count("unwatch-model")) == (2, 1)


def test_events_of_a_watched_model_name_its_watchers(fleet: Fleet, made: str) -> None:
    sealer = Sealer(fleet.layout.sealing_key)
    hooks = WebhookService(fleet.database, sealer, "default", DEFAULT_NAMESPACE_ID, private=True)
    hooks.create(ADMIN, "w", "http://127.0.0.1:1/x", ["*"])
    fleet.registry.watch(READER, "churn")
    fleet.registry.comment(READER, "churn", made, "nice")
    dispatcher = Dispatcher(fleet.database, sealer, private=True, watchers=watchers_of)
    while dispatcher.plan():
        pass
    with fleet.database.read() as connection:
        bodies = [json.loads(b) for b in connection.execute(sa.select(delivery.c.body)).scalars()]
    told = next(b for b in bodies if b["type"] == "dev.modelfleet.comment-version")
    assert told["data"]["watchers"] == ["rob"]
    assert told["data"]["details"]["text"] == "nice"


def test_comments_are_ones_own(fleet: Fleet, made: str) -> None:
    registry = fleet.registry
    first = registry.comment(READER, "churn", made, " why\r\nso low? ")
    second = registry.comment(MAKER, "churn", "latest", "fewer rows")
    assert (first.text, first.author, first.edited_at) == ("why\nso low?", "rob", None)
    assert [c.id for c in registry.comments(READER, "churn", made)] == [first.id, second.id]
    for other in (MAKER, ADMIN):
        with pytest.raises(NotAllowed):
            registry.edit_comment(other, "churn", made, first.id, "x")
    edited = registry.edit_comment(READER, "churn", made, first.id, "why?")
    assert (edited.text, edited.edited_at is not None) == ("why?", True)
    with pytest.raises(NotAllowed):
        registry.delete_comment(MAKER, "churn", made, first.id)
    registry.delete_comment(ADMIN, "churn", made, first.id)
    registry.delete_comment(MAKER, "churn", made, second.id)
    assert registry.comments(READER, "churn", made) == []
    with pytest.raises(NotFound):
        registry.delete_comment(ADMIN, "churn", made, first.id)
    with pytest.raises(NotAllowed):
        registry.comments(STRANGER, "churn", made)


@pytest.mark.parametrize("text", ["", " \n ", "x" * (TEXT_LIMIT + 1), "a\x00b", "a\x1b[31m"])
def test_what_is_no_plain_text_is_refused(fleet: Fleet, made: str, text: str) -> None:
    with pytest.raises(InvalidInput):
        fleet.registry.comment(MAKER, "churn", made, text)
    assert fleet.registry.comments(MAKER, "churn", made) == []


def test_a_comment_of_another_version_is_not_found(
    fleet: Fleet, made: str, registrar: Registrar
) -> None:
    other = registrar.version().version
    said = fleet.registry.comment(MAKER, "churn", made, "x")
    with pytest.raises(NotFound):
        fleet.registry.edit_comment(MAKER, "churn", other, said.id, "y")


def test_a_review_is_answered_by_who_was_asked(fleet: Fleet, made: str) -> None:
    registry = fleet.registry
    asked = registry.request_review(MAKER, "churn", made, reviewer="rob", note="the drift")
    assert (asked.state, asked.requested_by, asked.note) == ("open", "mia", "the drift")
    with pytest.raises(Conflict):
        registry.request_review(MAKER, "churn", made, reviewer="rob")
    for other in (APPROVER, ADMIN, MAKER):
        with pytest.raises(NotAllowed):
            registry.answer_review(other, "churn", made, asked.id, state="approved")
    with pytest.raises(InvalidInput):  # which changes?
        registry.answer_review(READER, "churn", made, asked.id, state="changes-requested")
    with pytest.raises(InvalidInput):
        registry.answer_review(READER, "churn", made, asked.id, state="withdrawn")
    assert [r.id for r in registry.all_reviews(READER, "open", mine=True)] == [asked.id]
    found = registry.answer_review(
        READER, "churn", made, asked.id, state="changes-requested", comment="more rows"
    )
    assert (found.state, found.answer, found.answered_by) == (
        "changes-requested",
        "more rows",
        "rob",
    )
    with pytest.raises(WrongState):
        registry.answer_review(READER, "churn", made, asked.id, state="approved")
    with pytest.raises(WrongState):
        registry.withdraw_review(MAKER, "churn", made, asked.id)
    assert registry.all_reviews(READER, "open", mine=True) == []
    assert [r.state for r in registry.reviews(READER, "churn", made)] == ["changes-requested"]


def test_a_role_is_asked_in_the_team_of_the_model(fleet: Fleet, made: str) -> None:
    registry = fleet.registry
    asked = registry.request_review(MAKER, "churn", made, role="approver")
    foreign = Principal("f", "finn", (Grant(Role.APPROVER, "risk"), Grant(Role.VIEWER)))
    with pytest.raises(NotAllowed):
        registry.answer_review(foreign, "churn", made, asked.id, state="approved")
    assert registry.all_reviews(foreign, mine=True) == []
    assert (
        registry.answer_review(APPROVER, "churn", made, asked.id, state="approved").state
        == "approved"
    )


def test_nobody_approves_what_is_their_own(fleet: Fleet, made: str) -> None:
    registry = fleet.registry
    for name in ("mia", "ada"):  # who registered it, who asks
        with pytest.raises(InvalidInput):
            registry.request_review(ADMIN, "churn", made, reviewer=name)
    by_admin = registry.request_review(ADMIN, "churn", made, role="data-scientist")
    with pytest.raises(NotAllowed, match="registered"):
        registry.answer_review(MAKER, "churn", made, by_admin.id, state="approved")
    by_maker = registry.request_review(MAKER, "churn", made, role="admin")
    assert registry.answer_review(ADMIN, "churn", made, by_maker.id, state="approved")
    own = registry.request_review(ADMIN, "churn", made, role="admin")
    with pytest.raises(NotAllowed, match="asked"):
        registry.answer_review(ADMIN, "churn", made, own.id, state="approved")


def test_a_review_is_withdrawn_by_who_asked_or_an_admin(fleet: Fleet, made: str) -> None:
    registry = fleet.registry
    asked = registry.request_review(MAKER, "churn", made, role="approver")
    with pytest.raises(NotAllowed):
        registry.withdraw_review(principal(Role.DEPLOYER, "growth"), "churn", made, asked.id)
    assert registry.withdraw_review(MAKER, "churn", made, asked.id).state == "withdrawn"
    again = registry.request_review(MAKER, "churn", made, role="approver")
    assert registry.withdraw_review(ADMIN, "churn", made, again.id).state == "withdrawn"


@pytest.mark.parametrize(
    "wish", [{}, {"reviewer": "rob", "role": "approver"}, {"role": "king"}], ids=str
)
def test_a_review_asks_for_one_or_for_a_role(fleet: Fleet, made: str, wish: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        fleet.registry.request_review(MAKER, "churn", made, **wish)
    with pytest.raises(NotAllowed):
        fleet.registry.request_review(READER, "churn", made, role="approver")


def test_what_is_deleted_takes_its_people_with_it(fleet: Fleet, made: str) -> None:
    registry = fleet.registry
    registry.watch(MAKER, "churn")
    registry.add_owner(MAKER, "churn", "rob")
    registry.comment(MAKER, "churn", made, "x")
    registry.request_review(MAKER, "churn", made, role="approver")
    registry.delete_model(ADMIN, "churn", versions=True)
    with fleet.database.read() as connection:
        for table in (
            tables.model_owner,
            tables.model_watcher,
            tables.version_comment,
            tables.version_review,
        ):
            assert connection.execute(sa.select(table)).first() is None


def test_a_template_says_what_is_not_given(fleet: Fleet, registrar: Registrar) -> None:
    registry = fleet.registry
    wanted = Template(
        "growth",
        "usual",
        criticality="high",
        business_function="retention",
        isolation="team",
        tags={"cost": "1", "kind": "x"},
        requirements=("numpy<2.4", "scikit-learn==1.7.0"),
    )
    kept = registry.set_template(MAKER, wanted)
    assert (kept.criticality, kept.updated_by) == ("high", "mia")
    found = registry.create_model(
        MAKER, "a", owner_team="growth", criticality="low", tags={"kind": "y"}, template="usual"
    )
    assert (found.criticality, found.business_function, found.isolation) == (
        "low",
        "retention",
        "team",
    )
    assert found.tags == {"cost": "1", "kind": "y"}
    registry.delete_template(MAKER, "growth", "usual")
    version = registry.register(MAKER, "a", registrar.new())  # it asks for numpy itself
    assert version.requested_environment["requirements"] == ["numpy", "scikit-learn==1.7.0"]
    with pytest.raises(NotFound):
        registry.create_model(MAKER, "b", owner_team="growth", template="usual")
    with pytest.raises(NotFound):
        registry.get_model(MAKER, "b")
    registry.delete_version(ADMIN, "a", "1")
    registry.delete_model(ADMIN, "a")


def test_templates_belong_to_a_team(fleet: Fleet) -> None:
    registry = fleet.registry
    registry.set_template(MAKER, Template("growth", "usual"))
    with pytest.raises(NotAllowed):
        registry.set_template(MAKER, Template("risk", "usual"))
    with pytest.raises(NotAllowed):
        registry.get_template(STRANGER, "growth", "usual")
    assert registry.templates(STRANGER) == []
    assert [one.name for one in registry.templates(READER, "growth")] == ["usual"]
    with pytest.raises(NotFound):
        registry.create_model(ADMIN, "x", owner_team="risk", template="usual")


@pytest.mark.parametrize(
    "wrong",
    [
        {"criticality": "huge"},
        {"isolation": "none"},
        {"requirements": ("-r x",)},
        {"tags": {"": "x"}},
        {"name": "a/b"},
    ],
    ids=str,
)
def test_a_wrong_template_is_refused(fleet: Fleet, wrong: dict[str, object]) -> None:
    given: dict[str, object] = {"team": "growth", "name": "t"} | wrong
    with pytest.raises(InvalidInput):
        fleet.registry.set_template(MAKER, Template(**given))  # type: ignore[arg-type]
