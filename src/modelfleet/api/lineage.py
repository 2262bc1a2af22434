"""Lineage of anything, and the edges that others declare."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action
from modelfleet.lineage import Edge, Node
from modelfleet.views.tracing import Direction, add_declared, remove_declared, trace

router = APIRouter(prefix="/v1/lineage", tags=["lineage"])


class NodeBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: str
    name: str

    def node(self) -> Node:
        return Node(self.kind, self.name)


class EdgeBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    source: NodeBody
    destination: NodeBody
    relation: str = ""
    """filled in if empty: two kinds have one relation"""


@router.get("", **permits(Action.READ))
def lineage(
    fleet: FleetDep,
    caller: Caller,
    kind: Annotated[str, Query(max_length=20)],
    name: Annotated[str, Query(max_length=300)],
    direction: Direction = Direction.BOTH,
) -> list[Edge]:
    """The edges on the ways to and from something, nearest first."""
    return trace(fleet, caller, Node(kind, name), direction)


@router.post("/edges", status_code=201, **permits(Action.REGISTER))
def add_edge(fleet: FleetDep, caller: Caller, body: EdgeBody) -> Edge:
    """Declare what a dataset, a feature view or an application has to do with something."""
    source, destination = body.source.node(), body.destination.node()
    return add_declared(fleet, caller, source, destination, body.relation)


@router.delete("/edges", status_code=204, **permits(Action.REGISTER))
def remove_edge(fleet: FleetDep, caller: Caller, body: EdgeBody) -> None:
    source, destination = body.source.node(), body.destination.node()
    remove_declared(fleet, caller, source, destination, body.relation)
