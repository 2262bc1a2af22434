"""One round: rollouts decide, pools and gateway follow, monitors look, warm helpers are let go.

Of several control planes the leader does it; the others look after their own helpers alone.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import msgspec
import structlog

from modelfleet.core.courtesy import give_way
from modelfleet.core.database import fenced
from modelfleet.core.files import write_atomically
from modelfleet.core.layout import Layout
from modelfleet.core.membership import Membership
from modelfleet.reconcile.traffic import TrafficController
from modelfleet.registry import RegistryService
from modelfleet.rollouts.service import RolloutService
from modelfleet.rollouts.store import Row
from modelfleet.serving.endpoints import EndpointService
from modelfleet.telemetry.watch import Watch, WatchedPair

log = structlog.get_logger(__name__)
_LOOK_SECONDS = 1.0
"""How often the others look: monitors, and whoever lets warm helpers go."""


class Reconciler:
    """Runs in a thread of the control plane. `others` are run once a second, each on its own; so
    are `own`, also where another control plane leads, and `urgent` in every round. `let_go` is run
    when one has taken over."""

    def __init__(
        self,
        layout: Layout,
        registry: RegistryService,
        endpoints: EndpointService,
        rollouts: RolloutService,
        traffic: TrafficController,
        others: Sequence[Callable[[], None]],
        interval_seconds: float,
        *,
        urgent: Sequence[Callable[[], None]] = (),
        membership: Membership | None = None,
        own: Sequence[Callable[[], None]] = (),
        let_go: Callable[[], None] = lambda: None,
    ) -> None:
        self._layout = layout
        self._registry = registry
        self._endpoints = endpoints
        self._rollouts = rollouts
        self._traffic = traffic
        self._others = others
        self._interval = interval_seconds
        self._urgent = urgent
        self._membership = membership
        self._own = own
        self._let_go = let_go
        self._led_as = ""
        self._stop = threading.Event()
        self._due = threading.Event()
        self._thread: threading.Thread | None = None
        self._load_errors: Mapping[int, str] = {}
        self._watch = b""
        self._told = 0.0
        self.last_round = 0.0
        """monotonic seconds at which a round last ended well"""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="reconciler", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something changed that should not wait for the next round."""
        self._due.set()

    def stop(self) -> None:
        self._stop.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        looked = 0.0
        while not self._stop.is_set():
            self._due.clear()
            began = time.monotonic()
            due = began - looked >= _LOOK_SECONDS
            if due:
                looked = began
            if self._membership is None:
                self._lead(due)
            elif self._membership.leads:
                name = self._membership.id
                if self._led_as != name:
                    self._guarded(partial(self._take_over, name))
                if self._led_as == name:
                    with fenced(self._membership.check_lead):
                        self._lead(due)
            elif self._led_as:
                self._led_as = ""
                self._guarded(self._let_go)
            if due:
                for one in self._own:
                    self._guarded(one)
            took = time.monotonic() - began
            left = self._interval - took
            breath = max(min(took, left), 0.01)  # also if it is woken all the time
            self._stop.wait(breath)
            self._due.wait(max(left - breath, 0.0))

    def _take_over(self, name: str) -> None:
        """Another one may have led until now: what is on disk counts, not what we remember."""
        self._watch = b""
        self._traffic.take_over()
        self._led_as = name

    def _lead(self, due: bool) -> None:
        self._guarded(self._main)
        for other in (*self._urgent, *(self._others if due else ())):
            self._guarded(other)

    def _guarded(self, part: Callable[[], None]) -> None:
        """A part that fails must not stop the others, nor the next round."""
        try:
            part()
        except Exception as error:  # noqa: BLE001
            log.error("reconciler", error=str(error), trace=traceback.format_exc())
        give_way()

    def _main(self) -> None:
        self.round()
        now = time.monotonic()
        if now - self._told >= _LOOK_SECONDS:
            self._layout.reconciled.touch()  # for those who watch from outside
            self._told = now
        self.last_round = now

    def round(self) -> None:
        self._guarded(self._advance)
        rows, places = self._rollouts.active(), self._endpoints.all()
        self._write_watch(rows, {one.id for one in places if one.policy.sticky})
        self._load_errors = self._traffic.round(places, rows)

    def _advance(self) -> None:
        self._rollouts.advance(self._load_errors)

    def _write_watch(self, rows: Sequence[Row], sticky: Collection[str]) -> None:
        """Tell the collector which versions the judge looks at."""
        ids = {one for row in rows for one in row.version_ids}
        watched = self._rollouts.watched(rows, self._registry.versions_by_id(sorted(ids)), sticky)
        watch = Watch(
            versions=sorted({i for one in watched for i in (one.stable, one.canary)}),
            pairs=[WatchedPair(w.stable, w.canary, w.endpoint) for w in watched if w.mirrored],
            edges={str(one.canary): one.stable for one in watched},
            keys={str(i): w.scope for w in watched if w.scope for i in (w.stable, w.canary)},
        )
        content = msgspec.json.encode(watch)
        if content != self._watch:
            write_atomically(self._layout.watch, content)
            self._watch = content
