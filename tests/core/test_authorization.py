"""The whole decision table, written out once more by hand."""

from __future__ import annotations

import itertools

import pytest

from modelfleet.core.authorization import (
    SYSTEM,
    Action,
    Grant,
    Principal,
    Resource,
    Role,
    authorize,
    authorize_somewhere,
    decide,
)
from modelfleet.core.errors import NotAllowed
from people import NOBODY, principal

#           viewer  scientist  deployer  approver  release-manager  admin
TABLE = {
    Action.READ: "x x x x x x",
    Action.READ_PAYLOADS: ". x . . . x",
    Action.REGISTER: ". x x . . x",
    Action.ROLLOUT: ". . x . x x",
    Action.ROLL_BACK: ". . x x x x",
    Action.RUN_BATCH: ". x x . . x",
    Action.DELETE: ". . . x . x",
    Action.REPORT_OUTCOMES: ". x x . . x",
    Action.FREEZE: ". . . x x x",
    Action.ACKNOWLEDGE: ". x x x x x",
    Action.MANAGE_ACCESS: ". . . . . x",
    Action.READ_AUDIT: ". . . x x x",
}
CELLS = [
    (role, action, mark == "x")
    for action, marks in TABLE.items()
    for role, mark in zip(Role, marks.split(), strict=True)
]


def test_the_table_names_every_action() -> None:
    assert set(TABLE) == set(Action)
    assert len(CELLS) == len(Role) * len(Action)


@pytest.mark.parametrize(("role", "action", "allowed"), CELLS)
def test_every_cell_for_every_scope(role: Role, action: Action, allowed: bool) -> None:
    scopes = ["own", "other", "*"]
    for granted, asked in itertools.product(scopes, scopes):
        who = principal(role, granted)
        resource = Resource("model", "churn", asked)
        within = granted in ("*", asked)
        decision = decide(who, action, resource)
        assert decision.allow == (allowed and within), (granted, asked)
        assert who.may(action, asked) == decision.allow
        if decision.allow:
            authorize(who, action, resource)
        else:
            with pytest.raises(NotAllowed):
                authorize(who, action, resource)


@pytest.mark.parametrize("action", list(Action))
def test_nobody_may_nothing_and_the_platform_everything(action: Action) -> None:
    assert not decide(NOBODY, action, Resource("model", "churn", "own")).allow
    assert decide(SYSTEM, action, Resource("model", "churn")).allow


def test_grants_only_add() -> None:
    both = Principal("p", "p", (Grant(Role.VIEWER, "a"), Grant(Role.DEPLOYER, "b")))
    assert both.may(Action.READ, "a")
    assert not both.may(Action.ROLLOUT, "a")
    assert both.may(Action.ROLLOUT, "b")
    assert both.teams(Action.READ) == {"a", "b"}
    assert both.teams(Action.ROLLOUT) == {"b"}
    assert principal(Role.VIEWER).teams(Action.READ) is None
    assert NOBODY.teams(Action.READ) == frozenset()


def test_what_belongs_to_no_team_is_open_to_any_team_that_may() -> None:
    both = Principal("p", "p", (Grant(Role.APPROVER, "a"), Grant(Role.DATA_SCIENTIST, "b")))
    blob = Resource("blob", "x")
    authorize_somewhere(both, Action.REGISTER, blob)
    authorize_somewhere(SYSTEM, Action.REGISTER, blob)
    for who in (NOBODY, principal(Role.VIEWER), principal(Role.APPROVER, "a")):
        with pytest.raises(NotAllowed):
            authorize_somewhere(who, Action.REGISTER, blob)


def test_a_refusal_says_who_what_and_what_to_do() -> None:
    with pytest.raises(NotAllowed) as caught:
        authorize(NOBODY, Action.DELETE, Resource("model", "churn", "growth"))
    assert "nemo may not delete model/churn" in caught.value.message
    assert "team growth" in caught.value.message
    assert "grants add" in caught.value.hint
