"""Versions change under traffic: proof promotes, harm rolls back, and no request notices."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import pytest
from load import Load, rows
from running import Platform, eventually, say
from zoo import EXAMPLE, Linear

from modelfleet.client import Client
from modelfleet.client.errors import ClientError
from modelfleet.client.types import Rollout

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-rollouts")]
ANALYSIS = {"min_samples": 50, "errors_max_increase": 0.02, "latency_floor_ms": 200.0}
CANARY = {
    "strategy": "canary",
    "weights": [2500, 5000],
    "step_seconds": 2.0,
    "bake_seconds": 2.0,
    "analysis": ANALYSIS,
}
LONG = {**CANARY, "step_seconds": 600.0}


def start(platform: Platform, name: str, model: object, spec: dict[str, Any]) -> Rollout:
    """Roll out another version of that model."""
    made = platform.client.register(
        model, EXAMPLE, name=name, team="e2e", reference=EXAMPLE, wait=True
    )
    return platform.client.deploy(name, made.version, **spec)


def serve(platform: Platform, name: str) -> None:
    platform.serve(name, Linear(), EXAMPLE, reference=EXAMPLE)


def traffic(platform: Platform, name: str) -> Load:
    return platform.load(name, rows(3), connections=4)


def until(platform: Platform, rollout: Rollout, state: str) -> Rollout:
    def reached() -> Rollout | None:
        found = platform.client.rollout(rollout.id)
        assert found.state == state or not found.ended, found
        return found if found.state == state else None

    return eventually(reached, 60, 0.2)


def ended(platform: Platform, rollout: Rollout) -> Rollout:
    return platform.client.wait_for_rollout(rollout.id, 120)


def weights(platform: Platform, name: str) -> list[int]:
    """Weights of the routes, the largest first."""
    found = next(one for one in platform.client.endpoints() if one.name == name)
    return sorted((route.weight for route in found.routes), reverse=True)


def served_version(platform: Platform, name: str) -> str:
    """The only version that answers."""
    found = {platform.client.predict(name, EXAMPLE[:1])["model_version"] for _ in range(20)}
    assert len(found) == 1, found
    return str(found.pop())


def test_a_good_canary_is_promoted(platform: Platform) -> None:
    serve(platform, "better")
    with traffic(platform, "better") as load:
        load.wait_for(50)
        rollout = start(platform, "better", Linear(weight=1.02), CANARY)
        found = ended(platform, rollout)
        load.wait_for(50)
    assert found.state == "succeeded", found
    assert served_version(platform, "better") == found.to_version
    assert load.tally.bad == 0, f"{load.tally}"
    say(f"promoted after {load.tally.good} requests")


def test_a_canary_that_fails_one_request_in_twenty_is_rolled_back(platform: Platform) -> None:
    serve(platform, "failing")
    with traffic(platform, "failing") as load:
        load.wait_for(50)
        rollout = start(platform, "failing", Linear(fails=0.05), CANARY)
        found = ended(platform, rollout)
        before = load.tally.bad
        load.wait_for(100)
    assert found.state == "rolled_back", found
    assert "fails" in found.sentence, found
    assert served_version(platform, "failing") == found.from_version
    assert set(load.tally.statuses) == {200, 500}, load.tally
    assert load.tally.bad <= before + 1, "the bad version still gets traffic"
    took = seconds_back(platform, rollout)
    assert took < 1.0
    say(f"rolled back after {load.tally.bad} failed of {load.tally.statuses.total()} requests")
    say(f"{took:.2f} s from the verdict to all traffic on the stable version")


def seconds_back(platform: Platform, rollout: Rollout) -> float:
    """From the verdict to the moment at which the gateway was known to run the old routes."""
    moves = platform.client.api.get(f"/v1/rollouts/{rollout.id}")["moves"]
    at = {one["state"]: datetime.fromisoformat(one["at"]) for one in moves}
    return (at["rolled_back"] - at["rolling_back"]).total_seconds()


def test_a_canary_with_shifted_predictions_is_rolled_back(platform: Platform) -> None:
    serve(platform, "shifted")
    with traffic(platform, "shifted") as load:
        load.wait_for(50)
        rollout = start(platform, "shifted", Linear(shift=0.4), CANARY)
        found = ended(platform, rollout)
    assert found.state == "rolled_back", found
    assert "score" in found.sentence or "predictions" in found.sentence, found
    assert served_version(platform, "shifted") == found.from_version
    assert load.tally.bad == 0, f"{load.tally}"


def test_a_canary_survives_a_control_plane_that_dies_every_two_seconds(
    platform: Platform,
) -> None:
    serve(platform, "survivor")
    with traffic(platform, "survivor") as load:
        load.wait_for(50)
        spec = {**CANARY, "step_seconds": 4.0}
        rollout = start(platform, "survivor", Linear(weight=1.02), spec)
        for _ in range(4):
            until_alive(platform)
            load.wait_for(200)
            platform.until_back("control-plane", platform.kill("control-plane"))
        found = ended(platform, rollout)
    assert found.state == "succeeded", found
    assert load.tally.bad == 0, f"{load.tally}"
    assert served_version(platform, "survivor") == found.to_version
    moves = platform.client.api.get(f"/v1/rollouts/{rollout.id}")["moves"]
    assert [move["state"] for move in moves].count("succeeded") == 1


def until_alive(platform: Platform) -> None:
    eventually(lambda: platform.observed()["processes"]["control-plane"]["state"] == "ready")


def test_pause_resume_abort(platform: Platform) -> None:
    serve(platform, "steered")
    with traffic(platform, "steered") as load:
        load.wait_for(50)
        rollout = start(platform, "steered", Linear(weight=1.02), LONG)
        until(platform, rollout, "stepping")
        platform.client.steer(rollout.id, "pause")
        until(platform, rollout, "paused")
        assert weights(platform, "steered") == [7500, 2500]
        platform.client.steer(rollout.id, "resume")
        until(platform, rollout, "stepping")
        platform.client.steer(rollout.id, "abort")
        found = ended(platform, rollout)
        load.wait_for(50)
    assert found.state == "rolled_back"
    assert served_version(platform, "steered") == found.from_version
    assert load.tally.bad == 0, f"{load.tally}"


def test_blue_green(platform: Platform) -> None:
    serve(platform, "colours")
    with traffic(platform, "colours") as load:
        load.wait_for(50)
        spec = {"strategy": "blue-green", "bake_seconds": 2.0}
        found = ended(platform, start(platform, "colours", Linear(weight=2.0), spec))
        load.wait_for(50)
    assert found.state == "succeeded", found
    assert served_version(platform, "colours") == found.to_version
    assert load.tally.bad == 0, f"{load.tally}"


def test_blue_green_goes_back_if_the_new_version_fails(platform: Platform) -> None:
    serve(platform, "broken")
    with traffic(platform, "broken") as load:
        load.wait_for(50)
        spec = {"strategy": "blue-green", "bake_seconds": 30.0}
        found = ended(platform, start(platform, "broken", Linear(fails=0.9), spec))
        load.wait_for(50)
    assert found.state == "rolled_back", found
    assert served_version(platform, "broken") == found.from_version


def test_a_preview_then_a_yes_then_weights(platform: Platform) -> None:
    """Only who sends the header meets the new version until somebody has approved it."""
    serve(platform, "previewed")
    admin = platform.client.api
    admin.post("/v1/principals", {"name": "amy", "kind": "person"})
    admin.post("/v1/principals/amy/grants", {"role": "approver", "team": "e2e"})
    key = admin.post("/v1/keys", {"principal": "amy"})["key"]
    steps = [
        {"preview": {"header": "x-beta", "equals": "yes"}, "seconds": 1},
        {"approve": {"role": "approver"}},
        {"weight": 5000, "seconds": 1},
        {"weight": 10_000, "seconds": 1},
    ]
    with traffic(platform, "previewed") as load:
        load.wait_for(50)
        spec = {"strategy": "canary", "steps": steps, "analysis": ANALYSIS}
        rollout = start(platform, "previewed", Linear(weight=1.02), spec)
        until(platform, rollout, "awaiting_approval")
        assert weights(platform, "previewed") == [10_000]
        (asked,) = admin.get("/v1/approvals", state="waiting")
        with pytest.raises(ClientError, match="asked for or made"):
            admin.post(f"/v1/approvals/{asked['id']}/approve", {"reason": "my own"})
        assert served_version(platform, "previewed") == rollout.from_version
        met = platform.ask("previewed", rows(3)(random.Random(1)), headers={"x-beta": "yes"}).body
        assert met["model_version"] == rollout.to_version
        amy = Client(f"http://127.0.0.1:{platform.ports()['api']}", key=key)
        amy.api.post(f"/v1/approvals/{asked['id']}/approve", {"reason": "it looks fine"})
        found = ended(platform, rollout)
    assert found.state == "succeeded", found
    assert load.tally.bad == 0, f"{load.tally}"
    assert served_version(platform, "previewed") == found.to_version


def test_clients_that_stick_count_once(platform: Platform) -> None:
    """However often each asks: requests of one client are not independent."""
    serve(platform, "sticky")
    analysis = {**ANALYSIS, "predictions_max_distance": None, "errors_max_increase": 0.05}
    spec = {
        "strategy": "canary",
        "weights": [5000],
        "step_seconds": 1.0,
        "bake_seconds": 1.0,
        "sticky": {"by": "header", "name": "x-client"},
        "analysis": analysis,
    }
    with platform.load("sticky", rows(3), connections=4, clients=3000) as load:
        load.wait_for(50)
        found = ended(platform, start(platform, "sticky", Linear(weight=1.02), spec))
    assert found.state == "succeeded", found
    assert load.tally.bad == 0, f"{load.tally}"
    details = platform.client.api.get(f"/v1/rollouts/{found.id}")
    last = details["evidence"][-1]["verdict"]  # type: ignore[index,call-overload]
    counted = last["samples_stable"] + last["samples_canary"]
    assert 100 < counted <= min(3000, load.tally.good), last
    endpoint = next(one for one in platform.client.endpoints() if one.name == "sticky")
    assert platform.client.api.get(f"/v1/endpoints/{endpoint.name}")["traffic"]["sticky"] is None  # type: ignore[index,call-overload]
