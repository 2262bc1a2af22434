from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from modelfleet.registry.tracking.types import Point
from people import ADMIN

if TYPE_CHECKING:
    from conftest import Api


def test_experiments_and_their_runs(api: Api) -> None:
    tracking = api.fleet.tracking
    tracking.create_experiment(ADMIN, "churn", tags={"a": "b"})
    for number in range(3):
        run = tracking.create_run(ADMIN, "1", name=f"r{number}", started_at=number + 1)
        tracking.log_metric(ADMIN, run.id, Point("auc", number / 10, 5, 1))
    tracking.log_metric(ADMIN, run.id, Point("odd", math.nan, 5))
    listed: Any = api.get("/v1/experiments")
    assert [(one["number"], one["name"]) for one in listed] == [(1, "churn"), (0, "Default")]
    assert api.get("/v1/experiments?filter=tags.a%20%3D%20%27b%27&limit=1") == listed[:1]
    assert api.get("/v1/experiments/1") == listed[0]

    def names(query: str = "") -> list[str]:
        found: Any = api.get(f"/v1/experiments/1/runs{query}")
        return [one["name"] for one in found]

    assert names() == ["r2", "r1", "r0"]
    assert names("?limit=1&offset=1") == ["r1"]
    assert names("?order_by=metrics.auc%20ASC") == ["r0", "r1", "r2"]
    assert names("?filter=metrics.auc%20%3E%200.05") == ["r2", "r1"]
    assert names("?view=deleted") == []
    shown: Any = api.get(f"/v1/runs/{run.id}")
    assert shown["metrics"] == {"auc": 0.2, "odd": None}
    assert shown["points"][0] | {"key": "auc", "value": 0.2, "step": 1} == shown["points"][0]


def test_what_is_refused(api: Api) -> None:
    for path, status in (
        ("/v1/experiments/7", 404),
        ("/v1/experiments/7/runs", 404),
        ("/v1/experiments/x/runs", 400),
        ("/v1/experiments/0/runs?filter=zork%20%3D%201", 400),
        ("/v1/experiments/0/runs?order_by=zork", 400),
        ("/v1/experiments/0/runs?view=some", 400),
        ("/v1/experiments/0/runs?limit=0", 400),
        ("/v1/runs/nothing", 404),
    ):
        found = api.http.get(path, headers=api.admin)
        assert found.status_code == status, (path, found.text)
