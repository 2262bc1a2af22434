"""Where a model stands between development and production, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet.core.authorization import Action, Principal
from modelfleet.core.errors import NotFound
from modelfleet.delivery.training.store import Training
from modelfleet.gates.requests import GateRequest
from modelfleet.monitoring import AlertInfo
from modelfleet.registry import Model, Version
from modelfleet.rollouts.store import Rollout
from modelfleet.views.rollout import ApprovalView, approval_view
from modelfleet.wiring import Fleet

_SHOWN = 10


@dataclass(frozen=True)
class Stage:
    """One of develop, test, deploy and monitor."""

    name: str
    state: str
    """done, now, waiting, stopped, alarm or next"""
    title: str
    note: str
    link: str = ""


@dataclass(frozen=True)
class DeliveryView:
    model: Model
    candidate: Version | None
    """the newest version"""
    serving: Version | None
    stages: tuple[Stage, ...]
    waits: tuple[str, ...]
    """what it waits for, in sentences; empty if for nothing"""
    questions: tuple[ApprovalView, ...]
    trainings: Sequence[Training]
    may_train: bool
    """there is a plan, nothing runs, and one may"""
    requests: Sequence[GateRequest]
    rollouts: Sequence[Rollout]
    alerts: Sequence[AlertInfo]


def delivery_view(fleet: Fleet, principal: Principal, name: str) -> DeliveryView:
    model = fleet.registry.get_model(principal, name)
    versions = fleet.registry.list_versions(principal, name, limit=1)
    candidate = versions[0] if versions else None
    places = [one for one in fleet.endpoints.list(principal) if one.model == name]
    ids = [one.stable_version_id for one in places if one.stable_version_id]
    serving = next(iter(fleet.registry.versions_by_id(ids[:1]).values()), None)
    rollouts = [
        one
        for place in places
        for one in fleet.rollouts.list(principal, endpoint=place.name, limit=_SHOWN)
    ]
    rollouts.sort(key=lambda one: one.started_at, reverse=True)
    alerts = [
        one
        for place in places
        for one in fleet.monitoring.list_alerts(principal, open_only=True, endpoint=place.name)
    ]
    trainings = fleet.training.list(principal, name, _SHOWN)
    requests = fleet.gates.requests(principal, name, candidate.version) if candidate else []
    questions = _questions(fleet, principal, rollouts, requests)
    stages = (
        _develop(candidate, trainings),
        _test(name, candidate, serving, requests),
        _deploy(candidate, serving, rollouts),
        _monitor(name, serving, alerts),
    )
    return DeliveryView(
        model=model,
        candidate=candidate,
        serving=serving,
        stages=stages,
        waits=_waits(candidate, trainings, requests, rollouts, questions),
        questions=questions,
        trainings=trainings,
        may_train=_may_train(fleet, principal, model, trainings),
        requests=requests[:_SHOWN],
        rollouts=rollouts[:_SHOWN],
        alerts=alerts,
    )


def _questions(
    fleet: Fleet,
    principal: Principal,
    rollouts: Sequence[Rollout],
    requests: Sequence[GateRequest],
) -> tuple[ApprovalView, ...]:
    starts = [f"rollout/{one.id}/" for one in rollouts if one.ended_at is None]
    starts += [f"gate/{one.id}/" for one in requests if not one.ended]
    found = [
        one
        for start in starts
        for one in fleet.approvals.list(principal, state="waiting", subject=start)
    ]
    return tuple(approval_view(one, principal) for one in found)


def _may_train(
    fleet: Fleet, principal: Principal, model: Model, trainings: Sequence[Training]
) -> bool:
    if any(not one.is_over for one in trainings):
        return False
    if not principal.may(Action.REGISTER, model.owner_team):
        return False
    try:
        fleet.training.plan_of(model.name)
    except NotFound:
        return False
    return True


# The four stages: pure ---------------------------------------------------------------------------


def _develop(candidate: Version | None, trainings: Sequence[Training]) -> Stage:
    running = next((one for one in trainings if not one.is_over), None)
    if running is not None and running.version is None:
        return Stage("develop", "now", "Training", running.sentence)
    if candidate is None:
        return Stage("develop", "next", "No version yet", "Register one, or train it.")
    if candidate.status == "failed":
        return Stage("develop", "stopped", candidate.version, candidate.reason)
    if candidate.status != "ready":
        return Stage("develop", "now", candidate.version, f"It is {candidate.status}.")
    return Stage("develop", "done", candidate.version, f"by {candidate.created_by}")


def _test(
    model: str, candidate: Version | None, serving: Version | None, requests: Sequence[GateRequest]
) -> Stage:
    if candidate is None or candidate.status != "ready":
        return Stage("test", "next", "Gates", "Nothing to test yet.")
    link = f"/models/{model}/versions/{candidate.version}/gates"
    if not requests:
        tested = serving is not None and serving.id == candidate.id
        note = "It serves without gates." if tested else "Nobody asked for gates."
        return Stage("test", "done" if tested else "next", "No gates", note, link)
    newest = requests[0]
    counted = [one.run.verdict.value for one in newest.gates if one.run]
    words = [one for one in ("pass", "warn", "fail", "inconclusive") if one in counted]
    told = ", ".join(f"{counted.count(one)} {one}" for one in words)
    states = {"running": "now", "fail": "stopped", "inconclusive": "waiting"}
    open_ones = [one for one in newest.gates if one.run is None]
    note = ", ".join(filter(None, (told, f"{len(open_ones)} to come" if open_ones else "")))
    return Stage("test", states.get(newest.verdict, "done"), newest.verdict, note, link)


def _deploy(
    candidate: Version | None, serving: Version | None, rollouts: Sequence[Rollout]
) -> Stage:
    running = next((one for one in rollouts if one.ended_at is None), None)
    if running is not None:
        waits = running.state in ("paused", "frozen", "awaiting_approval", "gating", "pending")
        title = running.state.replace("_", " ")
        link = f"/rollouts/{running.id}"
        return Stage("deploy", "waiting" if waits else "now", title, running.sentence, link)
    if serving is None:
        return Stage("deploy", "next", "Nowhere", "It serves nothing yet.")
    last = rollouts[0] if rollouts else None
    link = f"/rollouts/{last.id}" if last else ""
    if candidate is not None and candidate.id != serving.id:
        back = last is not None and last.to_version == candidate.version
        if back and last is not None and last.state != "succeeded":
            return Stage("deploy", "stopped", last.state.replace("_", " "), last.sentence, link)
        note = f"{candidate.version} is not rolled out."
        return Stage("deploy", "next", f"{serving.version} serves", note, link)
    return Stage("deploy", "done", f"{serving.version} serves", "", link)


def _monitor(model: str, serving: Version | None, alerts: Sequence[AlertInfo]) -> Stage:
    link = f"/alerts?q={model}"
    if serving is None:
        return Stage("monitor", "next", "Nothing to watch", "")
    if alerts:
        title = f"{len(alerts)} open {'alert' if len(alerts) == 1 else 'alerts'}"
        return Stage("monitor", "alarm", title, alerts[0].summary, link)
    return Stage("monitor", "done", "Calm", "No alert is open.", link)


def _waits(
    candidate: Version | None,
    trainings: Sequence[Training],
    requests: Sequence[GateRequest],
    rollouts: Sequence[Rollout],
    questions: Sequence[ApprovalView],
) -> tuple[str, ...]:
    found = []
    running = next((one for one in trainings if not one.is_over), None)
    if running is not None:
        found.append(f"Training ({running.cause.kind}): {running.sentence}")
    if candidate is not None and candidate.status == "pending":
        found.append(f"{candidate.version} is being checked and compiled.")
    if requests and not requests[0].ended:
        open_ones = [one.gate for one in requests[0].gates if one.run is None]
        found.append(f"Gates: {', '.join(open_ones)}.")
    for one in rollouts:
        if one.ended_at is None:
            found.append(f"Rollout of {one.to_version}: {one.waits or one.sentence}")
    for asked in questions:
        who = f"{asked.approval.quorum} {asked.approval.role}"
        found.append(f"The approval of {who}: {asked.approval.sentence}")
    return tuple(dict.fromkeys(found))
