"""What becomes of training runs when something else moves, ends, or dies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Role
from modelfleet.core.errors import Conflict, InvalidInput, NotFound
from modelfleet.delivery.objects import fleet_object
from modelfleet.delivery.training import store
from modelfleet.delivery.training.documents import DocumentPlans
from modelfleet.delivery.training.plan import Destination, Plan, State
from modelfleet.delivery.training.service import MAX_STARTS
from modelfleet.delivery.training.store import Training
from modelfleet.delivery.training.work import Interrupted
from modelfleet.rollouts.plan import Spec
from modelfleet.wiring import Fleet
from people import ADMIN, principal
from registrar import Registrar

PLAN = Plan("churn", "growth", command=("python", "train.py"), cooldown_seconds=0.0)


@dataclass
class Plans:
    plans: dict[str, Plan] = field(default_factory=lambda: {"churn": PLAN})

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


def now(fleet: Fleet, run: Training) -> Training:
    return fleet.training.get(ADMIN, run.id)


def put(fleet: Fleet, run: Training, state: State, **given: str) -> None:
    with fleet.database.begin() as connection:
        assert store.move(connection, run.id, None, state, sentence="", **given)


def made_by(fleet: Fleet, registrar: Registrar, run: Training, model: str = "churn") -> str:
    made = registrar.ready(model)
    fleet.registry.set_version_tag(ADMIN, model, made.version, store.TAG, run.id)
    return made.version


def begun(fleet: Fleet, model: str = "churn") -> Training:
    return fleet.training.start(ADMIN, model)


def settle(fleet: Fleet) -> None:
    for thread in list(fleet.training._threads.values()):
        thread.join(20)


def test_only_its_own_models_versions_are_what_a_run_made(
    fleet: Fleet, registrar: Registrar, plans: Plans
) -> None:
    run = begun(fleet)
    registrar.model("other")
    made_by(fleet, registrar, run, "other")
    assert fleet.training._made(run) is None
    version = made_by(fleet, registrar, run)
    found = fleet.training._made(run)
    assert found is not None
    assert found[1] == version


def test_a_run_that_waits_can_be_cancelled_one_that_is_rolled_out_not(
    fleet: Fleet, registrar: Registrar, plans: Plans
) -> None:
    run = begun(fleet)
    put(fleet, run, State.ROLLING_OUT)
    with pytest.raises(Conflict, match="rolling-out"):
        fleet.training.cancel(ADMIN, run.id)
    put(fleet, run, State.WAITING)
    assert fleet.training.cancel(ADMIN, run.id).state is State.CANCELLED
    with fleet.database.read() as connection:
        actions = connection.execute(sa.select(audit.audit_event.c.action)).scalars().all()
    assert actions.count("cancel-training") == 1


def test_a_run_that_is_cancelled_while_its_rollout_begins_takes_it_back(
    fleet: Fleet, registrar: Registrar, plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(fleet)
    put(fleet, run, State.WAITING, version=made_by(fleet, registrar, run))
    start = fleet.rollouts.start

    def late(*args: object, **given: object) -> object:
        found = start(*args, **given)  # type: ignore[arg-type]
        fleet.training.cancel(ADMIN, run.id)
        return found

    monkeypatch.setattr(fleet.rollouts, "start", late)
    fleet.training._launch(now(fleet, run))
    assert now(fleet, run).state is State.CANCELLED
    [rollout] = fleet.rollouts.list(ADMIN)
    assert rollout.desired == "abort"


def test_who_asked_for_the_run_does_not_approve_its_rollout(
    fleet: Fleet, registrar: Registrar, plans: Plans
) -> None:
    run = fleet.training.start(principal(Role.DATA_SCIENTIST, "growth"), "churn")
    put(fleet, run, State.WAITING, version=made_by(fleet, registrar, run))
    fleet.training.look()
    [rollout] = fleet.rollouts.list(ADMIN)
    assert rollout.actor == run.actor == "data-scientist of growth"
    assert now(fleet, run).state is State.ROLLING_OUT


def test_a_version_that_serves_already_is_promoted(
    fleet: Fleet, registrar: Registrar, plans: Plans
) -> None:
    run = begun(fleet)
    version = made_by(fleet, registrar, run)
    put(fleet, run, State.WAITING, version=version)
    made = fleet.training._made(run)
    assert made is not None
    other = registrar.ready()
    fleet.rollouts.start(ADMIN, "churn", "churn", other.version, Spec())
    fleet.training.look()
    assert now(fleet, run).state is State.WAITING  # another rollout is on its way
    with fleet.database.begin() as connection:
        connection.execute(sa.text("UPDATE rollout SET ended_at = 1, state = 'succeeded'"))
        connection.execute(sa.text("UPDATE endpoint SET stable_version_id = :v"), {"v": made[0]})
    fleet.training.look()
    assert now(fleet, run).state is State.PROMOTED


def test_a_rollout_that_is_gone_ends_its_run_and_stops_no_other(
    fleet: Fleet, registrar: Registrar, plans: Plans
) -> None:
    registrar.model("second")
    plans.plans["second"] = replace(PLAN, model="second")
    lost, other = begun(fleet), begun(fleet, "second")
    put(fleet, lost, State.ROLLING_OUT, version="1.0.0", rollout_id="gone")
    put(fleet, other, State.WAITING, version="7.0.0")  # nor is there such a version
    fleet.training.look()
    assert now(fleet, lost).state is State.FAILED
    assert now(fleet, other).state is State.FAILED


def test_what_is_interrupted_begins_again_but_not_for_ever(
    fleet: Fleet, plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = fleet.training._workshop
    monkeypatch.setattr(shop, "python", lambda *_: Path(sys.executable))

    def ended(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr(shop, "train", ended)
    run = begun(fleet)
    for starts in range(MAX_STARTS + 1):
        fleet.training.look()
        settle(fleet)
        found = now(fleet, run)
        assert (found.state, found.starts) == (State.TRAINING, starts)
    fleet.training.look()
    fleet.training.look()
    assert now(fleet, run).state is State.FAILED


def test_a_program_that_is_told_to_end_is_interrupted_not_failed(
    fleet: Fleet, plans: Plans
) -> None:
    run = begun(fleet)

    def stop(process: subprocess.Popen[bytes]) -> None:
        process.terminate()

    argv = [sys.executable, "-c", "import time; time.sleep(30)"]
    # Also where the signal comes before the supervisor has set itself up.
    with pytest.raises(Interrupted):
        fleet.training._workshop._run(run, argv, {}, stop, 30.0)


def test_closing_leaves_the_run_to_the_next_leader(
    fleet: Fleet, plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its program starts only after the others were ended."""
    shop = fleet.training._workshop
    started: list[Callable[[], None]] = []

    def python(*_: object) -> Path:
        fleet.training._stop(run.id)  # closed while the environment is built
        return Path(sys.executable)

    monkeypatch.setattr(shop, "python", python)
    monkeypatch.setattr(shop, "train", lambda *_: started.append(lambda: None))
    run = begun(fleet)
    fleet.training.look()
    settle(fleet)
    assert started == []
    assert now(fleet, run).state is State.PREPARING


def test_links_of_the_program_are_not_followed(fleet: Fleet, plans: Plans) -> None:
    run = begun(fleet)
    shop = fleet.training._workshop
    output = shop.folder_of(run.id) / "output"
    output.mkdir(parents=True)
    try:
        (output / "model.onnx").symlink_to("/etc/hostname")
        with pytest.raises(InvalidInput, match="is a link"):
            shop.register(run, lambda _: None)
    finally:
        shop.tidy(run.id)


def test_a_hook_keeps_the_cooldown(fleet: Fleet, plans: Plans) -> None:
    plans.plans["churn"] = replace(PLAN, webhook=True, cooldown_seconds=60.0)
    token = fleet.training.hook(ADMIN, "churn")
    run = fleet.training.hooked("churn", token, "")
    fleet.training.cancel(ADMIN, run.id)
    with pytest.raises(Conflict, match="less than 60 s ago"):
        fleet.training.hooked("churn", token, "")


def test_files_of_runs_on_their_way_are_no_garbage(fleet: Fleet, plans: Plans) -> None:
    plans.plans["churn"] = replace(PLAN, files={"train.py": "a" * 64})
    run = begun(fleet)
    with fleet.database.read() as connection:
        assert store.files_of(connection) == {"a" * 64}
    fleet.training.cancel(ADMIN, run.id)
    with fleet.database.read() as connection:
        assert store.files_of(connection) == set()


def test_a_document_that_can_not_be_read_stops_no_other(fleet: Fleet) -> None:
    train = {"command": ["python", "train.py"]}
    good = {
        "apiVersion": "modelfleet.dev/v1",
        "kind": "Model",
        "metadata": {"name": "good", "owner": "growth"},
        "train": train,
    }
    with fleet.database.begin() as connection:
        for name, document in (("good", good), ("odd", {**good, "what": "of a later release"})):
            connection.execute(
                sa.insert(fleet_object).values(
                    **{
                        column.name: "" if isinstance(column.type, sa.String) else 0
                        for column in fleet_object.columns
                    }
                    | {"kind": "Model", "name": name, "document": document}
                )
            )
    plans = DocumentPlans(fleet.database)
    assert list(plans.trainings()) == ["good"]
    with pytest.raises(InvalidInput, match="can't be read"):
        plans.destination("odd")
    with pytest.raises(NotFound):
        plans.destination("none")
