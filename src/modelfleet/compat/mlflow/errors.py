"""MLflow's error format: `{"error_code", "message"}`. Clients branch on the code."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from modelfleet.core.errors import (
    Conflict,
    FleetError,
    InvalidInput,
    NotAllowed,
    NotFound,
    Referenced,
    TooLarge,
    Unauthenticated,
    Unavailable,
    WrongState,
)

STATUS = {
    "INTERNAL_ERROR": 500,
    "INVALID_PARAMETER_VALUE": 400,
    "BAD_REQUEST": 400,
    "INVALID_STATE": 400,
    "RESOURCE_ALREADY_EXISTS": 400,
    "RESOURCE_CONFLICT": 409,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "ENDPOINT_NOT_FOUND": 404,
    "NOT_IMPLEMENTED": 501,
    "FEATURE_DISABLED": 501,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "TEMPORARILY_UNAVAILABLE": 503,
}
"""codes of mlflow/protos/databricks.proto, and their statuses in mlflow/exceptions.py"""


class MlflowError(Exception):
    """An error in MLflow's own words, for what our rooms say differently."""

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status or STATUS[code]


def invalid(message: str) -> MlflowError:
    return MlflowError("INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> MlflowError:
    return MlflowError("RESOURCE_DOES_NOT_EXIST", message)


_CODES: tuple[tuple[type[FleetError], str], ...] = (
    (Referenced, "RESOURCE_CONFLICT"),
    (WrongState, "INVALID_STATE"),
    (Conflict, "RESOURCE_ALREADY_EXISTS"),
    (InvalidInput, "INVALID_PARAMETER_VALUE"),
    (TooLarge, "INVALID_PARAMETER_VALUE"),
    (NotFound, "RESOURCE_DOES_NOT_EXIST"),
    (NotAllowed, "PERMISSION_DENIED"),
    (Unauthenticated, "UNAUTHENTICATED"),
    (Unavailable, "TEMPORARILY_UNAVAILABLE"),
)


def translate(error: FleetError) -> MlflowError:
    message = f"{error.message} {error.hint}" if error.hint else error.message
    for kind, code in _CODES:
        if isinstance(error, kind):
            return MlflowError(code, message)
    return MlflowError("INTERNAL_ERROR", message)


_CLASSES = {
    "RESOURCE_DOES_NOT_EXIST": "RESOURCE_NOT_FOUND",
    "INTERNAL_ERROR": "CLIENT_INTERNAL_ERROR",
}


def shape(error: MlflowError) -> Response:
    headers = {"www-authenticate": 'Basic realm="modelfleet"'} if error.status == 401 else None
    body = msgspec.json.encode(
        {
            "error_code": error.code,
            "message": error.message,
            "error_class": _CLASSES.get(error.code, error.code),
            "sqlstate": "XXM00" if error.status >= 500 else "KAM00",
        }
    )
    return Response(body, error.status, headers, media_type="application/json")
