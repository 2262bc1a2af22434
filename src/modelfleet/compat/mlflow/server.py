"""What the server says of itself."""

from __future__ import annotations

from typing import Any

from starlette.responses import PlainTextResponse, Response

from modelfleet.compat.mlflow.routing import Call, route

VERSION = "3.17.2"
"""the release of MLflow whose protocol is spoken"""


@route("GET", "/health", public=True)
def health(_: Call) -> Response:
    return PlainTextResponse("OK")


@route("GET", "/version", public=True)
def version(_: Call) -> Response:
    return PlainTextResponse(VERSION)


@route("GET", "/api/3.0/mlflow/server-info", public=True)
def server_info(_: Call) -> dict[str, Any]:
    """The honest place for what is not there."""
    return {
        "store_type": "SqlStore",
        "workspaces_enabled": False,
        "trace_archival_enabled": False,
        "multipart_uploads_enabled": False,
        "multipart_downloads_enabled": False,
        "presigned_upload_run_id_supported": False,
        "presigned_upload_model_id_supported": False,
        "features_enabled": {"gateway": False},
    }
