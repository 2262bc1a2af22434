"""Every call of tritonclient over gRPC, run in its own Python: url, key, model, version."""

from __future__ import annotations

import asyncio
import inspect
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as sync
import tritonclient.grpc.aio as aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

URL, KEY, MODEL, VERSION = sys.argv[1:]
HEADERS = {"authorization": f"Bearer {KEY}"}
KINDS = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64".split()


def tensors(module: Any) -> tuple[list[Any], dict[str, Any]]:
    """All inputs, and their values."""
    values: dict[str, Any] = {kind: np.array([1, 0]).astype(kind) for kind in KINDS}
    values["text"] = np.array(["ü", ""], dtype=object)
    made = []
    for name, value in values.items():
        tensor = module.InferInput(name, value.shape, np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        made.append(tensor)
    return made, values


def same(name: str, found: Any, wanted: Any) -> None:
    texts = [v.decode() if isinstance(v, bytes) else v for v in found.tolist()]
    assert texts == wanted.tolist(), (name, found, wanted)
    assert wanted.dtype == object or found.dtype == wanted.dtype, (name, found.dtype)


async def calls(module: Any) -> None:
    async def ask(verb: str, *args: Any, headers: Any = HEADERS, **more: Any) -> Any:
        found = getattr(client, verb)(*args, headers=headers, **more)
        return await found if inspect.isawaitable(found) else found

    async def refused(*args: Any, **more: Any) -> InferenceServerException:
        try:
            await ask("infer", *args, **more)
        except InferenceServerException as error:
            return error
        raise AssertionError("it was not refused")

    client = module.InferenceServerClient(URL)
    assert await ask("is_server_live")
    assert await ask("is_server_ready")
    assert await ask("is_model_ready", MODEL)
    assert await ask("is_model_ready", MODEL, VERSION)
    assert not await ask("is_model_ready", "nobody-has-it")
    assert "binary_tensor_data" in (await ask("get_server_metadata")).extensions
    about = await ask("get_model_metadata", MODEL, VERSION)
    assert about.name == MODEL
    assert list(about.versions) == [VERSION]
    assert len(about.inputs) == len(about.outputs) == 13, about

    inputs, values = tensors(module)
    for squeeze in (None, "gzip"):
        found = await ask(
            "infer",
            MODEL,
            inputs,
            request_id="mine",
            model_version=VERSION,
            compression_algorithm=squeeze,
        )
        answer = found.get_response()
        assert (answer.id, answer.model_name, answer.model_version) == ("mine", MODEL, VERSION)
        for name, value in values.items():
            same(name, found.as_numpy(f"{name}_back"), value)

    wanted = [module.InferRequestedOutput("text_back"), module.InferRequestedOutput("int32_back")]
    found = await ask("infer", MODEL, inputs, outputs=wanted)
    assert [output.name for output in found.get_response().outputs] == ["text_back", "int32_back"]
    same("text", found.as_numpy("text_back"), values["text"])

    error = await refused(MODEL, inputs[:-1])
    assert (error.status(), "missing tensor 'text'" in error.message()) == (
        "StatusCode.INVALID_ARGUMENT",
        True,
    ), error
    shared = module.InferRequestedOutput("float64_back")
    shared.set_shared_memory("r", 16)
    error = await refused(MODEL, inputs, outputs=[shared])
    assert "shared memory" in error.message(), error
    counted = module.InferRequestedOutput("float64_back", class_count=2)
    error = await refused(MODEL, inputs, outputs=[counted])
    assert error.status() == "StatusCode.INVALID_ARGUMENT", error
    for verb in ("get_model_config", "get_inference_statistics", "load_model"):
        status = None
        try:
            await ask(verb, MODEL)
        except InferenceServerException as unoffered:
            status = unoffered.status()
        assert status == "StatusCode.UNIMPLEMENTED", (verb, status)
    error = await refused(MODEL, inputs, headers={})
    assert error.status() == "StatusCode.UNAUTHENTICATED", error
    error = await refused("nobody-has-it", inputs)
    assert error.status() in ("StatusCode.NOT_FOUND", "StatusCode.PERMISSION_DENIED"), error
    await asyncio.sleep(1.5)  # the model works on from the call before
    error = await refused("slow", [inputs[-2]], client_timeout=0.3)
    assert error.status() == "StatusCode.DEADLINE_EXCEEDED", error
    closed = client.close()
    if inspect.isawaitable(closed):
        await closed


asyncio.run(calls(sync))
asyncio.run(calls(aio))
