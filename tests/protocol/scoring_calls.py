"""The same bodies to MLflow's scoring server, in process, and to ours: folder, host:port, key.

Run in MLflow's own Python. Only what both accept must be the same; what one refuses is listed with
the reason. Prints how many were compared.
"""

from __future__ import annotations

import json
import math
import sys
import urllib.error
import urllib.request
import warnings
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import load_model
from mlflow.pyfunc.scoring_server import invocations
from mlflow.utils.proto_json_utils import dump_input_data

FOLDER, ADDRESS, KEY = sys.argv[1:]
JSON, CSV = "application/json", "text/csv"
COLUMNS = ["age", "visits", "city", "member"]
ROWS: list[list[Any]] = [[41.5, 3, "Ulm", True], [39.0, 4, "Rom", False]]
WE_REFUSE = {
    "fraction": "MLflow cuts an integer's fraction off",
    "text for a number": "MLflow parses it",
    "no rows": "a request has rows",
    "params unknown": "of a model that has parameters: a slip of the pen would change nothing",
    "ragged": "MLflow fills up",
}
WE_ACCEPT = {
    "upper": "media types have no case",
    "quoted": "a parameter's value may be quoted",
    "parameter": "another parameter means nothing",
    "uneven": "what a record lacks is null, as in dataframe_records",
    "one of the columns twice": "passed over",
    "tensor csv": "by order, as a split frame is",
}
warnings.simplefilter("ignore")


def bodies(model: str) -> list[tuple[str, Any, str]]:
    """(what is special, body, content type)"""
    if model == "tensor":
        names, rows = ["u", "v"], [[1.0, 2.0], [0.5, -1.0]]
    else:
        names, rows = COLUMNS, ROWS
    records = [dict(zip(names, row, strict=True)) for row in rows]
    by_name = {
        name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }
    frame = pd.DataFrame(records)
    split = {"columns": names, "data": rows}
    found: list[tuple[str, Any, str]] = [
        ("split", {"dataframe_split": split}, JSON),
        ("index", {"dataframe_split": {**split, "index": [7, 8]}}, JSON),
        ("numpy client", dump_input_data(frame), JSON),
        ("records", {"dataframe_records": records}, JSON),
        ("no rows", {"dataframe_split": {"columns": names, "data": []}}, JSON),
        ("ragged", {"dataframe_split": {"columns": names, "data": [rows[0], rows[1][:1]]}}, JSON),
        ("list", {"dataframe_split": rows}, JSON),
        ("two forms", {"inputs": rows, "instances": rows}, JSON),
        ("no form", {"data": rows}, JSON),
        ("another field", {"dataframe_split": split, "other": 1}, JSON),
        ("params null", {"dataframe_split": split, "params": None}, JSON),
        ("params unknown", {"dataframe_split": split, "params": {"zz": 3}}, JSON),
        ("charset", {"dataframe_split": split}, f"{JSON}; charset=UTF-8"),
        ("quoted", {"dataframe_split": split}, f'{JSON}; charset="utf-8"'),
        ("latin", {"dataframe_split": split}, f"{JSON}; charset=latin-1"),
        ("upper", {"dataframe_split": split}, "Application/JSON"),
        ("parameter", {"dataframe_split": split}, f"{JSON}; format=x"),
        ("form", {"dataframe_split": split}, "application/x-www-form-urlencoded"),
        ("xml", {"dataframe_split": split}, "application/xml"),
        ("broken", b"{", JSON),
        ("empty", b"", JSON),
        ("mark", b"\xef\xbb\xbf" + json.dumps({"dataframe_split": split}).encode(), JSON),
        ("tensor csv" if model == "tensor" else "csv", frame.to_csv(index=False).encode(), CSV),
    ]
    if model == "tensor":
        return [
            *found,
            ("instances", {"instances": rows}, JSON),
            ("inputs", {"inputs": rows}, JSON),
            ("ints", {"inputs": [[1, 2]]}, JSON),
            ("width", {"inputs": [[1.0]]}, JSON),
        ]

    def changed(**values: Any) -> dict[str, Any]:
        return {
            "dataframe_split": {"columns": names, "data": [[*{**records[0], **values}.values()]]}
        }

    missing = pd.DataFrame({**by_name, "city": ["Ulm", None]})
    found += [
        ("reordered", {"dataframe_split": {"columns": names[::-1], "data": [rows[0][::-1]]}}, JSON),
        ("more", {"dataframe_records": [{**records[0], "zz": 1}]}, JSON),
        ("less", {"dataframe_split": {"columns": names[1:], "data": [rows[0][1:]]}}, JSON),
        ("twice", {"dataframe_split": {"columns": [*names, "age"], "data": [[*rows[0], 1]]}}, JSON),
        ("instances", {"instances": records}, JSON),
        ("uneven", {"instances": [records[0], {**records[1]}, records[0]]}, JSON),
        ("instances by column", {"instances": by_name}, JSON),
        ("inputs", {"inputs": by_name}, JSON),
        ("inputs by row", {"inputs": records}, JSON),
        ("one record", {"inputs": records[0]}, JSON),
        ("unequal", {"inputs": {**by_name, "age": [1.0]}}, JSON),
        ("int for float", changed(age=41), JSON),
        ("float for int", changed(visits=3.0), JSON),
        ("fraction", changed(visits=3.5), JSON),
        ("text for a number", changed(age="41"), JSON),
        ("word for a number", changed(age="old"), JSON),
        ("0 for false", changed(member=0), JSON),
        ("null number", changed(visits=None), JSON),
        ("NaN text", dump_input_data(missing), JSON),
        ("csv missing", missing.to_csv(index=False).encode(), CSV),
        ("csv index", frame.to_csv().encode(), CSV),
        ("csv cr", frame.to_csv(index=False, lineterminator="\r").encode(), CSV),
        ("csv quotes", frame.to_csv(index=False, quoting=1).encode(), CSV),
        ("csv latin", frame.to_csv(index=False).encode(), f"{CSV}; charset=latin-1"),
        ("csv less", frame[names[1:]].to_csv(index=False).encode(), CSV),
    ]
    if model == "series":
        found.append(("factor", {"dataframe_split": split, "params": {"factor": 3.0}}, JSON))
        found.append(("factor 3", {"dataframe_split": split, "params": {"factor": 3}}, JSON))
        wrong = {"dataframe_split": split, "params": {"factor": "x"}}
        found.append(("factor x", wrong, JSON))
        found.append(("NaN", changed(age=float("nan")), JSON))
        found.append(("csv NA", b"age,visits,city,member\nNA,1,Ulm,True\n", CSV))
    return found


def theirs(model: Any, body: bytes, kind: str) -> tuple[int, Any]:
    try:
        found = invocations(body, kind, model, model.metadata.get_input_schema())
    except MlflowException as error:
        return error.get_http_status_code(), error.message
    return found.status, json.loads(found.response) if found.status == 200 else found.response


def ours(model: str, body: bytes, kind: str) -> tuple[int, Any]:
    url = f"http://{ADDRESS}/v2/models/{model}/invocations"
    headers = {"authorization": f"Bearer {KEY}", "content-type": kind}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        said = json.loads(error.read())
        assert {"error_code", "message"} == set(said), said
        return error.code, said["message"]


def same(mine: Any, other: Any) -> bool:
    if isinstance(other, dict):
        return (
            isinstance(mine, dict)
            and list(mine) == list(other)
            and all(same(mine[name], other[name]) for name in other)
        )
    if isinstance(other, list):
        return isinstance(mine, list) and len(mine) == len(other) and all(map(same, mine, other))
    if isinstance(other, float):
        return mine is None if math.isnan(other) else bool(np.isclose(mine, other, rtol=1e-5))
    return bool(mine == other)


compared = 0
for name in ("mixed", "tensor", "frame", "series"):
    model = load_model(f"{FOLDER}/{name}")
    for what, content, kind in bodies(name):
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        peer, answer = theirs(model, content, kind), ours(name, content, kind)
        seen = (name, what, peer, answer)
        compared += 1
        if peer[0] == answer[0] == 200:
            assert same(answer[1], peer[1]), seen
        elif peer[0] == 200:
            assert what in WE_REFUSE, seen
        elif answer[0] == 200:
            assert what in WE_ACCEPT, seen
        else:
            assert answer[0] == peer[0] or (peer[0], answer[0]) == (500, 400), seen
print(compared)  # noqa: T201
