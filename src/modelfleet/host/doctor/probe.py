"""A golden request through the gateway to each live endpoint: the example of its version, sent
with a key of the doctor's own that lives for a minute. It counts as a request of caller `doctor`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from modelfleet.host.doctor.findings import Examined, Finding, fail, not_examined, ok, warn
from modelfleet.host.health import to_gateway
from modelfleet.host.ports import Ports
from modelfleet.serving.gateway import EndpointRoutes, GatewayFiles
from modelfleet.serving.pools import read_pools
from modelfleet_worker.wire.bundle import BundleCorrupt
from modelfleet_worker.wire.spec import BundleSpec, Example, read_example, read_spec

_KEY_SECONDS = 60
_PATIENCE_SECONDS = 10.0
_TOLERANCE = 1e-3


def endpoints(examined: Examined) -> Iterator[Finding]:
    ports = examined.status.ports
    if not examined.status.running or ports is None:
        yield not_examined("nothing runs")
        return
    if not examined.layout.signing_key.exists():
        yield not_examined("there is no signing key", "See keys.")
        return
    found = GatewayFiles(examined.layout).configuration().endpoints
    specs = read_pools(examined.layout).values()
    paths = {v.index: Path(v.path) for spec in specs for v in spec.versions}
    for one in found:
        target = max(one.targets, key=lambda target: target.weight, default=None)
        if target is None or not target.weight:
            yield warn(f"{one.name}: no version has traffic", f"modelfleet deploy {one.name}")
        elif target.version_index not in paths:
            yield ok(f"{one.name}: a pipeline has no example of its own")
        else:
            yield _ask(examined, ports, one, paths[target.version_index])
    if not found:
        yield ok("there is no endpoint")


def _ask(examined: Examined, ports: Ports, endpoint: EndpointRoutes, bundle: Path) -> Finding:
    name = endpoint.name
    try:
        spec, example = read_spec(bundle), read_example(bundle)
        body = json.dumps(_request(spec, example)).encode()
    except BundleCorrupt as error:
        return warn(f"{name}: no example can be sent: {error}", "See blobs.")
    began = time.monotonic()
    try:
        status, answer = _post(examined, ports, name, body)
    except (OSError, HTTPException, ValueError) as error:
        return fail(f"{name}: no answer: {error}", f"modelfleet gateway explain {name}")
    took = f"{(time.monotonic() - began) * 1000:.1f} ms"
    if status != 200:
        said = str(answer.get("error", answer))[:200]
        return fail(f"{name}: {status} {said}", f"modelfleet gateway explain {name}")
    differing = _differing(spec, example, answer)
    if differing and len(endpoint.targets) == 1:
        said = f"{name}: answers in {took}, but {differing} is not what its example says"
        return warn(said, "Compare the version with the one that was checked.")
    return ok(f"{name}: answers its example in {took}")


def _request(spec: BundleSpec, example: Example) -> dict[str, object]:
    arrays, _ = example.arrays(spec.signature)
    inputs = [
        {
            "name": one.name,
            "datatype": one.datatype,
            "shape": list(arrays[one.name].shape),
            "data": example.inputs[one.name],
        }
        for one in spec.signature.inputs
    ]
    return {"inputs": inputs}


def _post(examined: Examined, ports: Ports, name: str, body: bytes) -> tuple[int, dict[str, Any]]:
    from modelfleet.core.keys import SigningKey

    token, _ = SigningKey(examined.layout).issue(
        "doctor", "doctor", models=(f"{name}:infer",), seconds=_KEY_SECONDS
    )
    connection = to_gateway(examined.settings.host, ports, _PATIENCE_SECONDS)
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    try:
        connection.request("POST", f"/v2/models/{name}/infer", body, headers)
        found = connection.getresponse()
        return found.status, json.loads(found.read() or b"{}")
    finally:
        connection.close()


def _differing(spec: BundleSpec, example: Example, answer: dict[str, Any]) -> str:
    """The first output that is not as the example says; empty if all are, or nobody knows."""
    if spec.options.get("example") == "made up" and not example.outputs:
        return ""
    given = {one["name"]: one for one in answer.get("outputs", [])}
    _, wanted = example.arrays(spec.signature)
    for name, array in wanted.items():
        found = given.get(name)
        if found is None:
            return name
        values = np.asarray(found["data"]).reshape(-1)
        flat = array.reshape(-1)
        if array.dtype.kind in "fiub" and values.dtype.kind in "fiub":
            same = len(values) == len(flat) and np.allclose(
                values.astype(float), flat.astype(float), _TOLERANCE, _TOLERANCE, equal_nan=True
            )
        else:
            same = [str(one) for one in values] == [str(one) for one in flat]
        if not same:
            return str(name)
    return ""
