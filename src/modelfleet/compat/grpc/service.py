"""The six calls of the protocol, each answered by the gateway over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

import grpc
import httpx2
import msgspec

from modelfleet.compat.grpc import open_inference_pb2 as pb
from modelfleet.compat.grpc.messages import Malformed, request_body, response

SERVICE = "inference.GRPCInferenceService"
_JSON_SIZE = "inference-header-content-length"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    431: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_OWN = ("grpc-", "content-", "te", "user-agent", "host", "connection", "accept-encoding", "x-mf-")
_TOLD = ("x-mf-prediction-id", "x-mf-model-version", "x-request-id", "retry-after")


class Context(Protocol):
    """What we use of `grpc.aio.ServicerContext`."""

    def invocation_metadata(self) -> Any: ...
    def time_remaining(self) -> float | None: ...
    def set_trailing_metadata(self, metadata: Any) -> None: ...
    async def abort(self, code: grpc.StatusCode, details: str) -> Any: ...


class InferenceService:
    """`http` speaks to the gateway; its base URL is the gateway's."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    def handlers(self) -> grpc.GenericRpcHandler:
        calls: Mapping[str, tuple[Any, Any, Any]] = {
            "ServerLive": (self.server_live, pb.ServerLiveRequest, pb.ServerLiveResponse),
            "ServerReady": (self.server_ready, pb.ServerReadyRequest, pb.ServerReadyResponse),
            "ModelReady": (self.model_ready, pb.ModelReadyRequest, pb.ModelReadyResponse),
            "ServerMetadata": (
                self.server_metadata,
                pb.ServerMetadataRequest,
                pb.ServerMetadataResponse,
            ),
            "ModelMetadata": (
                self.model_metadata,
                pb.ModelMetadataRequest,
                pb.ModelMetadataResponse,
            ),
            "ModelInfer": (self.model_infer, pb.ModelInferRequest, pb.ModelInferResponse),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    call,
                    request_deserializer=taken.FromString,
                    response_serializer=given.SerializeToString,
                )
                for name, (call, taken, given) in calls.items()
            },
        )

    async def server_live(self, _: Any, context: Context) -> pb.ServerLiveResponse:
        found = await self._call(context, "GET", "/v2/health/live")
        return pb.ServerLiveResponse(live=found.status_code == 200)

    async def server_ready(self, _: Any, context: Context) -> pb.ServerReadyResponse:
        found = await self._call(context, "GET", "/v2/health/ready")
        return pb.ServerReadyResponse(ready=found.status_code == 200)

    async def server_metadata(self, _: Any, context: Context) -> pb.ServerMetadataResponse:
        found = await self._good(context, "GET", "/v2")
        return pb.ServerMetadataResponse(**msgspec.json.decode(found.content))

    async def model_ready(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        path = f"{_path(request.name, request.version)}/ready"
        found = await self._call(context, "GET", path)
        if found.status_code in (401, 403):
            await self._refuse(context, found)
        return pb.ModelReadyResponse(ready=found.status_code == 200)

    async def model_metadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        found = await self._good(context, "GET", _path(request.name, request.version))
        body = msgspec.json.decode(found.content)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        sides = {
            side: [
                tensor(name=one["name"], datatype=one["datatype"], shape=one["shape"])
                for one in body[side]
            ]
            for side in ("inputs", "outputs")
        }
        return pb.ModelMetadataResponse(
            name=body["name"], versions=body["versions"], platform=body["platform"], **sides
        )

    async def model_infer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        try:
            body, size = request_body(request)
        except Malformed as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        path = f"{_path(request.model_name, request.model_version)}/infer"
        found = await self._good(context, "POST", path, body, {_JSON_SIZE: str(size)})
        told = [(name, found.headers[name]) for name in _TOLD if name in found.headers]
        context.set_trailing_metadata(tuple(told))
        json_size = int(found.headers.get(_JSON_SIZE, len(found.content)))
        return response(found.content, json_size, raw=bool(request.raw_input_contents))

    async def _good(
        self,
        context: Context,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        found = await self._call(context, method, path, body, headers)
        if found.status_code != 200:
            await self._refuse(context, found)
        return found

    async def _call(
        self,
        context: Context,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        given = {**_forwarded(context.invocation_metadata()), **(headers or {})}
        remaining = context.time_remaining()
        if remaining is not None:
            given["x-mf-timeout-ms"] = str(max(1, int(remaining * 1000)))
        try:
            return await self._http.request(
                method, path, content=body, headers=given, timeout=remaining
            )
        except httpx2.TimeoutException:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "there was no answer in time")
        except httpx2.TransportError as error:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, f"the gateway can't be reached: {error}"
            )
        raise AssertionError("abort raises")

    async def _refuse(self, context: Context, found: httpx2.Response) -> None:
        told = [(name, found.headers[name]) for name in _TOLD if name in found.headers]
        context.set_trailing_metadata(tuple(told))
        code = _CODES.get(found.status_code, grpc.StatusCode.INTERNAL)
        await context.abort(code, _error(found))


def _error(found: httpx2.Response) -> str:
    try:
        return str(msgspec.json.decode(found.content)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return found.text[:300] or f"HTTP status {found.status_code}"


def _path(name: str, version: str) -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _forwarded(metadata: Any) -> dict[str, str]:
    """The caller's key, trace and whatever routes may look at."""
    return {
        key: value
        for key, value in metadata or ()
        if isinstance(value, str) and not key.startswith(_OWN)
    }
