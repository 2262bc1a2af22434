"""Calls of a stock MLflow client, for `registry.py`: URL OPERATION CALLS MODELS.

Says `ready`, waits for a line, makes the calls, says `done`, waits again: whoever started it
measures the server in between.
"""

from __future__ import annotations

import sys

from mlflow import MlflowClient

VERSIONS = 5
url, operation, calls, models = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
client = MlflowClient(url, registry_uri=url)


def name(number: int) -> str:
    return f"model-{number % models:05d}"


def version(number: int, batch: int) -> None:
    client.create_model_version(
        name(number), f"s3://bucket/{number}", tags={"batch": f"b{batch}"}, await_creation_for=0
    )


def fill(number: int) -> None:
    client.create_registered_model(name(number), tags={"team": f"t{number % 10}"})
    for _ in range(VERSIONS):
        version(number, number % 50)
    client.set_registered_model_alias(name(number), "champion", str(VERSIONS))


def search_by_tag(number: int) -> None:
    client.search_model_versions(f"tags.batch='b{number % 50}'", max_results=100)


OPERATIONS = {
    "fill": fill,
    "create_model": lambda i: client.create_registered_model(f"new-{i:05d}"),
    "create_version": lambda i: version(i, 0),
    "get_by_alias": lambda i: client.get_model_version_by_alias(name(i), "champion"),
    "get_version": lambda i: client.get_model_version(name(i), "3"),
    "get_model": lambda i: client.get_registered_model(name(i)),
    "search_by_name": lambda i: client.search_model_versions(f"name='{name(i)}'"),
    "search_by_tag": search_by_tag,
    "list_100": lambda _: client.search_registered_models(max_results=100),
    "list_1000": lambda _: client.search_registered_models(max_results=1000),
}
call = OPERATIONS[operation]
if operation.startswith(("get", "search", "list")):
    call(0)
sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.readline()
for turn in range(calls):
    call(turn)
sys.stdout.write("done\n")
sys.stdout.flush()
sys.stdin.readline()
