"""Verbs of training, and `look`: one look of the leader at all runs.

Runs are rows; whoever leads works on those that are not over, in threads. A run whose thread died
with its process is begun again, at most three times; nothing that it made is made twice.
"""

from __future__ import annotations

import hmac
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import sqlalchemy as sa
import structlog

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Action, Principal, Resource, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, FleetError, InvalidInput, NotFound
from modelfleet.delivery.training import store
from modelfleet.delivery.training.documents import DocumentPlans
from modelfleet.delivery.training.plan import STOPPABLE, WORKING, Cause, Plan, State
from modelfleet.delivery.training.store import Training
from modelfleet.delivery.training.work import Interrupted, Workshop
from modelfleet.registry import RegistryService
from modelfleet.rollouts.service import RolloutService
from modelfleet.rollouts.store import Rollout
from modelfleet.serving.endpoints import endpoint as endpoint_table
from modelfleet.serving.progress import Progress

log = structlog.get_logger(__name__)
MAX_STARTS = 3


class TrainingService:
    def __init__(
        self,
        database: Database,
        registry: RegistryService,
        plans: DocumentPlans,
        workshop: Workshop,
        rollouts: RolloutService,
        member: Callable[[], str],
        token: Callable[[str], str],
        parallel: int = 2,
    ) -> None:
        """member: the id of this control plane among others. token: the secret of a model's hook.
        parallel: runs at once."""
        self._database = database
        self._registry = registry
        self._plans = plans
        self._workshop = workshop
        self._rollouts = rollouts
        self._member = member
        self._token = token
        self._parallel = parallel
        self._threads: dict[str, threading.Thread] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._progress: dict[str, Progress] = {}
        self._stopped: set[str] = set()
        """runs whose thread is to end: they were cancelled, or others lead now"""

    # Verbs --------------------------------------------------------------------------------------

    def start(self, actor: Principal, model: str, cause: Cause | None = None) -> Training:
        """Queue a run. Raises `NotFound` for a model without a plan, `Conflict` if one runs."""
        owner = self._registry.get_model(actor, model).owner_team
        authorize(actor, Action.REGISTER, Resource("model", model, owner))
        plan = self.plan_of(model)
        with self._database.begin() as connection:
            made = self.begin(connection, actor, plan, cause or Cause("manual", actor.name))
            if made is None:
                [running] = store.active(connection, [model])[:1]
                raise Conflict(
                    f"{model} is being trained already.",
                    hint=f"See: modelfleet training show {running.id}",
                )
            return store.find(connection, store.training.c.id == made)[0]

    def plan_of(self, model: str) -> Plan:
        """What its document says. Raises `NotFound` if it says nothing."""
        plan = self._plans.trainings().get(model)
        if plan is None:
            raise NotFound(
                f"There is no training of {model}.",
                hint="Add a `train` section to its document and apply it (modelfleet apply).",
            )
        return plan

    def hook(self, actor: Principal, model: str) -> str:
        """The token with which anybody may start a run of a model, without a key."""
        owner = self._registry.get_model(actor, model).owner_team
        authorize(actor, Action.REGISTER, Resource("model", model, owner))
        self._hooked(model)
        return self._token(model)

    def hooked(self, model: str, token: str, detail: str) -> Training:
        """Somebody called the hook. Raises `NotFound` for a wrong token as for no hook."""
        plan = self._hooked(model)
        if not hmac.compare_digest(token.encode(), self._token(model).encode()):
            raise NotFound(f"{model} has no such hook.")
        with self._database.read() as connection:
            begun = store.last_begun(connection, [model]).get(model, 0)
        if now_us() - begun < plan.cooldown_seconds * 1_000_000:
            raise Conflict(f"{model} was trained less than {plan.cooldown_seconds:g} s ago.")
        return self.start(SYSTEM, model, Cause("webhook", detail))

    def _hooked(self, model: str) -> Plan:
        plan = self._plans.trainings().get(model)
        if plan is None or not plan.webhook:
            raise NotFound(
                f"{model[:120]} has no such hook.",
                hint="Its document says `train: {triggers: {webhook: true}}` if it is to have one.",
            )
        return plan

    @staticmethod
    def begin(connection: sa.Connection, actor: Principal, plan: Plan, cause: Cause) -> str | None:
        """The same in the caller's transaction; None if one is on its way."""
        made = store.add(connection, plan, cause, actor.id, actor.name)
        if made is not None:
            resource = Resource("model", plan.model, plan.owner_team)
            details = {"training": made, "cause": cause.kind, "detail": cause.detail}
            audit.record(connection, actor, "start-training", resource, details)
        return made

    def list(self, actor: Principal, model: str | None = None, limit: int = 100) -> list[Training]:
        """Newest first."""
        condition = sa.true() if model is None else store.training.c.model == model
        with self._database.read() as connection:
            found = store.find(connection, condition, limit)
        return [one for one in found if actor.may(Action.READ, one.owner_team)]

    def get(self, actor: Principal, run: str) -> Training:
        found = self._find(run)
        authorize(actor, Action.READ, Resource("model", found.model, found.owner_team))
        return found

    def progress(self, run: str) -> Progress | None:
        """Of the environment that is being built."""
        return self._progress.get(run)

    def log(self, actor: Principal, run: str) -> str:
        """The end of what it said."""
        found = self.get(actor, run)
        authorize(actor, Action.READ_PAYLOADS, Resource("model", found.model, found.owner_team))
        return self._workshop.tail(run, 64 * 1024)

    def cancel(self, actor: Principal, run: str) -> Training:
        found = self._find(run)
        resource = Resource("model", found.model, found.owner_team)
        authorize(actor, Action.REGISTER, resource)
        with self._database.begin() as connection:
            sentence = f"Cancelled by {actor.name}."
            if not store.move(
                connection, run, None, State.CANCELLED, among=STOPPABLE, sentence=sentence
            ):
                now = store.find(connection, store.training.c.id == run)[0].state
                raise Conflict(
                    f"The run is {now}.",
                    hint="What is rolled out already is stopped by: modelfleet rollouts abort",
                )
            audit.record(connection, actor, "cancel-training", resource, {"training": run})
        return self._find(run)

    def _find(self, run: str) -> Training:
        with self._database.read() as connection:
            found = store.find(connection, store.training.c.id == run)
        if not found:
            raise NotFound(f"There is no training {run[:40]}.", hint="modelfleet training list")
        return found[0]

    # The loop -----------------------------------------------------------------------------------

    def look(self) -> None:
        """Begin what is queued, follow what is rolled out, end what was cancelled."""
        with self._database.read() as connection:
            runs = store.active(connection)
        self._drop({one.id for one in runs})
        for run in runs:
            try:
                self._look_at(run)
            except Exception as error:  # the others go on
                log.error("training", run=run.id, exc_info=error)

    def _look_at(self, run: Training) -> None:
        if run.state in WORKING:
            self._begin(run)
        elif run.state is State.WAITING:
            self._launch(run)
        else:
            self._follow(run)

    def close(self) -> None:
        """End what runs here; it is begun again by whoever leads next."""
        for run in list(self._threads):
            self._stop(run)
        for thread in list(self._threads.values()):
            thread.join(10)

    def _stop(self, run: str) -> None:
        self._stopped.add(run)
        process = self._processes.get(run)
        if process is not None:
            process.terminate()

    def _started(self, run: str, process: subprocess.Popen[bytes]) -> None:
        self._processes[run] = process
        if run in self._stopped:  # while it was being started
            process.terminate()

    def _drop(self, active: set[str]) -> None:
        for run, thread in list(self._threads.items()):
            if not thread.is_alive():
                del self._threads[run]
                self._stopped.discard(run)
            elif run not in active:
                self._stop(run)

    def _begin(self, run: Training) -> None:
        if run.id in self._threads or len(self._threads) >= self._parallel:
            return
        again = run.state is not State.QUEUED
        if again and run.starts >= MAX_STARTS:
            reason = f"It was interrupted {MAX_STARTS + 1} times."
            self._end(run, None, State.FAILED, reason)
            return
        with self._database.begin() as connection:
            if not store.take(connection, run.id, self._member(), again=again):
                return
        thread = threading.Thread(
            target=self._work, args=(run,), name=f"training-{run.id}", daemon=True
        )
        self._threads[run.id] = thread
        thread.start()

    def _work(self, run: Training) -> None:
        owner = self._member()
        try:
            self._make(run, owner)
        except Interrupted:
            log.info("training is interrupted", run=run.id)
        except FleetError as error:
            self._fail(run, owner, f"{error.message} {error.hint}".strip())
        except Exception as error:
            log.error("training", run=run.id, exc_info=error)
            self._fail(run, owner, f"{type(error).__name__}: {error}")
        finally:
            self._processes.pop(run.id, None)
            self._progress.pop(run.id, None)
            self._workshop.tidy(run.id)

    def _fail(self, run: Training, owner: str, sentence: str) -> None:
        """Unless it was stopped: then it is begun again."""
        if run.id not in self._stopped:
            self._end(run, owner, State.FAILED, sentence)

    def _make(self, run: Training, owner: str) -> None:
        started = partial(self._started, run.id)
        if not self._made(run):
            steps = (
                (State.PREPARING, "Its environment is built."),
                (State.TRAINING, "It is being trained."),
                (State.REGISTERING, "What was made is registered."),
            )
            report = partial(self._progress.__setitem__, run.id)
            self._go_on(run, owner, *steps[0])
            python = self._workshop.python(run, report)
            self._go_on(run, owner, *steps[1])
            self._workshop.train(run, python, started)
            self._go_on(run, owner, *steps[2])
            if not self._made(run):  # it may have registered the version by itself
                self._workshop.register(run, started)
        made = self._made(run)
        if made is None:
            raise InvalidInput("It was registered, but no version carries its tag.")
        self._go_on(run, owner, State.WAITING, f"Made {made[1]}.", version=made[1])

    def _made(self, run: Training) -> tuple[str, str] | None:
        with self._database.read() as connection:
            return store.made_by(connection, run.id)

    def _go_on(
        self, run: Training, owner: str, state: State, sentence: str, version: str | None = None
    ) -> None:
        """Raises `Conflict` if the run is not ours any more."""
        if run.id in self._stopped:
            raise Conflict("The run was stopped.")
        with self._database.begin() as connection:
            if not store.move(
                connection, run.id, owner, state, among=WORKING, sentence=sentence, version=version
            ):
                raise Conflict("The run was cancelled, or is another control plane's by now.")

    def _end(
        self,
        run: Training,
        owner: str | None,
        state: State,
        sentence: str,
        version: str | None = None,
    ) -> None:
        resource = Resource("model", run.model, run.owner_team)
        with self._database.begin() as connection:
            if store.move(connection, run.id, owner, state, sentence=sentence, version=version):
                details = {"training": run.id, "state": state.value, "sentence": sentence}
                audit.record(connection, SYSTEM, "end-training", resource, details)

    def _follow(self, run: Training) -> None:
        """From a rollout that runs to one that ended."""
        try:
            rollout = self._rollouts.get(SYSTEM, str(run.rollout_id), ticks=1).rollout
        except NotFound as error:
            self._end(run, None, State.FAILED, error.message)
            return
        if rollout.ended_at is None:
            if rollout.sentence != run.sentence:
                self._note(run, rollout.sentence)
            return
        promoted = rollout.state == "succeeded"
        state = State.PROMOTED if promoted else State.REJECTED
        self._end(run, None, state, rollout.sentence)

    def _note(self, run: Training, sentence: str) -> None:
        with self._database.begin() as connection:
            store.move(connection, run.id, None, run.state, sentence=sentence)

    def _launch(self, run: Training) -> None:
        version = str(run.version)
        try:
            place = self._plans.destination(run.model)
            rollout = self._rollout(place.endpoint, version)
            if rollout is None:
                # In the name of who asked for the run: they don't approve what comes of it.
                asker = Principal(SYSTEM.id, run.actor, SYSTEM.grants)
                rollout = self._rollouts.start(
                    asker, place.endpoint, run.model, version, place.spec
                )
        except Conflict as error:
            status, serves = self._standing(run, place.endpoint)
            if status in ("", "failed"):
                self._end(run, None, State.REJECTED, error.message)
            elif serves:  # somebody was faster
                self._end(run, None, State.PROMOTED, error.message)
            elif run.sentence != error.message:  # another rollout is on its way: wait
                self._note(run, error.message)
            return
        except FleetError as error:
            self._end(run, None, State.FAILED, error.message)
            return
        with self._database.begin() as connection:
            moved = store.move(
                connection,
                run.id,
                None,
                State.ROLLING_OUT,
                sentence=rollout.sentence,
                rollout_id=rollout.id,
            )
        if not moved:
            with suppress(Conflict):  # it ended by itself
                self._rollouts.abort(SYSTEM, rollout.id, "Its training was cancelled.")

    def _rollout(self, endpoint: str, version: str) -> Rollout | None:
        """One that was started just before the control plane died."""
        known: Sequence[Rollout] = self._rollouts.list(SYSTEM, endpoint=endpoint, limit=20)
        return next((one for one in known if one.to_version == version), None)

    def _standing(self, run: Training, endpoint: str) -> tuple[str, bool]:
        """Status of the version that was made ("" if it is gone), and whether it serves."""
        made = self._made(run)
        if made is None:
            return "", False
        version = self._registry.versions_by_id([made[0]]).get(made[0])
        table = endpoint_table
        stable = sa.select(table.c.stable_version_id).where(table.c.name == endpoint)
        with self._database.read() as connection:
            serves = connection.execute(stable).scalar() == made[0]
        return (version.status if version else ""), serves
