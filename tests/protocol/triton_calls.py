"""Every call of tritonclient over HTTP, run in its own Python: url, key, model, version."""

from __future__ import annotations

import asyncio
import inspect
import sys
from typing import Any

import numpy as np
import tritonclient.http as sync
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

URL, KEY, MODEL, VERSION = sys.argv[1:]
HEADERS = {"authorization": f"Bearer {KEY}"}
KINDS = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64".split()


def tensors(module: Any, binary: bool) -> tuple[list[Any], dict[str, Any]]:
    """All inputs, and their values. FP16 has no JSON in this client."""
    values: dict[str, Any] = {kind: np.array([1, 0]).astype(kind) for kind in KINDS}
    values["text"] = np.array(["ü", ""], dtype=object)
    made = []
    for name, value in values.items():
        tensor = module.InferInput(name, value.shape, np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value, binary_data=binary or name == "float16")
        made.append(tensor)
    return made, values


def same(name: str, found: Any, wanted: Any) -> None:
    texts = [v.decode() if isinstance(v, bytes) else v for v in found.tolist()]
    assert texts == wanted.tolist(), (name, found, wanted)
    assert wanted.dtype == object or found.dtype == wanted.dtype, (name, found.dtype)


async def unoffered(ask: Any, module: Any) -> None:
    """Extensions that we don't have are refused, never passed over or left hanging."""

    async def refused(verb: str, *args: Any, **more: Any) -> str:
        status, said = None, ""
        try:
            await ask(verb, *args, **more)
        except InferenceServerException as error:
            status, said = error.status(), str(error)
        assert status in ("400", "404"), (verb, status, said)
        return said

    for verb in ("get_model_config", "get_inference_statistics", "load_model", "unload_model"):
        await refused(verb, MODEL)
    for verb in (
        *("get_model_repository_index", "get_trace_settings", "get_log_settings"),
        *("get_system_shared_memory_status", "unregister_cuda_shared_memory"),
    ):
        await refused(verb)
    await refused("register_system_shared_memory", "r", "/r", 16)
    inputs, _ = tensors(module, True)
    counted = module.InferRequestedOutput("float64_back", class_count=2)
    assert "classification" in await refused("infer", MODEL, inputs, outputs=[counted])
    shared = module.InferRequestedOutput("float64_back")
    shared.set_shared_memory("r", 16)
    assert "shared memory" in await refused("infer", MODEL, inputs, outputs=[shared])
    inputs[0].set_shared_memory("r", 2)
    assert "shared memory" in await refused("infer", MODEL, inputs)


async def calls(module: Any) -> None:
    async def ask(verb: str, *args: Any, **more: Any) -> Any:
        found = getattr(client, verb)(*args, headers=dict(HEADERS), **more)  # infer adds to them
        return await found if inspect.isawaitable(found) else found

    client = module.InferenceServerClient(URL)
    assert await ask("is_server_live")
    assert await ask("is_server_ready")
    assert await ask("is_model_ready", MODEL)
    assert await ask("is_model_ready", MODEL, VERSION)
    assert not await ask("is_model_ready", "nobody-has-it")
    assert "binary_tensor_data" in (await ask("get_server_metadata"))["extensions"]
    for version in ("", VERSION):
        about = await ask("get_model_metadata", MODEL, version)
        assert about["name"] == MODEL, about
        assert len(about["inputs"]) == len(about["outputs"]) == 13, about

    for binary_in in (True, False):
        for squeeze in (None, "gzip", "deflate"):
            inputs, values = tensors(module, binary_in)
            found = await ask(
                "infer",
                MODEL,
                inputs,
                request_id="mine",
                model_version=VERSION,
                request_compression_algorithm=squeeze,
                response_compression_algorithm=squeeze,
            )
            assert found.get_response()["id"] == "mine"
            for name, value in values.items():
                assert "binary_data_size" in found.get_output(f"{name}_back")["parameters"]
                same(name, found.as_numpy(f"{name}_back"), value)

    inputs, values = tensors(module, True)
    wanted = [
        module.InferRequestedOutput("text_back", binary_data=True),
        module.InferRequestedOutput("int32_back", binary_data=False),
        module.InferRequestedOutput("float64_back", binary_data=True),
    ]
    found = await ask("infer", MODEL, inputs, outputs=wanted)
    names = [output["name"] for output in found.get_response()["outputs"]]
    assert names == ["text_back", "int32_back", "float64_back"], names
    assert "parameters" not in found.get_output("int32_back")
    for name in ("text", "int32", "float64"):
        same(name, found.as_numpy(f"{name}_back"), values[name])

    try:
        await ask("infer", MODEL, inputs[:-1])
    except InferenceServerException as error:
        refused = str(error)
    else:
        refused = ""
    assert "missing tensor 'text'" in refused, refused
    await unoffered(ask, module)
    # large enough for the gateway to compress it; the header counts inflated bytes
    count = 20_000
    long = {name: np.resize(value, count) for name, value in values.items()}
    for tensor in inputs:
        tensor.set_shape([count])
        tensor.set_data_from_numpy(long[tensor.name()], binary_data=True)
    for squeeze in ("gzip", "deflate", None):
        found = await ask("infer", MODEL, inputs, response_compression_algorithm=squeeze)
        for name, value in long.items():
            same(name, found.as_numpy(f"{name}_back"), value)

    closed = client.close()
    if inspect.isawaitable(closed):
        await closed


asyncio.run(calls(sync))
asyncio.run(calls(aio))
