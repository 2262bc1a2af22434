"""Notifications and statuses of commits, sent for real to a server of our own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from modelfleet.core.errors import InvalidInput
from modelfleet.core.sealing import Sealer
from modelfleet.events import Dispatcher, WebhookService, outlets
from modelfleet.wiring import Fleet
from people import ADMIN
from registrar import Registrar

if TYPE_CHECKING:
    from conftest import Receiver

SHA = "c0ffee" + "0" * 34


@pytest.fixture
def hooks(fleet: Fleet) -> WebhookService:
    sealer = Sealer(fleet.layout.sealing_key)
    name, key = fleet.registry.namespace, fleet.registry.namespace_id
    return WebhookService(fleet.database, sealer, name, key, private=True)


def dispatch(fleet: Fleet) -> None:
    """Everything that is to be told now."""
    sealer = Sealer(fleet.layout.sealing_key)
    made = Dispatcher(fleet.database, sealer, private=True, commits=lambda _c, _row: SHA)
    while made.plan():
        continue
    for due in made.claim():
        made._deliver(due)


def test_a_notification_says_what_happened_and_hides_its_address(
    fleet: Fleet, hooks: WebhookService, receiver: Receiver, registrar: Registrar
) -> None:
    address = receiver.url.replace("http://", "json://me:secret@")
    hook = hooks.create(ADMIN, "chat", address, ["create-model"], format_="apprise")
    assert hook.url == "json://..."
    registrar.model()
    dispatch(fleet)
    [(_, body)] = receiver.got
    told = json.loads(body)
    assert told["title"] == "churn: create model"
    assert "By ada, team growth." in told["message"]
    [sent] = hooks.deliveries(ADMIN, hook.id)
    assert sent.status == "delivered"
    assert "secret" not in json.dumps([str(one) for one in hooks.list_webhooks(ADMIN)])
    assert hooks.test(ADMIN, hook.id).success


def test_an_outlet_that_fails_is_tried_again(
    fleet: Fleet, hooks: WebhookService, receiver: Receiver, registrar: Registrar
) -> None:
    address = receiver.url.replace("http://", "json://")
    hook = hooks.create(ADMIN, "chat", address, ["create-model"], format_="apprise")
    receiver.answers.append(500)
    registrar.model()
    dispatch(fleet)
    [sent] = hooks.deliveries(ADMIN, hook.id)
    assert (sent.status, sent.attempts) == ("pending", 1)
    assert "500" in sent.error


def test_by_default_people_hear_of_what_needs_them() -> None:
    assert outlets.wants("apprise", ["default"], "move-rollout")
    assert not outlets.wants("apprise", ["default"], "create-model")
    row = {"action": "move-rollout", "resource": "churn", "principal": "modelfleet", "team": "a"}
    row["details"] = {"state": "rolled_back", "reason": "Worse in errors."}
    said = outlets.notification(row)
    assert said is not None
    assert said["title"] == "churn: rollout rolled back"
    assert said["type"] == "failure"
    assert said["body"].startswith("Worse in errors.")
    row |= {"action": "run-drift-window", "details": {"opened": 0, "alarms": 3}}
    assert outlets.notification(row) is None
    assert outlets.wants("apprise", ["default"], "check-overload")
    row |= {"action": "check-overload", "details": {"opened": ["overload/churn/1"]}}
    said = outlets.notification(row)
    assert said is not None
    assert said["title"] == "churn: alerts"
    row |= {"details": {"opened": [], "resolved": ["overload/churn/1"]}}
    assert outlets.notification(row) is None


@pytest.mark.parametrize(
    ("format_", "key", "failed"), [("github", "context", "failure"), ("gitlab", "name", "failed")]
)
def test_gates_are_statuses_of_the_commit(
    fleet: Fleet, hooks: WebhookService, receiver: Receiver, format_: str, key: str, failed: str
) -> None:
    place = receiver.url.partition("/hook")[0] + "/repos/us/churn"
    hook = hooks.create(ADMIN, "ci", place, ["*"], format_=format_, secret="t0ken")
    assert hook.signed
    row = {"action": "run-gate", "resource": "churn", "details": {}}
    row["details"] = {"gate": "quality", "verdict": "fail", "sentence": "roc_auc fell by 0.03."}
    said = outlets.body(format_, outlets.Told(row, "", commit=SHA))
    assert said == {
        "sha": SHA,
        "state": failed,
        key: "modelfleet/churn/quality",
        "description": "roc_auc fell by 0.03.",
    }
    text = json.dumps(said)
    answer = outlets.send(format_, place, "t0ken", "d1", text, private=True)
    assert answer.status == 200
    [(headers, body)] = receiver.got
    assert "t0ken" in (headers.get("authorization", "") + headers.get("private-token", ""))
    assert json.loads(body)["state"] == failed
    assert outlets.body(format_, outlets.Told(row, "", commit="")) is None


@pytest.mark.parametrize(
    "address",
    [
        "nothing://here",
        "json://127.0.0.1/x",
        "json://localhost",
        "jsons://127.0.0.1",
        "jsons://2130706433/x",
        "jsons://[::1]:8080/x",
        "mailtos://me:secret@example.org?smtp=127.0.0.1",
        "plain text",
    ],
)
def test_addresses_that_are_none_or_inside_are_refused(fleet: Fleet, address: str) -> None:
    sealer = Sealer(fleet.layout.sealing_key)
    name, key = fleet.registry.namespace, fleet.registry.namespace_id
    outside = WebhookService(fleet.database, sealer, name, key, private=False)
    with pytest.raises(InvalidInput):
        outside.create(ADMIN, "chat", address, ["default"], format_="apprise")


@pytest.mark.parametrize("sha", ["", "main", "../../../user/keys", "C0FFEE" * 5, SHA + "?a=b"])
def test_only_a_commit_becomes_part_of_an_address(sha: str) -> None:
    row = {"action": "run-gate", "resource": "churn", "details": {}}
    row["details"] = {"gate": "quality", "verdict": "pass"}
    assert outlets.body("github", outlets.Told(row, "", commit=sha)) is None


def test_statuses_need_a_token(hooks: WebhookService, receiver: Receiver) -> None:
    with pytest.raises(InvalidInput, match="token"):
        hooks.create(ADMIN, "ci", receiver.url, ["*"], format_="github")
    made = hooks.create(ADMIN, "ci", receiver.url, ["*"], format_="gitlab", secret="t")
    with pytest.raises(InvalidInput, match="token"):
        hooks.update(ADMIN, made.id, secret="")


def test_an_outlet_that_breaks_is_not_tried_for_ever(
    fleet: Fleet,
    hooks: WebhookService,
    receiver: Receiver,
    registrar: Registrar,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("of a library")

    address = receiver.url.replace("http://", "json://")
    hook = hooks.create(ADMIN, "chat", address, ["create-model"], format_="apprise")
    registrar.model()
    monkeypatch.setattr(outlets, "send", broken)
    dispatch(fleet)
    [sent] = hooks.deliveries(ADMIN, hook.id)
    assert (sent.status, sent.attempts, sent.error) == ("pending", 1, "TypeError")
