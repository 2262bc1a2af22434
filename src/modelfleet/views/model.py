"""One model: what it is, where it serves, how it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from modelfleet.core.audit import AuditEvent
from modelfleet.core.authorization import Action, Principal
from modelfleet.core.clock import now_us
from modelfleet.gates import GateRun, newest
from modelfleet.lineage import Edge, Node
from modelfleet.registry import Model, Variant, Version
from modelfleet.registry.collaboration.types import Comment, Person, Review
from modelfleet.rollouts.store import Rollout
from modelfleet.serving.compile import Conversion
from modelfleet.serving.endpoints import FULL, Endpoint
from modelfleet.telemetry.views import History, PredictionView, Total
from modelfleet.views.audit import events_of_model
from modelfleet.views.drift import DriftView, drift_view
from modelfleet.views.fleet import RouteView
from modelfleet.views.lineage import Picture, picture
from modelfleet.views.outcomes import OutcomesView, outcomes_view
from modelfleet.views.refusals import Refusals, refusals_of
from modelfleet.views.times import SPANS, fitting_span
from modelfleet.wiring import Fleet

_T = TypeVar("_T")
POINTS = 60
_VERSIONS = 30
_PREDICTIONS = 12


@dataclass(frozen=True)
class EndpointView:
    endpoint: Endpoint
    stable: str | None
    previous: str | None
    routes: tuple[RouteView, ...]
    applied: bool
    """the gateway runs these routes"""
    refusals: Refusals


@dataclass(frozen=True)
class VersionView:
    version: Version
    variants: Sequence[Variant]
    gates: Sequence[GateRun]
    """the last run of each, without evidence"""
    requests: int
    errors: int
    share: float | None
    """of live traffic at some endpoint; None if it isn't routed"""
    conversion: Conversion | None
    """how source and compiled compared; None if that was not measured"""


@dataclass(frozen=True)
class ModelView:
    model: Model
    endpoints: tuple[EndpointView, ...]
    versions: tuple[VersionView, ...]
    """the newest ones"""
    chosen: Version | None
    """the version whose drift, outcomes and predictions are shown"""
    span: str
    history: History
    alerts: int
    rollouts: Sequence[Rollout]
    drift: DriftView
    outcomes: OutcomesView
    predictions: Sequence[PredictionView] | None
    """None if one may not see them"""
    upstream: Sequence[Edge]
    downstream: Sequence[Edge]
    lineage: Picture | None
    """None if nothing is known of where the chosen version comes from or who uses it"""
    events: Sequence[AuditEvent] | None
    """None if one may not see them"""
    owners: Sequence[Person]
    watchers: Sequence[Person]
    comments: Sequence[Comment]
    """on the chosen version"""
    reviews: Sequence[Review]
    """of the chosen version"""

    @property
    def state(self) -> str:
        if any(one.ended_at is None for one in self.rollouts):
            return "rolling-out"
        if not any(place.routes for place in self.endpoints):
            return "waiting"
        return "alarm" if self.alerts else "serving"


def model_view(
    fleet: Fleet, principal: Principal, name: str, *, version: str = "", span: str = ""
) -> ModelView:
    """`version` chooses one (else the stable one, else the newest), `span` is one of SPANS."""
    model = fleet.registry.get_model(principal, name)
    versions = fleet.registry.list_versions(principal, name, limit=_VERSIONS)
    by_id = {one.id: one for one in versions}
    places = [one for one in fleet.endpoints.list(principal) if one.model == model.name]
    _add_routed(fleet, by_id, places)
    chosen = _choose(fleet, principal, model, versions, places, by_id, version)
    totals = fleet.evidence.totals()
    endpoints = tuple(_endpoint(fleet, place, by_id, totals) for place in places)
    now = now_us()
    span = span if span in SPANS else fitting_span(fleet.evidence.first_window(), now)
    indexes = sorted(one.index for one in by_id.values())
    start = now - SPANS[span]
    history = fleet.evidence.history(indexes, start, SPANS[span] // POINTS // 1_000_000, now)
    names = [place.name for place in places]
    rollouts = [r for n in names for r in fleet.rollouts.list(principal, endpoint=n, limit=10)]
    alerts = fleet.monitoring.open_counts(principal)
    node = Node("version", chosen.name) if chosen else None
    upstream = fleet.lineage.upstream(node) if node else []
    downstream = _downstream(fleet, model, node)
    return ModelView(
        model=model,
        endpoints=endpoints,
        versions=_versions(fleet, versions, places, totals),
        chosen=chosen,
        span=span,
        history=history,
        alerts=sum(alerts.get(n, 0) for n in names),
        rollouts=sorted(rollouts, key=lambda one: one.started_at, reverse=True)[:10],
        drift=drift_view(fleet, principal, chosen, names),
        outcomes=outcomes_view(fleet, chosen, start, now),
        predictions=_predictions(fleet, principal, chosen),
        upstream=upstream,
        downstream=downstream,
        lineage=_picture(node, upstream, downstream),
        events=events_of_model(fleet, principal, model.owner_team, model.name, names),
        owners=fleet.registry.owners(principal, model.name),
        watchers=fleet.registry.watchers(principal, model.name),
        comments=_said(fleet.registry.comments, principal, chosen),
        reviews=_said(fleet.registry.reviews, principal, chosen),
    )


def _add_routed(fleet: Fleet, by_id: dict[str, Version], places: Sequence[Endpoint]) -> None:
    """Versions that serve may be older than those that are listed."""
    wanted = {route.version_id for place in places for route in place.routes}
    wanted |= {
        one
        for place in places
        for one in (place.stable_version_id, place.previous_version_id)
        if one is not None
    }
    by_id |= fleet.registry.versions_by_id(sorted(wanted - set(by_id)))


def _choose(
    fleet: Fleet,
    principal: Principal,
    model: Model,
    versions: Sequence[Version],
    places: Sequence[Endpoint],
    by_id: Mapping[str, Version],
    wanted: str,
) -> Version | None:
    if wanted:
        return fleet.registry.get_version(principal, model.name, wanted)
    for place in places:
        if (stable := by_id.get(place.stable_version_id or "")) is not None:
            return stable
    return versions[0] if versions else None


def _endpoint(
    fleet: Fleet, place: Endpoint, versions: Mapping[str, Version], totals: Mapping[int, Total]
) -> EndpointView:
    routes = []
    for route in place.routes:
        version = versions[route.version_id]
        total = totals.get(version.index)
        routes.append(
            RouteView(
                version=version.version,
                index=version.index,
                weight=route.weight / FULL,
                shadow=route.shadow / FULL,
                serving=version.serving,
                requests=total.requests if total else 0,
                errors=total.errors if total else 0,
            )
        )
    stable = versions.get(place.stable_version_id or "")
    previous = versions.get(place.previous_version_id or "")
    return EndpointView(
        endpoint=place,
        stable=stable.version if stable else None,
        previous=previous.version if previous else None,
        routes=tuple(routes),
        applied=place.applied_revision >= place.revision,
        refusals=refusals_of(fleet, place.name),
    )


def _versions(
    fleet: Fleet,
    versions: Sequence[Version],
    places: Sequence[Endpoint],
    totals: Mapping[int, Total],
) -> tuple[VersionView, ...]:
    variants = fleet.registry.variants([one.id for one in versions])
    gates = newest(fleet.database, [one.id for one in versions])
    shares: dict[str, float] = {}
    for place in places:
        for route in place.routes:
            shares[route.version_id] = max(shares.get(route.version_id, 0.0), route.weight / FULL)
    return tuple(
        VersionView(
            version=one,
            variants=variants.get(one.id, ()),
            gates=gates[one.id],
            requests=totals[one.index].requests if one.index in totals else 0,
            errors=totals[one.index].errors if one.index in totals else 0,
            share=shares.get(one.id),
            conversion=next((Conversion.of(v.evidence) for v in variants.get(one.id, ())), None),
        )
        for one in versions
    )


def _predictions(
    fleet: Fleet, principal: Principal, chosen: Version | None
) -> Sequence[PredictionView] | None:
    if chosen is None:
        return ()
    if not principal.may(Action.READ_PAYLOADS, chosen.owner_team):
        return None
    found = fleet.evidence.recent_predictions(chosen.index, _PREDICTIONS)
    names = fleet.identity.names({one.caller for one in found})
    return [replace(one, caller=names.get(one.caller, one.caller)) for one in found]


def _picture(
    node: Node | None, upstream: Sequence[Edge], downstream: Sequence[Edge]
) -> Picture | None:
    """Who uses the model is drawn as using the chosen version: that is the one they get."""
    if node is None or not (upstream or downstream):
        return None
    return picture(node, upstream, [replace(edge, source=node) for edge in downstream])


def _downstream(fleet: Fleet, model: Model, chosen: Node | None) -> list[Edge]:
    """Who uses the model, and who the chosen version without using the model."""
    found: dict[Node, Edge] = {}
    for node in (Node("model", model.name), chosen):
        for edge in fleet.lineage.around(node) if node else ():
            if edge.source == node:
                found.setdefault(edge.destination, edge)
    return list(found.values())


def _said(
    ask: Callable[[Principal, str, str], list[_T]], principal: Principal, chosen: Version | None
) -> list[_T]:
    return ask(principal, chosen.model, str(chosen.sequence)) if chosen else []
