"""Owners, watchers, comments, reviews, templates, lineage of anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

import modelfleet.cli.standing  # noqa: F401  # adds commands to both
from modelfleet.cli.base import client, connected, show
from modelfleet.cli.rebuild import code, rebuild
from modelfleet.cli.registry import _ISOLATION, EDGE, _pairs, models, versions

__all__ = ["comments", "lineage", "models", "reviews", "templates", "versions"]

_PERSON = {"principal": lambda p: p["principal"], "since": lambda p: p["since"]}
_COMMENT = {
    "id": lambda c: c["id"],
    "author": lambda c: c["author"],
    "when": lambda c: c["created_at"] + (" (edited)" if c["edited_at"] else ""),
    "text": lambda c: c["text"].replace("\n", " / "),
}
_REVIEW = {
    "id": lambda r: r["id"],
    "version": lambda r: f"{r['model']}@{r['version']}",
    "asked of": lambda r: r["reviewer"] or f"role {r['role']}",
    "by": lambda r: r["requested_by"],
    "state": lambda r: r["state"],
    "note": lambda r: r["note"],
    "answer": lambda r: r["answer"],
    "answered by": lambda r: r["answered_by"],
}
_TEMPLATE = {
    "team": lambda t: t["team"],
    "name": lambda t: t["name"],
    "criticality": lambda t: t["criticality"],
    "function": lambda t: t["business_function"],
    "isolation": lambda t: t["isolation"],
    "tags": lambda t: t["tags"],
    "requirements": lambda t: t["requirements"],
}
versions.add_command(rebuild)
versions.add_command(code)


@models.command("owners")
@click.argument("name")
@click.option("--add", "added", multiple=True, help="A principal; repeatable.")
@click.option("--remove", "removed", multiple=True, help="A principal; repeatable.")
@connected
def owners(
    name: str,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Who answers for a model, beside its owner team; rights come from grants alone."""
    path = f"/v1/models/{name}/owners"
    with client(home, url) as connection:
        for one in added:
            connection.api.put(f"{path}/{quote(one, safe='')}", None)
        for one in removed:
            connection.api.delete(f"{path}/{quote(one, safe='')}")
        show(connection.api.get(path), as_json, _PERSON)


@models.command("watch")
@click.argument("name")
@connected
def watch(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Be named in the events that tell of changes of the model."""
    with client(home, url) as connection:
        show(connection.api.put(f"/v1/models/{name}/watch", None), as_json, _PERSON)


@models.command("unwatch")
@click.argument("name")
@connected
def unwatch(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Watch it no longer."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/models/{name}/watch")


@models.command("watchers")
@click.argument("name")
@connected
def watchers(name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Who watches a model."""
    with client(home, url) as connection:
        show(connection.api.get(f"/v1/models/{name}/watchers"), as_json, _PERSON)


@click.group()
def comments() -> None:
    """Comments: what people say about a version."""


def _path(model: str, version: str, what: str) -> str:
    return f"/v1/models/{model}/versions/{version}/{what}"


@comments.command("list")
@click.argument("model")
@click.argument("version", default="latest")
@connected
def list_comments(
    model: str, version: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """The oldest first."""
    with client(home, url) as connection:
        show(connection.api.get(_path(model, version, "comments")), as_json, _COMMENT)


@comments.command("add")
@click.argument("model")
@click.argument("version")
@click.argument("text")
@connected
def add_comment(
    model: str, version: str, text: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Say something; - reads it from standard input."""
    said = sys.stdin.read() if text == "-" else text
    with client(home, url) as connection:
        found = connection.api.post(_path(model, version, "comments"), {"text": said})
    show(found, as_json, _COMMENT)


@comments.command("edit")
@click.argument("model")
@click.argument("version")
@click.argument("comment_id")
@click.argument("text")
@connected
def edit_comment(
    model: str,
    version: str,
    comment_id: str,
    text: str,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Change what you said."""
    with client(home, url) as connection:
        path = _path(model, version, f"comments/{comment_id}")
        show(connection.api.patch(path, {"text": text}), as_json, _COMMENT)


@comments.command("delete")
@click.argument("model")
@click.argument("version")
@click.argument("comment_id")
@connected
def delete_comment(
    model: str, version: str, comment_id: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Take back what you said; an admin may delete any."""
    with client(home, url) as connection:
        connection.api.delete(_path(model, version, f"comments/{comment_id}"))


@click.group()
def reviews() -> None:
    """Reviews: somebody is asked to look at a version before it goes on."""


@reviews.command("list")
@click.argument("model", required=False)
@click.argument("version", default="latest")
@click.option("--mine", is_flag=True, help="Only what you are asked to answer.")
@click.option("--state", type=click.Choice(["open", "approved", "changes-requested", "withdrawn"]))
@connected
def list_reviews(
    model: str | None,
    version: str,
    mine: bool,
    state: str | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Of one version, or of all models."""
    with client(home, url) as connection:
        if model is None:
            found: Any = connection.api.get("/v1/reviews", state=state, mine=str(mine).lower())
        else:
            found = connection.api.get(_path(model, version, "reviews"))
            found = [one for one in found if state in (None, one["state"])]
    show(found, as_json, _REVIEW)


@reviews.command("request")
@click.argument("model")
@click.argument("version")
@click.option("--reviewer", default="", help="A principal.")
@click.option("--role", default="", help="Anybody of the team who has this role.")
@click.option("--note", default="", help="What to look at.")
@connected
def request_review(
    model: str, version: str, home: Path | None, url: str | None, as_json: bool, **given: str
) -> None:
    """Ask somebody, or a role."""
    if bool(given["reviewer"]) == bool(given["role"]):
        raise click.UsageError("Give --reviewer or --role.")
    with client(home, url) as connection:
        show(connection.api.post(_path(model, version, "reviews"), given), as_json, _REVIEW)


@reviews.command("answer")
@click.argument("model")
@click.argument("version")
@click.argument("review_id")
@click.option("--approve", "state", flag_value="approved", help="It is good.")
@click.option("--request-changes", "state", flag_value="changes-requested", help="It is not yet.")
@click.option("--comment", default="", help="Why; needed when changes are requested.")
@connected
def answer_review(
    model: str,
    version: str,
    review_id: str,
    state: str | None,
    comment: str,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Approve, or request changes; by who was asked."""
    if state is None:
        raise click.UsageError("Give --approve or --request-changes.")
    with client(home, url) as connection:
        path = _path(model, version, f"reviews/{review_id}/answer")
        show(connection.api.post(path, {"state": state, "comment": comment}), as_json, _REVIEW)


@reviews.command("withdraw")
@click.argument("model")
@click.argument("version")
@click.argument("review_id")
@connected
def withdraw_review(
    model: str, version: str, review_id: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Take a request back."""
    with client(home, url) as connection:
        path = _path(model, version, f"reviews/{review_id}/withdraw")
        show(connection.api.post(path), as_json, _REVIEW)


@click.group()
def templates() -> None:
    """Templates: what new models of a team start with."""


@templates.command("list")
@click.option("--team", help="Only those of this team.")
@connected
def list_templates(team: str | None, home: Path | None, url: str | None, as_json: bool) -> None:
    """By team and name."""
    with client(home, url) as connection:
        show(connection.api.get("/v1/templates", team=team), as_json, _TEMPLATE)


@templates.command("show")
@click.argument("team")
@click.argument("name")
@connected
def show_template(team: str, name: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """One template."""
    with client(home, url) as connection:
        show(connection.api.get(f"/v1/templates/{team}/{name}"), as_json, _TEMPLATE)


@templates.command("set")
@click.argument("team")
@click.argument("name")
@click.option("--function", "business_function", help="The business function.")
@click.option("--criticality", type=click.Choice(["low", "normal", "high", "critical"]))
@click.option("--isolation", type=_ISOLATION)
@click.option("--tag", "tags", multiple=True, callback=_pairs, help="KEY=VALUE, repeatable.")
@click.option(
    "--requirement",
    "requirements",
    multiple=True,
    help="Added to versions that do not name the package; repeatable.",
)
@connected
def set_template(
    team: str, name: str, home: Path | None, url: str | None, as_json: bool, **given: Any
) -> None:
    """Make a template, or replace it; models that were made with it stay as they are."""
    with client(home, url) as connection:
        body = given | {"requirements": list(given["requirements"])}
        show(connection.api.put(f"/v1/templates/{team}/{name}", body), as_json, _TEMPLATE)


@templates.command("delete")
@click.argument("team")
@click.argument("name")
@connected
def delete_template(
    team: str, name: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """Remove a template."""
    with client(home, url) as connection:
        connection.api.delete(f"/v1/templates/{team}/{name}")


@click.group()
def lineage() -> None:
    """Lineage: from datasets over features, runs, versions, deployments to their consumers."""


@lineage.command("show")
@click.argument("kind")
@click.argument("name")
@click.option("--direction", type=click.Choice(["upstream", "downstream", "both"]), default="both")
@connected
def show_lineage(
    kind: str, name: str, direction: str, home: Path | None, url: str | None, as_json: bool
) -> None:
    """The ways to and from a thing, nearest first.

    KIND: dataset, feature-view, run, model, version (MODEL@VERSION), endpoint, pipeline, batch or
    application.
    """
    with client(home, url) as connection:
        found = connection.api.get("/v1/lineage", kind=kind, name=name, direction=direction)
    show(found, as_json, EDGE)


def _edge(source: tuple[str, str], destination: tuple[str, str]) -> dict[str, Any]:
    nodes = {"source": source, "destination": destination}
    return {side: {"kind": kind, "name": name} for side, (kind, name) in nodes.items()}


@lineage.command("add")
@click.option("--from", "source", nargs=2, required=True, metavar="KIND NAME")
@click.option("--to", "destination", nargs=2, required=True, metavar="KIND NAME")
@connected
def add_edge(
    source: tuple[str, str],
    destination: tuple[str, str],
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Declare that data flows from one thing to another, where modelfleet can't see it."""
    with client(home, url) as connection:
        found = connection.api.post("/v1/lineage/edges", _edge(source, destination))
    show(found, as_json, EDGE)


@lineage.command("remove")
@click.option("--from", "source", nargs=2, required=True, metavar="KIND NAME")
@click.option("--to", "destination", nargs=2, required=True, metavar="KIND NAME")
@connected
def remove_edge(
    source: tuple[str, str],
    destination: tuple[str, str],
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Take a declared edge back."""
    with client(home, url) as connection:
        connection.api.delete("/v1/lineage/edges", _edge(source, destination))
