"""Scoring tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.batch import Batch, Wish
from modelfleet.batch.types import DEFAULT_CHUNK_ROWS
from modelfleet.core.authorization import Action
from modelfleet.core.errors import InvalidInput

router = APIRouter(prefix="/v1", tags=["batches"])


class BatchBody(BaseModel):
    """Paths are absolute, and the server's."""

    model_config = ConfigDict(extra="forbid")

    model: str
    version: str = "latest"
    input: str = Field(description="Parquet or CSV file, folder, glob, or Delta table")
    output: str = Field(description="a folder, which is made")
    output_format: Literal["parquet", "csv", "delta"] | None = None
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    key: list[str] = Field(default=[], description="columns that the output holds, too")
    keep: bool = Field(default=False, description="all columns of the input")
    columns: list[str] = Field(default=[], description="feature=column, or all in order")
    on_error: Literal["fail", "skip"] = "fail"


def _plain(found: Batch) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain


@router.post("/batches", status_code=201, **permits(Action.RUN_BATCH))
def start_batch(fleet: FleetDep, caller: Caller, body: BatchBody) -> dict[str, Any]:
    """Queue a job; if one does the same already, that one."""
    try:
        wish = msgspec.convert(body.model_dump(), Wish)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error)) from error
    return _plain(fleet.batches.start(caller, wish))


@router.get("/batches", **permits(Action.READ))
def list_batches(
    fleet: FleetDep,
    caller: Caller,
    model: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Sequence[dict[str, Any]]:
    return [_plain(one) for one in fleet.batches.list(caller, model, limit)]


@router.get("/batches/{batch_id}", **permits(Action.READ))
def get_batch(fleet: FleetDep, caller: Caller, batch_id: str) -> dict[str, Any]:
    return _plain(fleet.batches.get(caller, batch_id))


@router.post("/batches/{batch_id}/cancel", **permits(Action.RUN_BATCH))
def cancel_batch(fleet: FleetDep, caller: Caller, batch_id: str) -> dict[str, Any]:
    """Stop it; what is written stays."""
    return _plain(fleet.batches.cancel(caller, batch_id))
