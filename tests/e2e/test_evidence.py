"""Every prediction counts once, wherever one looks; what became of it finds it; drift is told."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from load import rows
from prometheus_client.parser import text_string_to_metric_families
from running import SETTINGS, Platform, eventually
from zoo import EXAMPLE, Linear

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-evidence")]
COUNTED, LABELLED, DRIFTING = "counted", "labelled", "drifting"


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    quick = SETTINGS.replace("window_seconds = 5", "window_seconds = 2")
    made = Platform(quick.replace("drift_window_seconds = 20", "drift_window_seconds = 4"))
    try:
        made.up()
        yield made
    finally:
        made.end()


def ask(platform: Platform, endpoint: str, row: list[float]) -> str:
    """The id of one prediction."""
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": row}
    answer = platform.ask(endpoint, {"inputs": [tensor]})
    assert answer.status == 200, answer
    return answer.headers["x-mf-prediction-id"]


def scrape(platform: Platform) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples of /metrics by name and labels."""
    url = f"http://127.0.0.1:{platform.ports()['metrics']}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples}


def requests_of(platform: Platform, model: str) -> dict[str, float]:
    """Counted requests by status code."""
    found = {}
    for (name, labels), value in scrape(platform).items():
        named = dict(labels)
        if name == "mf_requests_total" and named["model"] == model:
            found[named["code"]] = value
    return found


def sealed(platform: Platform) -> pl.DataFrame:
    """All predictions in Parquet; a partial last file has another name until it is sealed."""
    files = [str(path) for path in platform.layout().predictions.rglob("*.parquet")]
    if not files:
        return pl.DataFrame({"prediction_id": [], "status": []})
    return pl.concat([pl.read_parquet(file) for file in files], how="diagonal_relaxed")


def test_each_prediction_is_counted_and_sealed_once(platform: Platform) -> None:
    platform.serve(COUNTED, Linear(), EXAMPLE, reference=EXAMPLE)
    with platform.load(COUNTED, rows(3), connections=8) as load:
        load.wait_for(1500)
    good = load.tally.good
    assert load.tally.bad == 0, f"{load.tally}"
    for _ in range(7):
        assert platform.ask(COUNTED, {"inputs": []}).status == 400
    wanted = {"200": float(good), "400": 7.0}
    eventually(lambda: requests_of(platform, COUNTED) == wanted)
    eventually(lambda: sealed(platform).height >= good + 7, 60, 0.5)
    predictions = sealed(platform)
    assert predictions.height == good + 7
    assert predictions["prediction_id"].n_unique() == good + 7
    assert predictions.filter(pl.col("status") == 200).height == good
    assert scrape(platform)[("mf_inference_log_dropped_total", ())] == 0
    row = next(one for one in platform.client.fleet()["rows"] if one["endpoint"] == COUNTED)
    assert row["requests"] == good + 7


def test_the_newest_predictions_are_shown_with_what_went_in_and_out(platform: Platform) -> None:
    platform.serve("shown", Linear(), EXAMPLE)
    ids = {ask(platform, "shown", [float(n), 0.0, 0.0]) for n in range(3)}

    def shown() -> list[dict[str, Any]]:
        done = platform.run("predictions", "shown", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found if {one["prediction_id"] for one in found} == ids else []

    for one in eventually(shown):
        (feature, *_) = one["inputs"].values()
        assert np.isclose(one["score"], 1 / (1 + np.exp(-feature)))


def test_outcomes_find_their_predictions(platform: Platform) -> None:
    platform.serve(LABELLED, Linear(), EXAMPLE, reference=EXAMPLE)
    before = joined(platform)
    ids = [ask(platform, LABELLED, list(row)) for row in EXAMPLE[:40]]
    lines = [{"prediction_id": one, "value": float(k % 2)} for k, one in enumerate(ids)]
    assert platform.client.report_outcomes(lines[:20]) == 20
    for line in lines[20:]:
        assert feedback(platform, LABELLED, line) == 200
    stranger = {"prediction_id": "0190a0a0-0000-7000-8000-000000000000", "value": 1.0}
    assert platform.client.report_outcomes([stranger]) == 1  # it may be known later
    eventually(lambda: joined(platform) >= before + 40)
    assert joined(platform) == before + 40
    assert platform.client.report_outcomes(lines[:5]) == 5  # told twice, they count once
    eventually(lambda: not list(platform.layout().outcome_inbox.glob("*.ndjson")))
    assert joined(platform) == before + 40


def joined(platform: Platform) -> float:
    return scrape(platform)[("mf_outcomes_joined_total", ())]


def feedback(platform: Platform, endpoint: str, line: dict[str, object]) -> int:
    """Through the gateway, with a key for predictions."""
    url = f"http://127.0.0.1:{platform.ports()['gateway']}/v2/models/{endpoint}/feedback"
    headers = {"authorization": f"Bearer {platform.key}", "content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(line).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(answer.status)


def test_shifted_inputs_raise_an_alert_and_usual_ones_do_not(platform: Platform) -> None:
    for name in (DRIFTING, "usual"):
        platform.serve(name, Linear(), EXAMPLE, reference=EXAMPLE)
    shifted = EXAMPLE + np.array([1.5, 0.0, 0.0])
    chance = np.random.default_rng(0)

    def drawn(source: Any) -> Any:
        picked = chance.permutation(source)  # the reference itself: nothing has moved
        turn = iter(range(1 << 30))

        def body(_: object) -> bytes:
            row = picked[next(turn) % len(picked)].tolist()
            tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": row}
            return json.dumps({"inputs": [tensor]}).encode()

        return body

    def alert() -> dict[str, Any] | None:
        found = platform.client.alerts()
        drifts = [one for one in found if one.kind == "drift" and one.endpoint == DRIFTING]
        firing = [one for one in drifts if one.state == "firing" and one.subject == "f0"]
        return firing[0] if firing else None

    with (
        platform.load(DRIFTING, drawn(shifted), connections=2, pause=0.01),
        platform.load("usual", drawn(EXAMPLE), connections=2, pause=0.01),
    ):
        found = eventually(alert, 60, 0.5)
    assert "f0" in found.summary
    assert [one for one in platform.client.alerts() if one.endpoint == "usual"] == []
    done = platform.run("alerts", "acknowledge", found.id, "--json")
    assert done.returncode == 0, done.stderr


def test_the_audit_log_is_whole(platform: Platform) -> None:
    done = platform.run("audit", "verify", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {"intact": True, "first_broken": None}
