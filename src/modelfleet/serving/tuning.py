"""How a version runs best in a worker: on the event loop, or in a thread with batches of what size.

r(k), the time of a call with k rows, is measured in the version's environment. From it follows
what a worker answers when so many clients ask for one row each, again and again: a call on the
event loop takes REQUEST + r(1); a batch of k takes HOP + r(k) + k REQUEST. While a batch runs the
others queue, so a batch holds about half of the clients, and at most what the version may take. By
Little's law a client waits for its answer as long as all clients' requests take together.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Action, Principal, Resource, authorize
from modelfleet.core.clock import iso, now_us
from modelfleet.core.database import Database, Json, metadata
from modelfleet.core.errors import InvalidInput, NotFound, Unavailable
from modelfleet.registry import RegistryService, Version
from modelfleet.serving.beside import Beside, environment
from modelfleet_worker.lane import BATCH_ROWS
from modelfleet_worker.measure import Measured, Point
from modelfleet_worker.resident import INLINE_SECONDS

HOP_S = 100e-6
"""Processor time to hand a call to a thread and back."""
REQUEST_S = 40e-6
"""Of the worker for a request besides the model."""
GAIN = 1.05
"""What a larger batch, or another place, must be better by."""
_SLOWEST_INLINE_S = 1e-3
_SECONDS = 90.0

tuning = sa.Table(
    "tuning",
    metadata,
    sa.Column("version_id", sa.String(32), primary_key=True),
    sa.Column("evidence", Json, nullable=False),
    sa.Column("applied", sa.Boolean, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)


class Choice(msgspec.Struct, frozen=True):
    """What a worker is told of a version; see `VersionSpec`."""

    batch_rows: int = 0
    inline: bool | None = None


OWN = Choice()
"""the worker chooses"""


class Size(msgspec.Struct, frozen=True):
    """A largest batch, and what is expected of it at the asked-for concurrency."""

    rows: int
    call_us: float
    call_p95_us: float
    row_us: float
    requests_per_second: float
    p95_ms: float
    fits: bool
    """p95 is within the objective"""


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """`requests_per_second` and the like are of one worker, computed, not measured."""

    model: str
    version: str
    objective_ms: float
    concurrency: int
    """clients of one worker"""
    sizes: tuple[Size, ...]
    inline: Size
    """one row on the event loop"""
    now: Literal["inline", "lane"]
    """where the worker runs it by its own choice"""
    now_rows: int
    place: Literal["inline", "lane"]
    rows: int
    gain: float
    """requests per second against the worker's own choice; 1.0 if there is nothing to gain"""
    sentence: str
    applied: bool = False
    at: str = ""


def decide(version: Version, found: Measured, objective_ms: float, concurrency: int) -> Tuning:
    """The best place and size. concurrency: clients of one worker."""
    inline = _inline(found.points[0], objective_ms, concurrency)
    sizes = tuple(_size(point, found.points, objective_ms, concurrency) for point in found.points)
    best = _best(sizes)
    first = found.points[0]
    own_inline = first.median_s < INLINE_SECONDS and found.runtime != "python"
    own_size = max((s for s in sizes if s.rows <= BATCH_ROWS), key=lambda s: s.rows)
    own = inline if own_inline else own_size
    limit = INLINE_SECONDS if found.runtime == "python" else _SLOWEST_INLINE_S
    may_inline = first.p95_s < limit
    place: Literal["inline", "lane"] = "lane"
    chosen = best
    if may_inline and inline.requests_per_second * GAIN >= best.requests_per_second:
        place, chosen = "inline", inline
    gain = chosen.requests_per_second / own.requests_per_second
    better_fit = chosen.fits and not own.fits
    now: Literal["inline", "lane"] = "inline" if own_inline else "lane"
    same = place == now and (place == "inline" or chosen.rows == own_size.rows)
    if same or (gain < GAIN and not better_fit):
        place, chosen, gain = now, own, 1.0
        said = "there is nothing to gain: the worker's own choice is as good"
    else:
        where = "on the event loop" if place == "inline" else f"in batches of up to {chosen.rows}"
        said = f"{where}, it should answer {gain:.2f}x as many requests"
    if not chosen.fits:
        said += f"; no choice keeps p95 within {objective_ms:g} ms at this concurrency"
    return Tuning(
        model=version.model,
        version=version.version,
        objective_ms=objective_ms,
        concurrency=concurrency,
        sizes=sizes,
        inline=inline,
        now=now,
        now_rows=own_size.rows,
        place=place,
        rows=chosen.rows,
        gain=round(gain, 3),
        sentence=said,
    )


def _best(sizes: Sequence[Size]) -> Size:
    """The largest that is worth it against all smaller ones and keeps the objective; if none
    keeps it, the quickest of those that are worth it."""
    worth = [sizes[0]]
    for size in sizes[1:]:
        if size.requests_per_second >= GAIN * worth[-1].requests_per_second:
            worth.append(size)
    fitting = [size for size in worth if size.fits]
    return fitting[-1] if fitting else min(worth, key=lambda size: size.p95_ms)


def _inline(point: Point, objective_ms: float, clients: int) -> Size:
    call, p95 = REQUEST_S + point.median_s, REQUEST_S + point.p95_s
    return _made(point, 1 / call, clients * p95, objective_ms)


def _size(limit: Point, points: Sequence[Point], objective_ms: float, clients: int) -> Size:
    """When batches hold up to `limit.rows`: as many as queue, if that is less."""
    queued = max(1, min(limit.rows, (clients + 1) // 2))
    point = max((one for one in points if one.rows <= queued), key=lambda one: one.rows)
    rows = point.rows
    call = HOP_S + point.median_s + rows * REQUEST_S
    p95 = HOP_S + point.p95_s + rows * REQUEST_S
    return _made(limit, rows / call, clients / rows * p95, objective_ms)


def _made(point: Point, pace: float, p95_s: float, objective_ms: float) -> Size:
    return Size(
        rows=point.rows,
        call_us=round(point.median_s * 1e6, 1),
        call_p95_us=round(point.p95_s * 1e6, 1),
        row_us=round(point.median_s / point.rows * 1e6, 2),
        requests_per_second=round(pace, 1),
        p95_ms=round(p95_s * 1e3, 3),
        fits=p95_s * 1e3 <= objective_ms,
    )


class TuningService:
    def __init__(
        self,
        database: Database,
        registry: RegistryService,
        beside: Beside,
        worker_package: Path,
        workers: int,
    ) -> None:
        """workers: of a pool; clients spread over them."""
        self._database = database
        self._registry = registry
        self._beside = beside
        self._worker_package = worker_package
        self._workers = workers

    def tune(
        self,
        actor: Principal,
        model: str,
        version: str,
        *,
        objective_ms: float,
        concurrency: int,
        apply: bool,
    ) -> Tuning:
        """Measure (seconds), decide, keep; workers follow at once if it is applied.

        concurrency: clients of the endpoint, over all workers.
        """
        found = self._registry.get_version(actor, model, version)
        resource = Resource("version", found.name, found.owner_team)
        authorize(actor, Action.ROLLOUT if apply else Action.RUN_BATCH, resource)
        if not 0 < objective_ms < 1e7 or not 0 < concurrency <= 100_000:
            raise InvalidInput("The objective and the concurrency must be above 0.")
        program = self._beside.program(found, "modelfleet_worker.measure")
        measured = self._measure(program.argv)
        clients = -(-concurrency // self._workers)
        made = decide(found, measured, objective_ms, clients)
        made = msgspec.structs.replace(made, applied=apply, at=iso(now_us()))
        with self._database.begin() as connection:
            before = connection.execute(
                sa.select(tuning.c.applied).where(tuning.c.version_id == found.id)
            ).first()
            if not apply and before is not None and before.applied:
                return made  # what is applied stays what is kept
            connection.execute(sa.delete(tuning).where(tuning.c.version_id == found.id))
            connection.execute(
                sa.insert(tuning).values(
                    version_id=found.id,
                    evidence=msgspec.to_builtins(made),
                    applied=apply,
                    at=now_us(),
                )
            )
            details = {"place": made.place, "rows": made.rows, "gain": made.gain}
            action = "apply-tuning" if apply else "measure-version"
            audit.record(connection, actor, action, resource, details)
        return made

    def get(self, actor: Principal, model: str, version: str) -> Tuning:
        """The one that is applied, else the last one. Raises `NotFound`."""
        found = self._registry.get_version(actor, model, version)
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(tuning.c.evidence).where(tuning.c.version_id == found.id)
            ).first()
        if row is None:
            raise NotFound(
                f"{found.name} was never measured.", hint=f"Measure it: modelfleet tune {model}"
            )
        return msgspec.convert(row.evidence, Tuning)

    def reset(self, actor: Principal, model: str, version: str) -> None:
        """Let workers choose again. Raises `NotFound`."""
        found = self._registry.get_version(actor, model, version)
        resource = Resource("version", found.name, found.owner_team)
        authorize(actor, Action.ROLLOUT, resource)
        with self._database.begin() as connection:
            done = connection.execute(sa.delete(tuning).where(tuning.c.version_id == found.id))
            if not done.rowcount:
                raise NotFound(f"{found.name} was never measured.")
            audit.record(connection, actor, "reset-tuning", resource, {})

    def applied(self) -> Mapping[str, Choice]:
        """By version id."""
        query = sa.select(tuning.c.version_id, tuning.c.evidence).where(tuning.c.applied)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        found = {row.version_id: msgspec.convert(row.evidence, Tuning) for row in rows}
        return {
            one: Choice(0, True) if made.place == "inline" else Choice(made.rows, False)
            for one, made in found.items()
            if made.gain != 1.0
        }

    def _measure(self, argv: Sequence[str]) -> Measured:
        try:
            done = subprocess.run(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                cwd="/",
                env=environment(self._worker_package),
                timeout=_SECONDS,
            )
            found = msgspec.json.decode(done.stdout, type=Measured)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"Measuring took over {_SECONDS:g} s.") from error
        except msgspec.DecodeError as error:
            raise InvalidInput(
                f"The model took its process down (code {done.returncode})."
            ) from error
        if found.error or not found.points:
            raise InvalidInput(f"The model can't be measured: {found.error or 'it is too slow'}")
        return found
