from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from modelfleet.core.authorization import Role
from modelfleet.core.clock import now_us
from modelfleet.core.errors import FleetError, InvalidInput, NotAllowed, NotFound
from modelfleet.core.sealing import Sealer
from modelfleet.events import Dispatcher, WebhookService
from modelfleet.events.addresses import resolve
from modelfleet.events.tables import delivery, webhook
from modelfleet.registry.adoption import Source
from modelfleet.registry.base import PROMPT_TAG
from modelfleet.wiring import Fleet
from people import ADMIN, principal

if TYPE_CHECKING:
    from conftest import Receiver

ALL = [
    "registered_model.created",
    "model_version.created",
    "model_version_tag.set",
    "model_version_tag.deleted",
    "model_version_alias.created",
    "model_version_alias.deleted",
    "prompt.created",
    "prompt_version.created",
    "prompt_tag.set",
    "prompt_alias.created",
]


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def hooks(fleet: Fleet) -> WebhookService:
    sealer = Sealer(fleet.layout.sealing_key)
    name, key = fleet.registry.namespace, fleet.registry.namespace_id
    return WebhookService(fleet.database, sealer, name, key, private=True)


@pytest.fixture
def dispatcher(fleet: Fleet) -> Iterator[Dispatcher]:
    sealer = Sealer(fleet.layout.sealing_key)
    made = Dispatcher(fleet.database, sealer, private=True, interval=0.02)
    yield made
    made.stop()


def change_everything(fleet: Fleet, name: str = "churn", prompt: bool = False) -> None:
    tags = {PROMPT_TAG: "true"} if prompt else {"team": "growth"}
    version_tags = dict(tags) | ({"mlflow.prompt.text": "Hi {{x}}"} if prompt else {"k": "v"})
    registry = fleet.registry
    registry.create_model(ADMIN, name, owner_team="growth", description="d", tags=tags)
    registry.adopt(ADMIN, name, Source("s3://a/b", run_id="r", tags=version_tags))
    registry.set_version_tag(ADMIN, name, "1", "a", "b")
    registry.delete_version_tag(ADMIN, name, "1", "a")
    registry.set_model_tag(ADMIN, name, "c", "d")
    registry.set_alias(ADMIN, name, "best", "1")
    registry.delete_alias(ADMIN, name, "best")


def test_every_change_is_told_signed(
    fleet: Fleet, hooks: WebhookService, dispatcher: Dispatcher, receiver: Receiver
) -> None:
    fleet.registry.create_model(ADMIN, "before", owner_team="growth")
    hooks.create(ADMIN, "all", receiver.url, ALL, format_="mlflow", secret="s3cret")
    change_everything(fleet)
    change_everything(fleet, "greeting", prompt=True)
    dispatcher.start()
    until(lambda: len(receiver.got) == 10)
    told = {}
    for headers, body in receiver.got:
        content = f"{headers['x-mlflow-delivery-id']}.{headers['x-mlflow-timestamp']}.{body}"
        made = hmac.new(b"s3cret", content.encode(), hashlib.sha256).digest()
        assert headers["x-mlflow-signature"] == f"v1,{base64.b64encode(made).decode()}"
        assert abs(time.time() - int(headers["x-mlflow-timestamp"])) < 60
        event = json.loads(body)
        told[f"{event['entity']}.{event['action']}"] = event["data"]
    assert told["registered_model.created"] == {
        "name": "churn",
        "tags": {"team": "growth"},
        "description": "d",
    }
    assert told["model_version.created"] == {
        "name": "churn",
        "version": "1",
        "source": "s3://a/b",
        "run_id": "r",
        "tags": {"team": "growth", "k": "v"},
        "description": None,
    }
    assert told["model_version_tag.set"] == {
        "name": "churn",
        "version": "1",
        "key": "a",
        "value": "b",
    }
    assert told["model_version_tag.deleted"] == {"name": "churn", "version": "1", "key": "a"}
    assert told["model_version_alias.created"] == {
        "name": "churn",
        "alias": "best",
        "version": "1",
    }
    assert told["model_version_alias.deleted"] == {"name": "churn", "alias": "best"}
    assert told["prompt.created"] == {"name": "greeting", "tags": {}, "description": "d"}
    assert told["prompt_version.created"]["template"] == "Hi {{x}}"
    assert told["prompt_tag.set"] == {"name": "greeting", "key": "c", "value": "d"}
    assert told["prompt_alias.created"]["name"] == "greeting"


def test_what_fails_is_sent_again_under_the_same_id(
    fleet: Fleet,
    hooks: WebhookService,
    dispatcher: Dispatcher,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("modelfleet.events.dispatcher.PAUSES", (0.05, 0.05, 0.05))
    receiver.answers += [503, 500]
    made = hooks.create(ADMIN, "w", receiver.url, ["registered_model.created"], format_="mlflow")
    fleet.registry.create_model(ADMIN, "churn", owner_team="growth")
    dispatcher.start()
    until(lambda: [d.status for d in hooks.deliveries(ADMIN, made.id)] == ["delivered"])
    assert len({headers["x-mlflow-delivery-id"] for headers, _ in receiver.got}) == 1
    assert "x-mlflow-signature" not in receiver.got[0][0]
    (found,) = hooks.deliveries(ADMIN, made.id)
    assert (found.attempts, found.response_status, found.error) == (3, 200, "")


@pytest.mark.parametrize(("answers", "attempts"), [([404], 1), ([503] * 9, 4), ([302], 1)])
def test_what_is_refused_is_given_up(
    fleet: Fleet,
    hooks: WebhookService,
    dispatcher: Dispatcher,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[int],
    attempts: int,
) -> None:
    monkeypatch.setattr("modelfleet.events.dispatcher.PAUSES", (0.02, 0.02, 0.02))
    receiver.answers += answers
    made = hooks.create(ADMIN, "w", receiver.url, ["create-model"])
    fleet.registry.create_model(ADMIN, "churn", owner_team="growth")
    dispatcher.start()
    until(lambda: [d.status for d in hooks.deliveries(ADMIN, made.id)] == ["failed"])
    (found,) = hooks.deliveries(ADMIN, made.id)
    assert found.attempts == len(receiver.got) == attempts
    assert str(answers[0]) in found.error


def test_cloud_events_of_any_action(
    fleet: Fleet, hooks: WebhookService, dispatcher: Dispatcher, receiver: Receiver
) -> None:
    hooks.create(ADMIN, "w", receiver.url, ["*"], secret="x")
    fleet.registry.create_model(ADMIN, "churn", owner_team="growth")
    dispatcher.start()
    until(lambda: len(receiver.got) == 2)
    events = {json.loads(body)["type"]: json.loads(body) for _, body in receiver.got}
    made = events["dev.modelfleet.create-model"]
    assert (made["specversion"], made["subject"]) == ("1.0", "model/churn")
    assert made["data"]["details"]["owner_team"] == "growth"
    headers = receiver.got[0][0]
    assert headers["content-type"] == "application/cloudevents+json"
    assert headers["webhook-signature"].startswith("v1,")


def test_other_namespaces_are_not_told(
    fleet: Fleet, hooks: WebhookService, dispatcher: Dispatcher, receiver: Receiver
) -> None:
    lab = fleet.registry.within("lab", create=True)
    inside = hooks.within("lab", lab.namespace_id)
    made = inside.create(ADMIN, "w", receiver.url, ["create-model"])
    fleet.registry.create_model(ADMIN, "outside", owner_team="growth")
    lab.create_model(ADMIN, "inside", owner_team="growth")
    dispatcher.start()
    until(lambda: len(receiver.got) == 1)
    assert json.loads(receiver.got[0][1])["subject"] == "model/lab/inside"
    with pytest.raises(NotFound):
        hooks.get(ADMIN, made.id)


def test_deliveries_outlive_a_dispatcher(
    fleet: Fleet, hooks: WebhookService, dispatcher: Dispatcher, receiver: Receiver
) -> None:
    made = hooks.create(ADMIN, "w", receiver.url, ["create-model"])
    fleet.registry.create_model(ADMIN, "churn", owner_team="growth")
    assert dispatcher.plan() == 2
    assert len(dispatcher.claim()) == 1  # and then it dies
    assert dispatcher.claim() == []
    with fleet.database.begin() as connection:  # its lease ends
        connection.execute(sa.update(delivery).values(next_at=now_us()))
    dispatcher.start()
    until(lambda: [d.status for d in hooks.deliveries(ADMIN, made.id)] == ["delivered"])
    assert hooks.deliveries(ADMIN, made.id)[0].attempts == 2


def test_updates_tests_and_deletion(
    fleet: Fleet, hooks: WebhookService, receiver: Receiver
) -> None:
    made = hooks.create(ADMIN, "w", receiver.url, ["model_version.created"], format_="mlflow")
    result = hooks.test(ADMIN, made.id)
    assert (result.success, result.response_status, result.response_body) == (True, 200, "thanks")
    receiver.answers.append(500)
    assert not hooks.test(ADMIN, made.id).success
    changed = hooks.update(ADMIN, made.id, active=False, secret="new", description="d")
    assert (changed.active, changed.signed, changed.description) == (False, True, "d")
    with fleet.database.read() as connection:
        kept = connection.execute(sa.select(webhook.c.secret)).scalar_one()
    assert "new" not in kept
    dead = hooks.update(ADMIN, made.id, url="http://127.0.0.1:1/x")
    assert "refused" in (hooks.test(ADMIN, dead.id).error_message or "")
    hooks.delete(ADMIN, made.id)
    assert hooks.list_webhooks(ADMIN) == []
    with pytest.raises(NotFound):
        hooks.delete(ADMIN, made.id)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "-"},
        {"name": "x" * 64},
        {"url": ""},
        {"url": "ftp://127.0.0.1/"},
        {"url": "http://"},
        {"url": "http://user:pw@127.0.0.1/"},
        {"url": "http://127.0.0.1:99999/"},
        {"url": "http://nowhere.invalid/"},
        {"events": []},
        {"events": ["registered_model.deleted"]},
        {"events": ["nothing.created"]},
        {"format_": "xml"},
    ],
)
def test_webhooks_that_are_not(hooks: WebhookService, change: dict[str, object]) -> None:
    given = {"name": "w", "url": "http://127.0.0.1/", "events": ["registered_model.created"]}
    given |= {"format_": "mlflow"} | change
    with pytest.raises(InvalidInput):
        hooks.create(ADMIN, **given)  # type: ignore[arg-type]
    assert hooks.list_webhooks(ADMIN) == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]"],
)
def test_addresses_inside_are_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match="non-public"):
        resolve(f"https://{host}/x", private=False)
    with pytest.raises(InvalidInput, match="scheme"):
        resolve(f"http://{host}/x", private=False)


def test_only_who_manages_access(hooks: WebhookService, receiver: Receiver) -> None:
    for role in (Role.VIEWER, Role.DATA_SCIENTIST, Role.DEPLOYER, Role.APPROVER):
        with pytest.raises(NotAllowed):
            hooks.create(principal(role), "w", receiver.url, ["*"])
        with pytest.raises(NotAllowed):
            hooks.list_webhooks(principal(role))


def test_a_secret_of_another_home_is_not_opened(fleet: Fleet, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    sealed = Sealer(fleet.layout.sealing_key).seal("x")
    assert Sealer(fleet.layout.sealing_key).open(sealed) == "x"
    assert fleet.layout.sealing_key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FleetError):
        Sealer(tmp_path_factory.mktemp("other") / "key").open(sealed)
