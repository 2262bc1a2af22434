"""What a rollout must pass first, asked for over the real gates and registry."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from modelfleet.core.authorization import Grant, Role
from modelfleet.core.errors import NotAllowed
from modelfleet.delivery.gatekeeper import GateKeeper, rollout_gates
from modelfleet.gates.store import gate_request
from modelfleet.rollouts import store
from modelfleet.rollouts.advance import Admission
from modelfleet.rollouts.plan import Spec
from modelfleet.rollouts.store import Row
from modelfleet.wiring import Fleet
from people import ADMIN, principal
from registrar import Registrar

GATED = Spec(gates=({"approval": {"role": "admin"}},))


def begun(fleet: Fleet, registrar: Registrar, spec: Spec) -> Row:
    registrar.model()
    made = registrar.ready()
    begun = fleet.rollouts.start(ADMIN, "churn", "churn", made.version, spec)
    with fleet.database.read() as connection:
        found = store.find_row(connection, begun.id)
    assert found is not None
    return found


def look(fleet: Fleet, row: Row) -> Admission:
    with fleet.database.begin() as connection:
        return GateKeeper(fleet.registry, fleet.gates).look(connection, row)


def asked(fleet: Fleet) -> tuple[int, int]:
    with fleet.database.read() as connection:
        return (
            len(connection.execute(sa.select(rollout_gates)).all()),
            len(connection.execute(sa.select(gate_request)).all()),
        )


def test_without_gates_nothing_is_asked(fleet: Fleet, registrar: Registrar) -> None:
    assert look(fleet, begun(fleet, registrar, Spec())).state == "passed"
    assert asked(fleet) == (0, 0)


def test_gates_are_asked_for_once_and_not_answered_by_who_asked(
    fleet: Fleet, registrar: Registrar
) -> None:
    row = begun(fleet, registrar, GATED)
    assert look(fleet, row).state == look(fleet, row).state == "waiting"
    assert asked(fleet) == (1, 1)
    [question] = fleet.approvals.list(ADMIN, state="waiting")
    assert ADMIN.name in question.not_by
    with pytest.raises(NotAllowed, match="themselves"):
        fleet.approvals.answer(ADMIN, question.id, approve=True)


def test_a_version_that_is_gone_fails(fleet: Fleet, registrar: Registrar) -> None:
    row = begun(fleet, registrar, GATED)
    gone = replace(row, arms=(replace(row.arms[0], version_id="gone"),), to_version_id="gone")
    found = look(fleet, gone)
    assert (found.state, "deleted" in found.sentence) == ("failed", True)


def test_a_data_set_that_is_gone_fails_and_leaves_nothing_half_asked(
    fleet: Fleet, registrar: Registrar
) -> None:
    lost = {"quality": {"dataset": "gone@1", "metric": "accuracy", "minimum": 0.5}}
    row = begun(fleet, registrar, replace(GATED, gates=(*GATED.gates, lost)))
    found = look(fleet, row)
    assert (found.state, "gone" in found.sentence) == ("failed", True)
    assert asked(fleet) == (0, 0)


def test_data_of_another_team_are_for_those_who_may_read_them(
    fleet: Fleet, registrar: Registrar
) -> None:
    """Programs of gates and trainings get the rows themselves."""
    registrar.model()
    made = registrar.ready()
    sha256, _ = fleet.blobs.put([b"a,target\n1,0\n"])
    fleet.datasets.push(ADMIN, "salaries", sha256, "csv", team="people")
    told = {"run": {"uses": f"check.py@sha256:{sha256}", "dataset": "salaries@1"}}
    deployer = principal(Role.DEPLOYER, "growth")
    with pytest.raises(NotAllowed):
        fleet.gates.request(deployer, "churn", made.version, [told])
    with pytest.raises(NotAllowed):
        fleet.rollouts.start(deployer, "churn", "churn", made.version, Spec(gates=(told,)))
    assert asked(fleet) == (0, 0)
    fetch = fleet.training._workshop._fetch
    with pytest.raises(NotAllowed):
        fetch("growth", "salaries@1", fleet.layout.home)
    fleet.identity.add_grant(ADMIN, "training-growth", Grant(Role.VIEWER, "people"))
    assert fetch("growth", "salaries@1", fleet.layout.home).read_bytes().startswith(b"a,target")
