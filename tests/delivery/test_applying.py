"""Plans and their carrying out, over the real rooms."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from modelfleet.core import audit
from modelfleet.core.authorization import Grant, Principal, Resource, Role
from modelfleet.core.errors import FleetError, InvalidInput, NotAllowed, Referenced
from modelfleet.delivery.apply import Signed
from modelfleet.delivery.types import ObjectPlan, Order, Plan, Result
from modelfleet.lineage import Node
from modelfleet.wiring import Fleet
from people import ADMIN
from registrar import Registrar

SIGNED = Signed("shop", "", "c0ffee", "p1")
Document = dict[str, Any]


def document(name: str = "churn", **sections: Any) -> Document:
    metadata = {"name": name, "owner": "growth", **sections.pop("metadata", {})}
    head = {"apiVersion": "modelfleet.dev/v1", "kind": "Model", "metadata": metadata}
    return head | {key.rstrip("_"): value for key, value in sections.items()}


def plan(fleet: Fleet, *documents: Document, **options: Any) -> Plan:
    return fleet.files.plan(ADMIN, "shop", list(documents), **options)


def one(fleet: Fleet, doc: Document, **options: Any) -> ObjectPlan:
    [found] = plan(fleet, doc, **options).objects
    return found


def apply(
    fleet: Fleet, *documents: Document, who: Principal = ADMIN, **options: Any
) -> list[Result]:
    return fleet.files.apply(who, SIGNED, [Order(d) for d in documents], **options)


def fields(found: ObjectPlan) -> list[str]:
    return [f"{c.op} {c.path}" for c in found.changes]


RICH = document(
    metadata={
        "description": "who leaves",
        "function": "retention",
        "tier": "high",
        "tags": {"a": "1"},
    },
    source={"version": "^1.0"},
    consumers=[{"app": "crm"}],
    serve={"isolation": "team", "timeout": "200ms"},
    endpoint={
        "sticky": "header:x-user",
        "rate_limit": {"requests": 10, "per": "60s"},
        "priority": "low",
    },
    scale={"min": 1, "max": 4},
    gates=["signature", {"latency": {"p95": "30ms"}}],
    rollout={
        "strategy": "canary",
        "steps": [{"weight": "5%", "for": "15m"}, {"weight": "100%", "bake": "1h"}],
        "on_inconclusive": {"after": "4h", "do": "hold"},
    },
    budget={"monthly": "300 EUR"},
)


def test_a_document_becomes_a_model_an_endpoint_and_a_rollout_and_then_nothing(
    fleet: Fleet, registrar: Registrar
) -> None:
    assert one(fleet, RICH).action == "create"
    assert one(fleet, RICH).version.state == "missing"
    [made] = apply(fleet, RICH)
    assert (made.outcome, made.generation, made.rollout) == ("created", 1, None)
    model = fleet.registry.get_model(ADMIN, "churn")
    assert (model.description, model.criticality, model.isolation) == ("who leaves", "high", "team")
    traffic = fleet.endpoints.get(ADMIN, "churn").traffic
    assert (traffic.sticky.name, traffic.timeout_ms, traffic.priority) == ("x-user", 200, "low")
    around = fleet.lineage.around(Node("model", "churn"))
    assert Node("application", "crm") in {edge.destination for edge in around}
    assert one(fleet, RICH).action == "none"

    version = registrar.ready()
    planned = one(fleet, RICH)
    assert planned.action == "update"
    assert planned.version.after == version.version
    assert any("roll out 1.0.0" in step for step in planned.steps)
    [rolled] = apply(fleet, RICH)
    assert rolled.rollout is not None
    started = fleet.rollouts.get(ADMIN, rolled.rollout).rollout
    assert started.to_version == "1.0.0"
    assert [step.weight for step in started.spec.plan] == [500]
    assert started.spec.bake == 3600.0
    again = one(fleet, RICH)
    assert (again.action, again.version.state) == ("none", "running")
    [found] = fleet.files.applied(ADMIN)
    assert (found.generation, found.commit, found.actor) == (2, "c0ffee", ADMIN.name)
    assert found.resolved["version"] == "1.0.0"
    assert fields(again) == []


def test_drift_is_named_and_taken_back(fleet: Fleet) -> None:
    apply(fleet, RICH)
    fleet.registry.update_model(
        ADMIN, "churn", description="somebody else", tags={"a": "1", "b": "2"}
    )
    fleet.endpoints.set_traffic(ADMIN, "churn", {"timeout_ms": 900})
    found = one(fleet, RICH)
    assert {(c.path, c.before, c.after, c.cause) for c in found.changes} == {
        ("metadata.description", "somebody else", "who leaves", "drift"),
        ("serve.timeout", 0.9, 0.2, "drift"),
    }
    [standing] = fleet.files.standings(ADMIN)
    assert standing.state == "drift"
    assert "metadata.description, serve.timeout" in standing.sentence
    changed = {**RICH, "metadata": {**RICH["metadata"], "description": "third"}}
    causes = {c.path: c.cause for c in one(fleet, changed).changes}
    assert causes["metadata.description"] == "both"
    apply(fleet, RICH)
    assert fleet.registry.get_model(ADMIN, "churn").tags == {"a": "1", "b": "2"}, "b is not ours"
    assert fleet.endpoints.get(ADMIN, "churn").traffic.timeout_ms == 200
    assert one(fleet, RICH).action == "none"


def test_what_a_file_no_longer_names_goes_back_to_its_default(fleet: Fleet) -> None:
    apply(fleet, RICH)
    bare = document(metadata={"tier": "high"}, endpoint={})
    found = one(fleet, bare)
    assert "- serve.timeout" in fields(found)
    assert "- metadata.tags.a" in fields(found)
    assert "- consumers.app crm" in fields(found)
    apply(fleet, bare)
    model, place = fleet.registry.get_model(ADMIN, "churn"), fleet.endpoints.get(ADMIN, "churn")
    assert (model.description, model.isolation, dict(model.tags)) == ("", "shared", {})
    assert model.criticality == "high"
    assert (place.traffic.sticky, place.traffic.timeout_ms, place.traffic.rate_limit) == (
        None, None, None,
    )  # fmt: skip
    assert fleet.lineage.downstream(Node("application", "crm")) == []
    assert one(fleet, bare).action == "none"


def test_a_stale_plan_is_refused_with_who_applied_what(
    fleet: Fleet, people: Callable[[Role, str], Principal]
) -> None:
    shown = one(fleet, RICH)
    other = {**RICH, "metadata": {**RICH["metadata"], "description": "bob's"}}
    bob = Principal("bob", "bob", (Grant(Role.ADMIN),))
    fleet.files.apply(bob, Signed("shop", "", "beef", "p2"), [Order(other)])
    [found] = fleet.files.apply(ADMIN, SIGNED, [Order(RICH, shown.fingerprint)])
    assert (found.outcome, found.status) == ("conflict", 409)
    assert "bob applied generation 1" in found.message
    assert "beef" in found.message
    assert fleet.registry.get_model(ADMIN, "churn").description == "bob's"


def test_two_apply_the_same_plan_at_once_and_one_hears_of_the_other(fleet: Fleet) -> None:
    apply(fleet, document())
    docs = [document(metadata={"description": text}) for text in ("one", "two")]
    prints = [one(fleet, doc).fingerprint for doc in docs]
    results: list[Result] = []
    start = threading.Barrier(2)

    def go(number: int) -> None:
        start.wait()
        signed = Signed("shop", "", "", f"plan{number}")
        results.extend(fleet.files.apply(ADMIN, signed, [Order(docs[number], prints[number])]))

    threads = [threading.Thread(target=go, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r.outcome for r in results) == ["conflict", "updated"]
    [record] = fleet.files.applied(ADMIN)
    said = fleet.registry.get_model(ADMIN, "churn").description
    assert record.document["metadata"]["description"] == said
    assert record.generation == 2


def test_a_plan_that_was_half_applied_goes_on(fleet: Fleet) -> None:
    docs = [document(f"m{n}") for n in range(4)]
    made = plan(fleet, *docs)
    signed = Signed("shop", "", "", made.id)
    orders = [
        Order(next(d for d in docs if d["metadata"]["name"] == p.name), p.fingerprint)
        for p in made.objects
    ]
    fleet.files.apply(ADMIN, signed, orders[:2])
    done = fleet.files.apply(ADMIN, signed, orders)
    assert [r.outcome for r in done] == ["unchanged", "unchanged", "created", "created"]


def test_an_object_that_fails_leaves_nothing_behind(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(audit.events(fleet.database, limit=1000))

    def broken(*_: object, **__: object) -> None:
        raise FleetError("the disk is on fire")

    monkeypatch.setattr(fleet.endpoints, "set_traffic", broken)
    good = document("other")
    results = apply(fleet, RICH, good)
    assert [r.outcome for r in results] == ["refused", "created"]
    with pytest.raises(FleetError):
        fleet.registry.get_model(ADMIN, "churn")
    assert [o.name for o in fleet.files.applied(ADMIN)] == ["other"]
    told = audit.events(fleet.database, resource=Resource("model", "churn"))
    assert told == []
    assert len(audit.events(fleet.database, limit=1000)) > before
    monkeypatch.undo()
    assert apply(fleet, RICH)[0].outcome == "created"


def test_a_version_that_was_rolled_back_is_not_tried_again_by_itself(
    fleet: Fleet, registrar: Registrar
) -> None:
    doc = document(source={"version": "latest"}, rollout={"strategy": "immediate"})
    apply(fleet, doc)
    registrar.ready()
    [result] = apply(fleet, doc)
    fleet.rollouts.abort(ADMIN, result.rollout)
    fleet.rollouts.advance({})
    assert fleet.rollouts.get(ADMIN, result.rollout).rollout.state == "cancelled"
    found = one(fleet, doc)
    assert (found.action, found.version.state) == ("none", "held")
    assert "--retry" in found.version.sentence
    assert one(fleet, doc, retry=True).version.state == "rollout"
    other = {**doc, "rollout": {"strategy": "blue-green"}}
    assert one(fleet, other).version.state == "rollout", "the file changed: it may try again"
    assert apply(fleet, doc, retry=True)[0].rollout not in (None, result.rollout)


def test_another_rollout_blocks_but_is_not_disturbed(fleet: Fleet, registrar: Registrar) -> None:
    doc = document(source={"version": "latest"})
    apply(fleet, doc)
    registrar.ready()
    first = apply(fleet, doc)[0]
    registrar.ready()
    found = one(fleet, doc)
    assert found.version.state == "blocked"
    assert first.rollout in found.version.sentence
    [result] = apply(fleet, doc)
    assert (result.outcome, result.rollout) == ("unchanged", None)


def test_no_rollout_only_records(fleet: Fleet, registrar: Registrar) -> None:
    doc = document(source={"version": "latest"})
    apply(fleet, doc)
    registrar.ready()
    [result] = apply(fleet, doc, rollouts=False)
    assert result.rollout is None
    assert fleet.rollouts.active() == []
    assert one(fleet, doc).version.state == "rollout"


@pytest.mark.parametrize(
    ("doc", "path"),
    [
        (document(uses=[{"model": "nobody"}]), "uses[0].model"),
        (document(consumers=[{"model": "nobody"}]), "consumers[0].model"),
        (document(source={"version": "^^1"}), "source.version"),
        (document(source={"registry": "models:/other", "version": "1"}), "source.registry"),
        (document(uses=[{"model": "churn", "version": "~x"}]), "uses[0].version"),
        (document(rollout={"steps": [{"weight": "0.001%"}, {"weight": "100%"}]}), "rollout"),
    ],
)
def test_what_only_the_platform_knows_is_told_with_its_path(
    fleet: Fleet, doc: Document, path: str
) -> None:
    assert path in {trouble.path for trouble in plan(fleet, doc).troubles}


def test_circles_through_what_was_applied_before_are_found(fleet: Fleet) -> None:
    apply(fleet, document("a"), document("b", uses=[{"model": "a"}]))
    found = plan(fleet, document("a", uses=[{"model": "b"}])).troubles
    assert "circle" in found[0].message


def test_a_document_says_all_that_a_rollout_can_do(fleet: Fleet, registrar: Registrar) -> None:
    steps = [
        {"preview": {"header": "x-beta", "equals": "1"}, "for": "1h"},
        {"shadow": "100%", "for": "30m"},
        {"weight": "5%", "for": "15m"},
        {"approve": {"role": "approver", "quorum": 2}},
        {"weight": "100%", "bake": "24h"},
    ]
    rollout = {
        "steps": steps,
        "sticky": "header:x-user",
        "on_fail": "alert",
        "on_inconclusive": {"after": "4h", "do": "ask"},
        "freeze": [{"cron": "0 0 * * 6", "lasts": "48h", "reason": "weekend"}],
        "analysis": {
            "scores": {"max_change": 0.1},
            "labels": {"metric": "precision", "noninferior": "1pp", "delay": "7d"},
        },
    }
    doc = document(
        source={"version": "latest"},
        rollout=rollout,
        approvals={"role": "admin"},
        gates=["signature", {"latency": {"p95": "30ms"}}],
    )
    apply(fleet, doc)
    registrar.ready()
    [result] = apply(fleet, doc)
    spec = fleet.rollouts.get(ADMIN, result.rollout).rollout.spec
    kinds = [one.kind.value for one in spec.plan]
    assert kinds == ["approve", "preview", "shadow", "weight", "approve"]
    assert (spec.bake, spec.strategy.value) == (86_400.0, "canary")
    assert (spec.plan[0].approve.role, spec.plan[-1].approve.quorum) == ("admin", 2)
    assert spec.sticky is not None
    assert spec.sticky.name == "x-user"
    assert (spec.on_fail, spec.on_inconclusive) == ("alert", "ask")
    assert spec.freeze[0].seconds == 48 * 3600
    assert (spec.analysis.outcomes, spec.analysis.outcomes_max_increase) == ("precision", 0.01)
    assert spec.analysis.scores_max_change == 0.1
    assert [list(one) for one in spec.gates] == [["signature"], ["latency"]]
    assert spec.gates[1]["latency"] == {"p95": 0.03}


def test_several_arms_and_a_bandit(fleet: Fleet, registrar: Registrar) -> None:
    rollout = {
        "strategy": "bandit",
        "arms": [{"version": "2", "weight": "30%"}, {"version": "3", "weight": "30%"}],
        "bandit": {"reward": "success", "every": "1m", "floor": "10%"},
        "on_inconclusive": {"after": "1h", "do": "hold"},
    }
    from modelfleet.delivery.specs import spec_of
    from modelfleet.fleetfile.documents import ModelDocument

    spec = spec_of(ModelDocument.model_validate(document(rollout=rollout)))
    assert spec.strategy.value == "ab"
    assert [(one.version, one.weight) for one in spec.arms] == [("2", 3000), ("3", 3000)]
    assert spec.bandit is not None
    assert (spec.bandit.floor, spec.bandit.every_seconds) == (1000, 60.0)


def test_pruning_looks_at_its_own_fleet_and_at_what_others_use(fleet: Fleet) -> None:
    base, user = document("base"), document("user", uses=[{"model": "base"}])
    apply(fleet, base, user)
    fleet.files.apply(ADMIN, Signed("other", "", "", ""), [Order(document("foreign"))])
    found = plan(fleet, user, prune=True)
    gone = [o for o in found.objects if o.action == "delete"]
    assert [o.name for o in gone] == ["base"]
    assert "used by user" in gone[0].warnings[0]
    [result] = fleet.files.remove(ADMIN, SIGNED, [("Model", "base")], {})
    assert result.outcome == "refused"
    assert "user" in result.message
    both = fleet.files.remove(ADMIN, SIGNED, [("Model", "base"), ("Model", "user")], {})
    assert [(r.name, r.outcome) for r in both] == [("user", "removed"), ("base", "removed")]
    assert [o.name for o in fleet.files.applied(ADMIN)] == ["foreign"]
    assert {m.name for m in fleet.registry.list_models(ADMIN)} == {"foreign"}


def test_another_fleet_takes_over_only_when_it_says_so(fleet: Fleet) -> None:
    apply(fleet, document())
    [found] = fleet.files.plan(ADMIN, "other", [document()]).objects
    assert (found.action, found.steps) == ("update", ("take it over from the fleet shop",))
    signed = Signed("other", "", "", "")
    assert fleet.files.apply(ADMIN, signed, [Order(document())])[0].outcome == "updated"
    assert [o.fleet for o in fleet.files.applied(ADMIN)] == ["other"]
    assert one(fleet, document()).action == "update", "and the first one hears of it"


def test_removal_keeps_versions_and_refuses_a_running_rollout(
    fleet: Fleet, registrar: Registrar
) -> None:
    doc = document(source={"version": "latest"})
    apply(fleet, doc)
    registrar.ready()
    apply(fleet, doc)
    [result] = fleet.files.remove(ADMIN, SIGNED, [("Model", "churn")], {})
    assert result.outcome == "refused"
    assert "rollouts abort" in result.hint
    fleet.rollouts.abort(ADMIN, fleet.rollouts.active()[0].id)
    fleet.rollouts.advance({})
    planned = {("Model", "churn"): 1}
    [result] = fleet.files.remove(ADMIN, SIGNED, [("Model", "churn")], planned)
    assert result.outcome == "conflict", "generation 2 was applied meanwhile"
    [result] = fleet.files.remove(ADMIN, SIGNED, [("Model", "churn")], {})
    assert result.outcome == "removed"
    assert fleet.registry.get_version(ADMIN, "churn", "1").version == "1.0.0"


def exported(fleet: Fleet, *names: str) -> list[Document]:
    return [found["document"] for found in fleet.files.export(ADMIN, names)]


def serve(fleet: Fleet, name: str) -> None:
    """As if its newest rollout had gone through."""
    from modelfleet.serving.endpoints import Route

    row = next(r for r in fleet.rollouts.active() if r.endpoint == name)
    with fleet.database.begin() as connection:
        fleet.endpoints.set_routes(
            connection, row.endpoint_id, [Route(row.to_version_id, 10_000)],
            stable_version_id=row.to_version_id,
        )  # fmt: skip
        from modelfleet.rollouts import store

        store.update(connection, row, state="succeeded", ended_at=1)


def test_exported_files_have_nothing_to_do(fleet: Fleet, registrar: Registrar) -> None:
    apply(fleet, RICH)
    registrar.ready()
    apply(fleet, RICH)
    serve(fleet, "churn")
    registrar.model("byhand", team="risk")
    registrar.ready("byhand", version="2.0.0")
    fleet.endpoints.create(ADMIN, "public-name", "byhand")
    fleet.endpoints.set_traffic(ADMIN, "public-name", {"sticky": {"by": "caller"}})
    documents = exported(fleet)
    assert {d["metadata"]["name"] for d in documents} == {"churn", "byhand"}
    found = plan(fleet, *documents)
    assert [(o.name, o.action, fields(o)) for o in found.objects] == [
        ("byhand", "record", []),
        ("churn", "none", []),
    ]
    [byhand] = exported(fleet, "byhand")
    assert byhand["endpoint"] == {"name": "public-name", "sticky": "caller"}
    results = apply(fleet, *documents)
    assert [r.outcome for r in results] == ["unchanged", "recorded"] or {
        r.outcome for r in results
    } == {"recorded", "unchanged"}
    assert all(o.action == "none" for o in plan(fleet, *documents).objects)


def test_export_says_what_drifted(fleet: Fleet, registrar: Registrar) -> None:
    apply(fleet, RICH)
    fleet.registry.update_model(ADMIN, "churn", description="by hand")
    fleet.endpoints.set_traffic(ADMIN, "churn", {"sticky": None})
    [found] = exported(fleet, "churn")
    assert found["metadata"]["description"] == "by hand"
    assert found["endpoint"].get("sticky", "none") == "none"
    assert found["scale"] == {"min": 1, "max": 4}
    assert [c.path for c in one(fleet, found).changes if not c.recorded_only] == []


@pytest.mark.parametrize("bad", [None, [], "x", {"kind": "Fleet"}, {"kind": "Model"}, {"kind": {}}])
def test_what_is_no_document_is_refused(fleet: Fleet, bad: object) -> None:
    with pytest.raises(InvalidInput):
        fleet.files.plan(ADMIN, "shop", [bad])
    with pytest.raises(InvalidInput):
        fleet.files.apply(ADMIN, SIGNED, [Order(bad)])


def test_who_may(fleet: Fleet, people: Callable[[Role, str], Principal]) -> None:
    stranger = people(Role.ADMIN, "risk")
    with pytest.raises(NotAllowed):
        fleet.files.plan(stranger, "shop", [RICH])
    scientist = people(Role.DATA_SCIENTIST, "growth")
    refused, made = apply(fleet, RICH, document("other"), who=scientist)
    assert (refused.outcome, refused.status) == ("refused", 403), "an endpoint takes a deployer"
    assert made.outcome == "created"
    apply(fleet, document(), who=scientist)
    with pytest.raises(NotAllowed):  # a plan tells what is there of other teams
        apply(fleet, document(metadata={"owner": "risk"}), who=stranger)
    with pytest.raises(NotAllowed):
        fleet.files.remove(scientist, SIGNED, [("Model", "churn")], {})
    assert fleet.files.applied(stranger) == []
    assert fleet.files.export(stranger) == []
    assert Referenced.status == 409


def pipelines(fleet: Fleet) -> Sequence[Document]:
    step = {"name": "first", "model": "churn", "inputs": {"x": "input.x"}, "timeout": "100ms"}
    return [
        {
            "apiVersion": "modelfleet.dev/v1",
            "kind": "Pipeline",
            "metadata": {"name": "scoring", "owner": "growth"},
            "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}],
            "steps": [step],
            "outputs": {"score": "first.prediction"},
            "timeout": "2s",
        }
    ]


def test_pipelines_wait_for_what_they_call_and_are_compared_whole(
    fleet: Fleet, registrar: Registrar
) -> None:
    [pipe] = pipelines(fleet)
    doc = document(source={"version": "latest"})
    results = apply(fleet, doc, pipe)
    assert [r.outcome for r in results] == ["created", "waiting"]
    registrar.ready()
    apply(fleet, doc)
    serve(fleet, "churn")
    assert apply(fleet, pipe)[0].outcome == "created"
    assert fleet.pipelines.get(ADMIN, "scoring").definition["timeout_ms"] == 2000
    assert one(fleet, pipe).action == "none"
    [back] = [d for d in exported(fleet) if d["kind"] == "Pipeline"]
    assert one(fleet, back).action in ("none", "record")
    by_hand = {**fleet.pipelines.get(ADMIN, "scoring").definition, "timeout_ms": 500}
    fleet.pipelines.define(ADMIN, by_hand)
    found = one(fleet, pipe)
    assert [(c.path, c.cause) for c in found.changes] == [("timeout_ms", "drift")]
    changed = {**pipe, "description": "no such key"}
    with pytest.raises(InvalidInput):
        one(fleet, changed)
    [gone] = fleet.files.remove(ADMIN, SIGNED, [("Pipeline", "scoring")], {})
    assert gone.outcome == "removed"
    assert fleet.pipelines.list(ADMIN) == []


def test_garbage_spares_files_of_documents(fleet: Fleet) -> None:
    kept, _ = fleet.blobs.put([b"check"])
    lost, _ = fleet.blobs.put([b"nobody"])
    apply(fleet, document(files={"./check.py": {"digest": kept, "size": 5}}))
    fleet.garbage.collect(ADMIN, grace_seconds=0)
    fleet.garbage.collect(ADMIN, grace_seconds=0)
    left = dict(fleet.blobs.every())
    assert kept in left
    assert lost not in left


def test_every_change_is_in_the_audit_log_with_its_commit(fleet: Fleet) -> None:
    apply(fleet, RICH)
    events = audit.events(fleet.database, resource=Resource("model", "churn"))
    assert [e.action for e in events] == ["apply-document", "create-model"]
    assert events[0].details["commit"] == "c0ffee"
    assert events[0].details["generation"] == 1
    assert audit.first_broken(fleet.database) is None


@pytest.mark.parametrize("strategy", ["immediate", "bandit"])
def test_an_approval_before_nothing_is_refused_with_another_way(
    fleet: Fleet, strategy: str
) -> None:
    rollout = {"strategy": strategy, "on_inconclusive": {"after": "1h", "do": "hold"}}
    if strategy == "bandit":
        rollout["arms"] = [{"version": "2", "weight": "30%"}]
    doc = document(rollout=rollout, approvals={"role": "approver"})
    [trouble] = plan(fleet, doc).troubles
    assert "no steps that an approval could precede" in trouble.message
    assert "gates" in trouble.hint
