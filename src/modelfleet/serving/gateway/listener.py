"""The listener: from the client's bytes to a request that routes can trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelfleet.core.settings import ServingSettings
from modelfleet.serving.gateway import access, limits, overload, refusals, shed, tls
from modelfleet.serving.gateway.bootstrap import NODE
from modelfleet.serving.gateway.replies import local_replies
from modelfleet.serving.gateway.routes import ROUTES

_TYPES = "type.googleapis.com/envoy"
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"
_DEADLINE_ASIDE = "mf-deadline"
_READ_ANYWAY_BYTES = 64 << 20
_COMPRESS_FROM_BYTES = 4096


@dataclass(frozen=True)
class Limits:
    """What one request may take, and how long it may take to come in."""

    body_bytes: int = 16 << 20
    headers: int = 100
    """their number"""
    header_kb: int = 60
    """of all together, in KiB"""
    header_seconds: float = 10.0
    """until all headers are there"""
    request_seconds: float = 120.0
    """until the whole request is there"""

    @classmethod
    def of(cls, settings: ServingSettings) -> Limits:
        return cls(
            settings.max_body_bytes,
            settings.max_headers,
            settings.max_header_kb,
            settings.header_timeout_seconds,
            settings.read_timeout_seconds,
        )


def render(
    version: str,
    *,
    host: str,
    port: int,
    jwks: str,
    limits: Limits,
    folder: Path,
    secure: bool,
    inside: Path,
) -> dict[str, object]:
    """lds.json: two listeners whose routes come from `folder`/rds.json.

    secure: clients speak TLS only. inside: the socket at which the platform's own processes call
    models, with keys like everybody.
    """
    transport: dict[str, object] = {}
    if secure:
        transport = {
            "transport_socket": tls.to_clients(folder),
            "transport_socket_connect_timeout": _duration(limits.header_seconds),
        }
    port_address: dict[str, object] = {"socket_address": {"address": host, "port_value": port}}
    socket_address: dict[str, object] = {"pipe": {"path": str(inside), "mode": 0o600}}
    http = _http(jwks, limits, folder)
    return {
        "version_info": version,
        "resources": [
            _listener(NODE, port_address, transport, http) | {"enable_reuse_port": True},
            _listener(f"{NODE}-inside", socket_address, {}, http) | {"enable_reuse_port": False},
        ],
    }


def _listener(
    name: str, address: dict[str, object], transport: dict[str, object], http: dict[str, object]
) -> dict[str, object]:
    return {
        "@type": f"{_TYPES}.config.listener.v3.Listener",
        "name": name,
        "address": address,
        "per_connection_buffer_limit_bytes": overload.BUFFER_BYTES,
        "filter_chains": [
            {
                **transport,
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": http,
                    }
                ],
            }
        ],
    }


def _duration(seconds: float) -> str:
    return f"{seconds:.3f}s"


def _http(jwks: str, most: Limits, folder: Path) -> dict[str, object]:
    return {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "gateway",
        "server_name": "modelfleet",
        "use_remote_address": True,
        "skip_xff_append": True,  # workers learn who calls from the key
        "preserve_external_request_id": False,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "request_headers_timeout": _duration(most.header_seconds),
        "request_timeout": _duration(most.request_seconds),
        "stream_idle_timeout": "120s",
        "max_request_headers_kb": most.header_kb,
        "http_protocol_options": {
            "accept_http_10": True,  # proxies and load generators still speak it
            "default_host_for_http_10": "modelfleet",
        },
        "http2_protocol_options": overload.HTTP2,
        "common_http_protocol_options": {
            "max_headers_count": most.headers,
            "idle_timeout": "600s",
            "headers_with_underscores_action": "DROP_HEADER",
        },
        "early_header_mutation_extensions": [
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.http.early_header_mutation.header_mutation.v3"
                    ".HeaderMutation",
                    "mutations": _inbound_headers(),
                },
            }
        ],
        "access_log": refusals.loggers(),
        "local_reply_config": local_replies(most.body_bytes, most.headers, most.header_kb),
        "rds": {
            "route_config_name": ROUTES,
            "config_source": {
                "path_config_source": {"path": str(folder / "rds.json")},
                "resource_api_version": "V3",
            },
        },
        "http_filters": [
            *access.filters(jwks),
            limits.choosing_again(),
            _compressor(),
            *_body_limits(most.body_bytes),
            limits.rate_limit(),
            shed.listener_filter(folder),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                    "dynamic_stats": False,  # nobody reads them; they count each request thrice
                },
            },
        ],
    }


def _compressor() -> dict[str, object]:
    """gzip for large answers, if the client accepts it. Fast rather than small: numbers in JSON
    shrink to a third at any level. What a client sends compressed is the worker's to inflate."""
    return {
        "name": "envoy.filters.http.compressor",
        "typed_config": {
            "@type": f"{_TYPES}.extensions.filters.http.compressor.v3.Compressor",
            "response_direction_config": {
                "common_config": {
                    "min_content_length": _COMPRESS_FROM_BYTES,
                    "content_type": ["application/json", "application/octet-stream"],
                },
                "disable_on_etag_header": True,
            },
            "compressor_library": {
                "name": "gzip",
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.compression.gzip.compressor.v3.Gzip",
                    "compression_level": "COMPRESSION_LEVEL_1",
                    "memory_level": 8,
                    "window_bits": 15,
                    "chunk_size": 65536,
                },
            },
        },
    }


def _body_limits(max_body_bytes: int) -> list[dict[str, object]]:
    """413 for bodies over the limit, in a way that clients can read.

    Answering before a body has arrived ends in a reset for clients that write before they read.
    So bodies are read up to a hard limit, which also lets a retry send them again, and are
    refused after that by their length, which the buffer filter knows for chunked ones too.
    """
    hard = max(_READ_ANYWAY_BYTES, 2 * max_body_bytes)
    too_large = {"start": max_body_bytes + 1, "end": 1 << 62}
    return [
        {
            "name": "envoy.filters.http.buffer",
            "typed_config": {
                "@type": f"{_TYPES}.extensions.filters.http.buffer.v3.Buffer",
                "max_request_bytes": hard,
            },
        },
        {
            "name": "envoy.filters.http.fault",
            "typed_config": {
                "@type": f"{_TYPES}.extensions.filters.http.fault.v3.HTTPFault",
                "abort": {"http_status": 413, "percentage": {"numerator": 100}},
                "headers": [{"name": "content-length", "range_match": too_large}],
                "disable_downstream_cluster_stats": True,
            },
        },
    ]


def _inbound_headers() -> list[dict[str, object]]:
    """Nobody outside speaks in our name; the client's own request id is kept aside.

    The deadline alone is the client's to set: it steps aside while ours are stripped.
    """
    return [
        {"remove": _DEADLINE_ASIDE},
        _set(_DEADLINE_ASIDE, "%REQ(x-mf-timeout-ms)%"),
        {"remove_on_match": {"key_matcher": {"prefix": "x-mf-", "ignore_case": True}}},
        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-", "ignore_case": True}}},
        _set("x-mf-timeout-ms", f"%REQ({_DEADLINE_ASIDE})%"),
        {"remove": _DEADLINE_ASIDE},
        _set("x-mf-client-request-id", "%REQ(x-request-id)%"),
        {"remove": "x-request-id"},
    ]


def _set(name: str, value: str) -> dict[str, object]:
    header = {"key": name, "value": value}
    return {"append": {"header": header, "append_action": _OVERWRITE}}
