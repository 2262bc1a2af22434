"""Versions come and go under traffic: nobody's request is lost, and what can't be loaded goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from killers import Picky
from load import rows
from running import Platform, eventually
from zoo import EXAMPLE, Linear

from modelfleet.telemetry.evidence import EvidenceReader

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("e2e-handoff"),
]
JUDGED = {"min_samples": 50, "errors_max_increase": 0.02, "latency_floor_ms": 200.0}


def details(platform: Platform, rollout_id: str) -> Mapping[str, Any]:
    found = platform.client.api.get(f"/v1/rollouts/{rollout_id}", ticks=10_000)
    assert isinstance(found, dict)
    return found


def test_versions_are_added_and_dropped_under_load(platform: Platform) -> None:
    platform.serve("steady", Linear(), EXAMPLE)
    with platform.load("steady", rows(3), connections=16) as load:
        for turn in range(3):
            platform.serve("guest", Linear(weight=1.0 + turn), EXAMPLE)
            load.wait_for(200)
        platform.serve("steady", Linear(weight=3.0), EXAMPLE)
        platform.client.api.delete("/v1/endpoints/guest")
        eventually(lambda: platform.ask("guest", {}).status == 404)
        load.wait_for(200)
    assert load.tally.bad == 0, f"{load.tally}"
    answer = platform.client.predict("steady", [[1.0, 0.0, 0.0]])
    (output,) = answer["outputs"]
    assert np.isclose(output["data"][0], 1 / (1 + np.exp(-3.0)))


def test_a_shadow_is_compared_pair_by_pair(platform: Platform) -> None:
    platform.serve("mirrored", Linear(), EXAMPLE, reference=EXAMPLE)
    made = platform.client.register(
        Linear(weight=1.0001), EXAMPLE, name="mirrored", reference=EXAMPLE, wait=True
    )
    spec = {"strategy": "shadow", "step_seconds": 2.0, "analysis": JUDGED}
    with platform.load("mirrored", rows(3), connections=4, pause=0.005) as load:
        started = platform.client.deploy("mirrored", made.version, **spec)
        ended = platform.client.wait_for_rollout(started.id, 120)
    assert ended.state == "succeeded", ended
    assert load.tally.bad == 0, f"{load.tally}"
    last = details(platform, started.id)["evidence"][-1]["verdict"]
    metrics = {one["metric"]: one for one in last["metrics"]}
    assert metrics["disagreements"]["finding"] == "pass", metrics
    versions = {one.version: one for one in platform.client.versions("mirrored")}
    stable, shadow = versions[ended.from_version], versions[ended.to_version]
    reader = EvidenceReader(platform.layout().evidence_database)
    pairs = sum(tick.pairs for tick in reader.pair_ticks(stable.index, shadow.index))
    reader.close()
    assert pairs >= 50
    answered = platform.client.predict("mirrored", EXAMPLE[:1].tolist())
    assert answered["model_version"] == ended.from_version  # a shadow never answers


def test_a_shadow_that_answers_otherwise_is_told_apart(platform: Platform) -> None:
    platform.serve("differing", Linear(), EXAMPLE, reference=EXAMPLE)
    made = platform.client.register(
        Linear(weight=-1.0), EXAMPLE, name="differing", reference=EXAMPLE, wait=True
    )
    spec = {"strategy": "shadow", "step_seconds": 2.0, "analysis": JUDGED}
    with platform.load("differing", rows(3), connections=4, pause=0.005) as load:
        started = platform.client.deploy("differing", made.version, **spec)
        ended = platform.client.wait_for_rollout(started.id, 120)
    assert ended.state == "rolled_back", ended
    assert "disagreements" in ended.sentence
    assert load.tally.bad == 0, f"{load.tally}"


def test_a_version_that_no_worker_can_load_is_rolled_back_with_the_reason(
    platform: Platform,
) -> None:
    """It passed its checks; but a worker is another place than the one where it was checked."""
    platform.serve("picky", Linear(), EXAMPLE)
    with platform.load("picky", rows(3), connections=4, pause=0.01) as load:
        made = platform.client.register(Picky(), EXAMPLE, name="picky", wait=True)
        spec = {"strategy": "canary", "weights": [5000], "step_seconds": 1.0}
        started = platform.client.deploy("picky", made.version, **spec)
        ended = platform.client.wait_for_rollout(started.id, 60)
        load.wait_for(50)
    assert ended.state == "rolled_back", ended
    assert "only in the workshop" in ended.sentence, ended
    assert load.tally.bad == 0, f"{load.tally}"


def test_each_tick_is_judged_once_while_the_control_plane_dies_again_and_again(
    platform: Platform,
) -> None:
    platform.serve("stormy", Linear(), EXAMPLE, reference=EXAMPLE)
    made = platform.client.register(
        Linear(weight=1.02), EXAMPLE, name="stormy", reference=EXAMPLE, wait=True
    )
    spec = {"strategy": "canary", "weights": [5000], "step_seconds": 10.0, "bake_seconds": 1.0}
    with platform.load("stormy", rows(3), connections=4, pause=0.01) as load:
        started = platform.client.deploy("stormy", made.version, **spec, analysis=JUDGED)
        for _ in range(4):
            load.wait_for(150)
            platform.until_back("control-plane", platform.kill("control-plane"))
        ended = platform.client.wait_for_rollout(started.id, 120)
    assert ended.state == "succeeded", ended
    assert load.tally.bad == 0, f"{load.tally}"
    evidence = details(platform, started.id)["evidence"]
    numbers = [one["tick"] for one in evidence]
    assert numbers == sorted({*numbers}), "a tick was judged twice"
    canary = next(v for v in platform.client.versions("stormy") if v.version == ended.to_version)
    reader = EvidenceReader(platform.layout().evidence_database)
    ticks = {tick.number: tick.requests for tick in reader.ticks(canary.index)}
    reader.close()
    judged = evidence[-1]["verdict"]["samples_canary"]
    counted = [ticks.get(number, 0) for number in numbers]
    assert judged in (sum(counted), sum(counted[1:]))  # the first may be the turning tick
