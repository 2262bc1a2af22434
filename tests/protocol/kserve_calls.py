"""KServe's inference clients, REST and gRPC, run in their own Python: host:port, key, model."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.inference_client import InferenceGRPCClient
from kserve.protocol.infer_type import RequestedOutput

ADDRESS, KEY, MODEL = sys.argv[1:]
HEADERS = {"authorization": f"Bearer {KEY}"}
DATATYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{
        f"{sign}int{bits}": f"{sign.upper()}INT{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def request(binary: bool, outputs: Any = None) -> tuple[Any, dict[str, Any]]:
    values: dict[str, Any] = {kind: np.array([1, 0]).astype(kind) for kind in DATATYPES}
    values["text"] = np.array(["ü", ""], dtype=object)
    tensors = []
    for name, value in values.items():
        tensor = InferInput(name, list(value.shape), DATATYPES.get(name, "BYTES"))
        tensor.set_data_from_numpy(value, binary_data=binary or name == "float16")
        tensors.append(tensor)
    return InferRequest(MODEL, tensors, request_id="mine", request_outputs=outputs), values


def check(answer: Any, values: dict[str, Any]) -> None:
    assert (answer.id, answer.model_name) == ("mine", MODEL)
    for output in answer.outputs:
        wanted = values[output.name.removesuffix("_back")]
        found = output.as_numpy()
        texts = [v.decode() if isinstance(v, bytes) else v for v in found.tolist()]
        assert texts == wanted.tolist(), (output.name, found)


async def rest() -> None:
    base = f"http://{ADDRESS}"
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    assert await client.is_server_live(base, headers=HEADERS)
    assert await client.is_server_ready(base, headers=HEADERS)
    assert await client.is_model_ready(base, MODEL, headers=HEADERS)
    for binary_in in (True, False):
        for binary_out in (True, False):
            wanted = [
                RequestedOutput(name, {"binary_data": binary_out})
                for name in ("text_back", "float64_back", "uint8_back")
            ]
            asked, values = request(binary_in, wanted)
            answer = await client.infer(base, asked, model_name=MODEL, headers=dict(HEADERS))
            assert len(answer.outputs) == 3
            check(answer, values)
    refused = ""
    try:
        await client.infer(base, {"inputs": []}, model_name=MODEL, headers=HEADERS)
    except Exception as error:  # noqa: BLE001  # httpx's, which is not imported here
        refused = str(error)
    assert "400" in refused, refused
    assert "missing tensor" in refused, refused
    await client.close()


async def grpc() -> None:
    client = InferenceGRPCClient(ADDRESS, timeout=30)
    headers = tuple(HEADERS.items())
    assert await client.is_server_live(headers=headers)
    assert await client.is_server_ready(headers=headers)
    assert await client.is_model_ready(MODEL, headers=headers)
    asked, values = request(True)
    check(await client.infer(asked, headers=headers), values)
    await client.close()


asyncio.run(rest())
asyncio.run(grpc())
