"""Owners, watchers, comments, reviews, templates; rebuilding a version, and its code."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from modelfleet.api.base import Caller, FleetDep, permits
from modelfleet.core.authorization import Action, Principal
from modelfleet.core.errors import NotFound
from modelfleet.gates.rebuild import Rebuild
from modelfleet.registry.code import files_of
from modelfleet.registry.collaboration.types import Comment, Person, Review, Template
from modelfleet.wiring import Fleet

router = APIRouter(prefix="/v1", tags=["collaboration"])


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextBody(Body):
    text: str


class ReviewBody(Body):
    """Either a reviewer or a role."""

    reviewer: str = ""
    role: str = ""
    note: str = ""


class AnswerBody(Body):
    state: str
    """approved or changes-requested"""
    comment: str = ""


class TemplateBody(Body):
    criticality: str | None = None
    business_function: str | None = None
    isolation: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    requirements: list[str] = Field(default_factory=list)


class ReviewState(StrEnum):
    OPEN = "open"
    APPROVED = "approved"
    CHANGES_REQUESTED = "changes-requested"
    WITHDRAWN = "withdrawn"


def _known(fleet: Fleet, caller: Principal, model: str, person: str) -> None:
    """Raises `NotFound` unless there is such a principal; tells it only to who sees the model."""
    fleet.registry.get_model(caller, model)
    if not fleet.identity.knows(person):
        raise NotFound(f"There is no principal {person[:200]}.")


@router.get("/models/{name}/owners", **permits(Action.READ))
def owners(fleet: FleetDep, caller: Caller, name: str) -> list[Person]:
    return fleet.registry.owners(caller, name)


@router.put("/models/{name}/owners/{person}", **permits(Action.REGISTER))
def add_owner(fleet: FleetDep, caller: Caller, name: str, person: str) -> list[Person]:
    _known(fleet, caller, name, person)
    return fleet.registry.add_owner(caller, name, person)


@router.delete("/models/{name}/owners/{person}", status_code=204, **permits(Action.REGISTER))
def remove_owner(fleet: FleetDep, caller: Caller, name: str, person: str) -> None:
    fleet.registry.remove_owner(caller, name, person)


@router.get("/models/{name}/watchers", **permits(Action.READ))
def watchers(fleet: FleetDep, caller: Caller, name: str) -> list[Person]:
    return fleet.registry.watchers(caller, name)


@router.put("/models/{name}/watch", **permits(Action.READ))
def watch(fleet: FleetDep, caller: Caller, name: str) -> list[Person]:
    """The caller watches the model."""
    return fleet.registry.watch(caller, name)


@router.delete("/models/{name}/watch", status_code=204, **permits(Action.READ))
def unwatch(fleet: FleetDep, caller: Caller, name: str) -> None:
    fleet.registry.unwatch(caller, name)


@router.get("/models/{name}/versions/{version}/comments", **permits(Action.READ))
def comments(fleet: FleetDep, caller: Caller, name: str, version: str) -> list[Comment]:
    return fleet.registry.comments(caller, name, version)


@router.post("/models/{name}/versions/{version}/comments", status_code=201, **permits(Action.READ))
def comment(fleet: FleetDep, caller: Caller, name: str, version: str, body: TextBody) -> Comment:
    """Whoever may read the version may say something about it."""
    return fleet.registry.comment(caller, name, version, body.text)


@router.patch("/models/{name}/versions/{version}/comments/{comment_id}", **permits(Action.READ))
def edit_comment(
    fleet: FleetDep, caller: Caller, name: str, version: str, comment_id: str, body: TextBody
) -> Comment:
    """One's own only."""
    return fleet.registry.edit_comment(caller, name, version, comment_id, body.text)


@router.delete(
    "/models/{name}/versions/{version}/comments/{comment_id}",
    status_code=204,
    **permits(Action.READ),
)
def delete_comment(
    fleet: FleetDep, caller: Caller, name: str, version: str, comment_id: str
) -> None:
    """One's own, or an admin any."""
    fleet.registry.delete_comment(caller, name, version, comment_id)


@router.get("/reviews", **permits(Action.READ))
def all_reviews(
    fleet: FleetDep, caller: Caller, state: ReviewState | None = None, mine: bool = False
) -> list[Review]:
    """Of all models; `mine`: what the caller is asked to answer."""
    return fleet.registry.all_reviews(caller, state.value if state else "", mine=mine)


@router.get("/models/{name}/versions/{version}/reviews", **permits(Action.READ))
def reviews(fleet: FleetDep, caller: Caller, name: str, version: str) -> list[Review]:
    return fleet.registry.reviews(caller, name, version)


@router.post(
    "/models/{name}/versions/{version}/reviews", status_code=201, **permits(Action.REGISTER)
)
def request_review(
    fleet: FleetDep, caller: Caller, name: str, version: str, body: ReviewBody
) -> Review:
    if body.reviewer:
        _known(fleet, caller, name, body.reviewer)
    return fleet.registry.request_review(caller, name, version, **body.model_dump())


@router.post("/models/{name}/versions/{version}/reviews/{review_id}/answer", **permits(Action.READ))
def answer_review(
    fleet: FleetDep, caller: Caller, name: str, version: str, review_id: str, body: AnswerBody
) -> Review:
    """By who was asked; nobody approves what they registered or asked for."""
    return fleet.registry.answer_review(caller, name, version, review_id, **body.model_dump())


@router.post(
    "/models/{name}/versions/{version}/reviews/{review_id}/withdraw", **permits(Action.REGISTER)
)
def withdraw_review(
    fleet: FleetDep, caller: Caller, name: str, version: str, review_id: str
) -> Review:
    return fleet.registry.withdraw_review(caller, name, version, review_id)


@router.post(
    "/models/{name}/versions/{version}/rebuilds", status_code=201, **permits(Action.RUN_BATCH)
)
def request_rebuild(fleet: FleetDep, caller: Caller, name: str, version: str) -> Rebuild:
    """Make the environment again from its lock, and compare the answers to the golden inputs."""
    return fleet.rebuilds.request(caller, name, version)


@router.get("/models/{name}/versions/{version}/rebuilds/{rebuild_id}", **permits(Action.READ))
def get_rebuild(
    fleet: FleetDep, caller: Caller, name: str, version: str, rebuild_id: str
) -> Rebuild:
    return fleet.rebuilds.get(caller, name, version, rebuild_id)


@router.get("/models/{name}/versions/{version}/code", **permits(Action.READ))
def code(fleet: FleetDep, caller: Caller, name: str, version: str) -> dict[str, Any]:
    """The snapshot of the code that trained it; empty if none was taken."""
    return dict(fleet.registry.get_version(caller, name, version).code or {})


@router.get("/models/{name}/versions/{version}/code/{path:path}", **permits(Action.READ))
def code_file(fleet: FleetDep, caller: Caller, name: str, version: str, path: str) -> FileResponse:
    """One file of it."""
    found = fleet.registry.get_version(caller, name, version)
    for entry in files_of(found.code or {}):
        if entry.path == path:
            return FileResponse(
                fleet.blobs.path(entry.sha256),
                media_type="application/octet-stream",
                headers={"etag": f'"{entry.sha256}"', "x-content-type-options": "nosniff"},
            )
    raise NotFound(f"The code of {found.name} has no file {path[:200]}.")


@router.get("/templates", **permits(Action.READ))
def templates(fleet: FleetDep, caller: Caller, team: str | None = None) -> list[Template]:
    return fleet.registry.templates(caller, team)


@router.get("/templates/{team}/{template}", **permits(Action.READ))
def get_template(fleet: FleetDep, caller: Caller, team: str, template: str) -> Template:
    return fleet.registry.get_template(caller, team, template)


@router.put("/templates/{team}/{template}", **permits(Action.REGISTER))
def set_template(
    fleet: FleetDep, caller: Caller, team: str, template: str, body: TemplateBody
) -> Template:
    given = body.model_dump() | {"requirements": tuple(body.requirements)}
    return fleet.registry.set_template(caller, Template(team, template, **given))


@router.delete("/templates/{team}/{template}", status_code=204, **permits(Action.REGISTER))
def delete_template(fleet: FleetDep, caller: Caller, team: str, template: str) -> None:
    fleet.registry.delete_template(caller, team, template)
