"""Causes of training: each counts once, one run of a model at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
import sqlalchemy as sa

from modelfleet.core.authorization import Role
from modelfleet.core.clock import now_us
from modelfleet.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from modelfleet.delivery.training import store
from modelfleet.delivery.training.plan import Cause, Destination, Plan, State
from modelfleet.delivery.training.triggers import Drifted, Triggers, next_time
from modelfleet.rollouts.plan import Spec
from modelfleet.wiring import Fleet
from people import ADMIN, principal
from registrar import Registrar

PLAN = Plan("churn", "growth", command=("python", "train.py"), cooldown_seconds=0.0)


@dataclass
class Plans:
    plans: dict[str, Plan] = field(default_factory=dict)

    def trainings(self) -> Mapping[str, Plan]:
        return self.plans

    def destination(self, model: str) -> Destination:
        return Destination(model, Spec())


@pytest.fixture
def plans(fleet: Fleet, registrar: Registrar) -> Plans:
    registrar.model()
    made = Plans()
    fleet.training._plans = made
    return made


@dataclass
class Alarms:
    fired: list[Drifted] = field(default_factory=list)

    def __call__(self, _connection: sa.Connection, since_us: int) -> Sequence[Drifted]:
        return [one for one in self.fired if one.fired_at > since_us]


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


@pytest.fixture
def triggers(fleet: Fleet, plans: Plans, alarms: Alarms) -> Triggers:
    made = Triggers(fleet.database, plans, alarms)
    made.look()  # from here on
    return made


def causes(fleet: Fleet) -> list[str]:
    return [f"{one.model} {one.cause.kind}" for one in fleet.training.list(ADMIN)]


def end(fleet: Fleet) -> None:
    with fleet.database.begin() as connection:
        for one in store.active(connection):
            store.move(connection, one.id, None, State.CANCELLED, sentence="")


def test_an_alias_that_moves_is_a_cause_once(
    fleet: Fleet, registrar: Registrar, plans: Plans, triggers: Triggers
) -> None:
    made = registrar.version("churn")
    plans.plans["churn"] = replace(PLAN, aliases=("churn@champion",))
    fleet.registry.set_alias(ADMIN, "churn", "other", made.version)
    triggers.look()
    assert causes(fleet) == []
    fleet.registry.set_alias(ADMIN, "churn", "champion", made.version)
    triggers.look()
    triggers.look()
    [run] = fleet.training.list(ADMIN)
    assert run.cause.kind == "alias"
    assert "churn@champion" in run.cause.detail
    end(fleet)
    triggers.look()
    assert len(fleet.training.list(ADMIN)) == 1


def test_drift_is_a_cause_for_those_that_ask_for_it(
    fleet: Fleet, plans: Plans, triggers: Triggers, alarms: Alarms
) -> None:
    plans.plans |= {"churn": replace(PLAN, drift=True), "calm": replace(PLAN, model="calm")}
    later = now_us() + 1_000_000
    alarms.fired += [Drifted(m, "a1", "age moved", later) for m in ("churn", "calm", "unknown")]
    alarms.fired += [Drifted("churn", "a2", "city moved", later + 1)]
    triggers.look()
    triggers.look()
    [run] = fleet.training.list(ADMIN)
    assert (run.model, run.cause.kind, run.cause.detail) == ("churn", "drift", "a1: age moved")


def test_schedules_come_when_they_are_due_and_missed_ones_once(
    fleet: Fleet, plans: Plans, triggers: Triggers
) -> None:
    plans.plans["churn"] = replace(PLAN, schedule="0 3 * * *")
    triggers.look()
    assert causes(fleet) == []  # the first time is yet to come

    def make_due() -> None:
        with fleet.database.begin() as connection:
            connection.execute(sa.update(store.training_schedule).values(due_at=1))

    make_due()
    triggers.look()
    triggers.look()
    assert causes(fleet) == ["churn schedule"]
    end(fleet)
    make_due()
    plans.plans["churn"] = replace(PLAN, schedule="0 4 * * *")  # changed: nothing is made up for
    triggers.look()
    assert len(causes(fleet)) == 1
    del plans.plans["churn"]
    triggers.look()
    with fleet.database.read() as connection:
        assert connection.execute(sa.select(store.training_schedule)).all() == []


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "often", "61 * * * *", ""])
def test_schedules_that_never_come_are_refused(expression: str) -> None:
    with pytest.raises(InvalidInput, match="no schedule"):
        next_time(expression, now_us())


def test_not_too_often(fleet: Fleet, plans: Plans, triggers: Triggers, alarms: Alarms) -> None:
    plans.plans["churn"] = replace(PLAN, drift=True, cooldown_seconds=3600.0)
    for number in (1, 2):
        alarms.fired.append(Drifted("churn", f"a{number}", "", now_us() + number * 1_000_000))
        triggers.look()
        end(fleet)
    assert causes(fleet) == ["churn drift"]
    fleet.training.start(ADMIN, "churn")  # by hand at any time
    assert len(causes(fleet)) == 2


def test_one_run_at_a_time_and_only_by_who_may(
    fleet: Fleet, plans: Plans, registrar: Registrar
) -> None:
    plans.plans["churn"] = PLAN
    with pytest.raises(NotAllowed):
        fleet.training.start(principal(Role.VIEWER), "churn")
    run = fleet.training.start(principal(Role.DATA_SCIENTIST, "growth"), "churn")
    with pytest.raises(Conflict, match="being trained"):
        fleet.training.start(ADMIN, "churn")
    with pytest.raises(NotFound, match="no training of lone"):
        registrar.model("lone")
        fleet.training.start(ADMIN, "lone")
    with pytest.raises(NotAllowed):
        fleet.training.cancel(principal(Role.VIEWER), run.id)
    assert fleet.training.cancel(ADMIN, run.id).state is State.CANCELLED
    with pytest.raises(Conflict, match="cancelled"):
        fleet.training.cancel(ADMIN, run.id)


def test_a_hook_is_its_token(fleet: Fleet, plans: Plans) -> None:
    plans.plans["churn"] = PLAN
    with pytest.raises(NotFound, match="no such hook"):
        fleet.training.hook(ADMIN, "churn")
    plans.plans["churn"] = replace(PLAN, webhook=True)
    token = fleet.training.hook(ADMIN, "churn")
    assert token == fleet.training.hook(ADMIN, "churn")
    for wrong in ("", "x" * len(token), token[:-1], "ü"):
        with pytest.raises(NotFound):
            fleet.training.hooked("churn", wrong, "")
    assert fleet.training.hooked("churn", token, "").cause.kind == "webhook"


def test_what_comes_too_soon_is_made_up_for_once(
    fleet: Fleet, plans: Plans, triggers: Triggers, alarms: Alarms
) -> None:
    plans.plans["churn"] = replace(PLAN, drift=True, cooldown_seconds=3600.0)
    fleet.training.start(ADMIN, "churn")
    end(fleet)
    alarms.fired.append(Drifted("churn", "a1", "age moved", now_us() + 1_000_000))
    triggers.look()
    assert causes(fleet) == ["churn manual"]
    plans.plans["churn"] = replace(PLAN, drift=True)  # as if an hour had passed
    triggers.look()
    assert causes(fleet) == ["churn drift", "churn manual"]
    end(fleet)
    triggers.look()
    assert len(causes(fleet)) == 2


def test_a_drift_that_is_over_when_its_time_comes_is_no_cause(
    fleet: Fleet, plans: Plans, triggers: Triggers, alarms: Alarms
) -> None:
    plans.plans["churn"] = replace(PLAN, drift=True, cooldown_seconds=3600.0)
    fleet.training.start(ADMIN, "churn")
    end(fleet)
    alarms.fired.append(Drifted("churn", "a1", "age moved", now_us() + 1_000_000))
    triggers.look()
    alarms.fired.clear()
    plans.plans["churn"] = replace(PLAN, drift=True)
    triggers.look()
    assert causes(fleet) == ["churn manual"]


def test_new_data_during_a_run_begins_another_after_it(
    fleet: Fleet, plans: Plans, triggers: Triggers, alarms: Alarms
) -> None:
    plans.plans["churn"] = replace(PLAN, data=("rows",), drift=True)
    fleet.training.start(ADMIN, "churn")
    sha256, _ = fleet.blobs.put([b"a,b\n1,2\n"])
    fleet.datasets.push(ADMIN, "rows", sha256, "csv", team="growth")
    alarms.fired.append(Drifted("churn", "a1", "age moved", now_us() + 1_000_000))
    for _ in range(2):
        triggers.look()
    assert causes(fleet) == ["churn manual"]
    end(fleet)
    triggers.look()
    assert causes(fleet) == ["churn data", "churn manual"]
    end(fleet)
    triggers.look()  # the drift was answered by the run that was on its way
    assert len(causes(fleet)) == 2


def test_a_kept_cause_goes_with_its_trigger(fleet: Fleet, plans: Plans, triggers: Triggers) -> None:
    with fleet.database.begin() as connection:
        store.keep_cause(connection, "churn", Cause("data", "rows@1"))
        store.keep_cause(connection, "churn", Cause("data", "rows@2"))
        assert store.kept_causes(connection) == {"churn": Cause("data", "rows@1")}
    triggers.look()
    with fleet.database.read() as connection:
        assert store.kept_causes(connection) == {}
    assert causes(fleet) == []
