"""Jobs: started, looked after, told of, cancelled.

`look` is level-triggered: whatever was running when the control plane died is started again, and
goes on from its manifest. A job's process ends with the control plane that started it.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import sqlalchemy as sa
import structlog

from modelfleet.batch import store
from modelfleet.batch.store import ACTIVE, batch
from modelfleet.batch.types import Batch, Order, Progress, State, Wish
from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Action, Principal, Resource, authorize
from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, FleetError, NotAllowed, NotFound
from modelfleet.core.ids import new_id
from modelfleet.core.settings import Settings
from modelfleet.lineage import Node, add_edge
from modelfleet.registry import RegistryService, Version
from modelfleet.registry import store as registry_store
from modelfleet.serving.beside import Beside
from modelfleet.serving.quarantine import QuarantineService
from modelfleet_worker.wire import desired
from modelfleet_worker.wire.desired import PoolSpec

log = structlog.get_logger(__name__)
MAX_STARTS = 3
"""Starts of a job's process without a chunk done in between."""
SEGMENT_MB = 16
Row = sa.Row[tuple[object, ...]]


class BatchService:
    def __init__(
        self,
        settings: Settings,
        database: Database,
        registry: RegistryService,
        beside: Beside,
        quarantine: QuarantineService,
    ) -> None:
        self._settings = settings
        self._layout = settings.layout
        self._database = database
        self._registry = registry
        self._beside = beside
        self._quarantine = quarantine
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._chunks: dict[str, int] = {}

    # Verbs --------------------------------------------------------------------------------------

    def start(self, actor: Principal, wish: Wish) -> Batch:
        """Queue a job; the one that does the same already, if there is one.

        Raises `NotFound`, `Conflict` (the version can't run, another job writes there),
        `NotAllowed` and `InvalidInput`.
        """
        wish.check()
        version = self._registry.get_version(actor, wish.model, wish.version)
        resource = Resource("version", version.name, version.owner_team)
        authorize(actor, Action.RUN_BATCH, resource)
        self._check_paths(actor, wish)
        self._registry.serving_variant(version)  # raises `Conflict` while there is none
        stopped = self._quarantine.current().get(version.index)
        if stopped is not None:
            raise Conflict(f"{version.name} is in quarantine: {stopped}.")
        with self._database.begin() as connection:
            same_place = sa.and_(batch.c.output == wish.output, batch.c.state.in_(ACTIVE))
            for row in store.rows(connection, same_place):
                found = store.domain(row)
                if found.wish == wish and found.version == version.version:
                    return self._with_progress(found)
                raise Conflict(
                    f"Batch {found.id} of {found.model}@{found.version} writes to {wish.output}.",
                    hint=f"Cancel it (modelfleet batch cancel {found.id}) or choose another one.",
                )
            made = new_id()
            store.insert(connection, new_row(made, wish, version, actor))
            registry_store.hold(connection, version.id, f"batch/{made}")
            node = Node("batch", made)
            add_edge(connection, Node("dataset", wish.input[-300:]), "scored", node)
            add_edge(connection, Node("version", version.name), "predicted", node)
            add_edge(connection, node, "wrote", Node("dataset", wish.output[-300:]))
            details = {"batch": made, "input": wish.input, "output": wish.output}
            audit.record(connection, actor, "start-batch", resource, details)
            return store.domain(store.rows(connection, batch.c.id == made)[0])

    def list(self, actor: Principal, model: str | None = None, limit: int = 100) -> list[Batch]:
        """Newest first."""
        condition = sa.true() if model is None else batch.c.model == model
        with self._database.read() as connection:
            rows = store.rows(connection, condition, limit)
        found = [self._with_progress(store.domain(row)) for row in rows]
        return [one for one in found if actor.may(Action.READ, one.owner_team)]

    def get(self, actor: Principal, batch_id: str) -> Batch:
        found = self._find(batch_id)
        authorize(actor, Action.READ, Resource("batch", found.id, found.owner_team))
        return self._with_progress(found)

    def cancel(self, actor: Principal, batch_id: str) -> Batch:
        """Stop it; what is written stays, and the same wish would go on from there.

        Raises `Conflict` if it is over."""
        found = self._find(batch_id)
        resource = Resource("batch", found.id, found.owner_team)
        authorize(actor, Action.RUN_BATCH, resource)
        progress = self._with_progress(found).progress
        with self._database.begin() as connection:
            if not self._end(connection, batch_id, "cancelled", progress):
                raise Conflict(f"Batch {batch_id} is over: {found.state}.")
            audit.record(connection, actor, "cancel-batch", resource, {})
        return self.get(actor, batch_id)

    def _find(self, batch_id: str) -> Batch:
        with self._database.read() as connection:
            rows = store.rows(connection, batch.c.id == batch_id)
        if not rows:
            raise NotFound(f"There is no batch {batch_id}.", hint="See: modelfleet batch list")
        return store.domain(rows[0])

    def _with_progress(self, found: Batch) -> Batch:
        if found.state != "running":
            return found
        progress = self._progress(found.id)
        return found if progress is None else replace(found, progress=progress)

    def _progress(self, batch_id: str) -> Progress | None:
        try:
            content = self._layout.batch_progress(batch_id).read_bytes()
            return msgspec.json.decode(content, type=Progress)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _check_paths(self, actor: Principal, wish: Wish) -> None:
        """Jobs may read and write below the folders of the settings; without any, admins may
        anywhere but in the home."""
        folders = [Path(one).resolve() for one in self._settings.batch.folders]
        for path in {wish.input, wish.output, *glob.glob(wish.input, recursive=True)}:
            real = Path(path).resolve()
            if real.is_relative_to(self._layout.home.resolve()):
                raise NotAllowed(f"{path} lies in modelfleet's own home.")
            if folders and not any(real.is_relative_to(folder) for folder in folders):
                raise NotAllowed(
                    f"Batches may not use {path}.",
                    hint=f"They may use what lies below {', '.join(map(str, folders))}"
                    " (batch.folders).",
                )
        if not folders and not actor.may(Action.MANAGE_ACCESS, "*"):
            raise NotAllowed(
                "Only admins may name files of the server.",
                hint="Set batch.folders to the folders in which others may read and write.",
            )

    # The loop -----------------------------------------------------------------------------------

    def look(self) -> None:
        """Start what is queued, end what has ended, kill what is cancelled."""
        with self._database.read() as connection:
            rows = store.rows(connection, batch.c.state.in_(ACTIVE))
        active = {str(row.id) for row in rows}
        for batch_id in [one for one in self._processes if one not in active]:
            self._kill(batch_id)
        running = 0
        for row in rows:
            if row.state == "running":
                running += self._look_after(row)
        for row in rows:
            if row.state == "queued" and running < self._settings.batch.parallel:
                running += self._launch(row, 1)

    def close(self) -> None:
        """End all processes; the jobs go on at the next start."""
        for batch_id in list(self._processes):
            self._kill(batch_id)

    def _look_after(self, row: Row) -> bool:
        """Is it still running?"""
        process = self._processes.get(row.id)
        if process is None:
            return self._launch(row, row.starts)
        if process.poll() is None:
            return True
        del self._processes[row.id]
        progress = self._progress(row.id) or Progress()
        if progress.state == "succeeded":
            self._finish(row, "succeeded", progress)
            return False
        if progress.state == "failed":
            self._finish(row, "failed", progress)
            return False
        moved = progress.chunks > self._chunks.get(row.id, 0)
        starts = 1 if moved else row.starts + 1
        code = process.returncode
        if starts > MAX_STARTS:
            error = f"Its process ended {MAX_STARTS} times without a chunk done (code {code})."
            self._fail(row, error)
            return False
        log.warning("batch process ended, goes on", batch=row.id, code=code, start=starts)
        return self._launch(row, starts)

    def _launch(self, row: Row, starts: int) -> bool:
        try:
            order = self._order(row)
        except FleetError as error:
            self._fail(row, error.message, error.status)
            return False
        self._chunks[row.id] = (self._progress(row.id) or Progress()).chunks
        place = self._layout.batch_order(row.id)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(msgspec.json.encode(order))
        self._tell_the_collector(order)
        with self._database.begin() as connection:
            if not store.update(connection, row.id, state="running", starts=starts):
                return False
        self._layout.logs.mkdir(parents=True, exist_ok=True)
        with (self._layout.logs / "batches.log").open("ab") as output:
            self._processes[row.id] = subprocess.Popen(
                self._command(row.id),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
            )
        return True

    def _command(self, batch_id: str) -> tuple[str, ...]:
        home, parent = str(self._layout.home), str(os.getpid())
        arguments = ["--home", home, "--id", batch_id, "--parent", parent]
        return (sys.executable, "-m", "modelfleet.batch", *arguments)

    def _order(self, row: Row) -> Order:
        version = self._registry.versions_by_id([row.version_id]).get(row.version_id)
        if version is None:
            raise NotFound(f"There is no {row.model}@{row.version} any more.")
        program = self._beside.program(version, "modelfleet_worker.batch")
        return Order(
            id=row.id,
            wish=msgspec.convert(row.wish, Wish),
            spec=program.spec,
            caller=row.created_by_id,
            model_argv=program.argv,
            segment_mb=min(SEGMENT_MB, self._settings.serving.segment_mb),
            nice=self._settings.batch.nice,
            cpus=self._settings.batch.cpus,
        )

    def _tell_the_collector(self, order: Order) -> None:
        """What the version's index means; it keeps that once it has read it."""
        place = self._layout.batch_layouts
        try:
            known = {one.index: one for one in desired.load(place).versions}
        except (FileNotFoundError, msgspec.DecodeError):
            known = {}
        known[order.spec.index] = order.spec
        newest = tuple(known.values())[-200:]
        desired.dump(PoolSpec("batches", now_us(), "", versions=newest), place)

    def _fail(self, row: Row, error: str, status: int = 500) -> None:
        last = self._progress(row.id) or Progress()
        told = msgspec.structs.replace(last, state="failed", error=error, status=status)
        self._finish(row, "failed", told)

    def _finish(self, row: Row, state: State, progress: Progress) -> None:
        resource = Resource("batch", row.id, row.owner_team)
        with self._database.begin() as connection:
            if self._end(connection, row.id, state, progress):
                counts = {"rows": progress.rows, "rejected": progress.rejected}
                details = counts | ({"error": progress.error} if progress.error else {})
                audit.record(connection, SYSTEM, f"end-batch-{state}", resource, details)
        self._sweep(row.id)

    def _end(
        self, connection: sa.Connection, batch_id: str, state: State, progress: Progress
    ) -> bool:
        rows = store.rows(connection, batch.c.id == batch_id)
        plain = msgspec.to_builtins(progress)
        ended = store.update(
            connection, batch_id, state=state, progress=plain, finished_at=now_us()
        )
        if ended:
            registry_store.let_go(connection, rows[0].version_id, f"batch/{batch_id}")
        return ended

    def _sweep(self, batch_id: str) -> None:
        for path in (self._layout.batch_order(batch_id), self._layout.batch_progress(batch_id)):
            path.unlink(missing_ok=True)

    def _kill(self, batch_id: str) -> None:
        process = self._processes.pop(batch_id)
        process.kill()
        process.wait()
        with self._database.read() as connection:
            rows = store.rows(connection, batch.c.id == batch_id)
        if rows and rows[0].state not in ACTIVE:
            self._sweep(batch_id)


def new_row(made: str, wish: Wish, version: Version, actor: Principal) -> dict[str, object]:
    """A job that is queued."""
    return {
        "id": made,
        "model": version.model,
        "version": version.version,
        "version_id": version.id,
        "owner_team": version.owner_team,
        "output": wish.output,
        "wish": msgspec.to_builtins(wish),
        "state": "queued",
        "progress": msgspec.to_builtins(Progress()),
        "starts": 0,
        "created_by": actor.name,
        "created_by_id": actor.id,
        "created_at": now_us(),
    }
