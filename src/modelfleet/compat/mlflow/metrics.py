"""Histories of metrics."""

from __future__ import annotations

from modelfleet.compat.mlflow import pages, wire
from modelfleet.compat.mlflow.errors import invalid
from modelfleet.compat.mlflow.routing import Call, missing_parameter, route
from modelfleet.compat.mlflow.wire import Json

_DOCS = " See the API docs for more information about request parameters."
MAX_RUNS = 100
MAX_POINTS = 2500
"""of one run in a sample"""


@route("GET", "metrics/get-history")
def history(call: Call) -> Json:
    run_id, key = call.text("run_id", "run_uuid"), call.text("metric_key")
    limit = None if "max_results" not in call.parameters else call.integer("max_results")
    if limit is not None and limit <= 0:
        raise invalid(
            f"Invalid value {limit} for parameter 'max_results' supplied. "
            "It must be a positive integer."
        )
    offset = pages.start(call)
    found = call.tracking.metric_history(call.caller, run_id, key, limit=limit, offset=offset)
    token = pages.following(call, offset + (limit or 0)) if found.more else None
    return wire.page("metrics", [wire.point(one) for one in found.items], token)


@route("GET", "metrics/get-history-bulk-interval")
def sample(call: Call) -> Json:
    run_ids = call.texts("run_ids")
    if not run_ids:
        raise missing_parameter("run_ids")
    if len(run_ids) > MAX_RUNS:
        raise invalid(
            f"GetMetricHistoryBulkInterval request must specify at most {MAX_RUNS} run_ids. "
            f"Received {len(run_ids)} run_ids.{_DOCS}"
        )
    key, limit = call.text("metric_key"), call.integer("max_results", MAX_POINTS)
    if not 1 <= limit <= MAX_POINTS:
        raise invalid(f"max_results must be between 1 and {MAX_POINTS}.{_DOCS}")
    ends = ("start_step" in call.parameters, "end_step" in call.parameters)
    if any(ends) and not all(ends):
        raise invalid("If either start step or end step are specified, both must be specified.")
    steps = (call.integer("start_step"), call.integer("end_step")) if all(ends) else None
    if steps is not None and steps[0] > steps[1]:
        raise invalid(
            "end_step must be greater than start_step. "
            f"Found start_step={steps[0]} and end_step={steps[1]}."
        )
    found = call.tracking.sample_histories(call.caller, run_ids, key, limit=limit, steps=steps)
    return wire.page("metrics", [wire.point_of_run(one) for one in found], None)
