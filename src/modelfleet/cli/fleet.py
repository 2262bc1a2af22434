"""Fleet files: plan, apply, diff, destroy, export, applied, schema."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from modelfleet.cli.base import connected, show
from modelfleet.client import Client
from modelfleet.client.waiting import Line

_F = TypeVar("_F", bound=Callable[..., Any])
_PLACE = click.argument("place", type=click.Path(path_type=Path), default=Path(), metavar="[PATH]")
_STAGE = click.option("--stage", default="", help="With the overlays of this stage.")
_PRUNE = click.option("--prune", is_flag=True, help="Also remove what the files no longer name.")
_RETRY = click.option(
    "--retry", is_flag=True, help="Start rollouts again whose version was rolled back."
)
_TIMEOUT = 120.0
_WAITED = 3600.0
_APPLIED = {
    "kind": lambda s: s["object"]["kind"],
    "name": lambda s: s["object"]["name"],
    "fleet": lambda s: s["object"]["fleet"],
    "stage": lambda s: s["object"]["stage"],
    "generation": lambda s: s["object"]["generation"],
    "version": lambda s: s["object"]["resolved"].get("version"),
    "commit": lambda s: s["object"]["commit"][:12],
    "by": lambda s: s["object"]["actor"],
    "at": lambda s: s["object"]["applied_at"],
    "state": lambda s: s["state"].replace("_", " "),
    "because": lambda s: s["sentence"],
}


def _client(home: Path | None, url: str | None) -> Client:
    return Client(url, home=home, timeout=_TIMEOUT)


def _refuse(problems: Sequence[object]) -> NoReturn:
    """Every problem on a line of its own; exit code 2."""
    for one in problems:
        click.echo(str(one), err=True)
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    click.secho(f"Error: {count}; nothing was changed.", fg="red", err=True)
    sys.exit(2)


def _loaded(place: Path, stage: str, prune: bool = False) -> Any:
    """The files, before anybody is asked for anything."""
    from modelfleet.fleetfile.files import settle
    from modelfleet.fleetfile.load import load
    from modelfleet.fleetfile.problems import Refused

    try:
        loaded = load(place, stage)
        settle(loaded)
    except Refused as refused:
        _refuse(refused.problems)
    if prune and not loaded.whole:
        raise click.UsageError("--prune takes the whole fleet: its folder or its fleet.yaml")
    return loaded


def _drafted(loaded: Any, connection: Client, *, prune: bool = False, retry: bool = False) -> Any:
    from modelfleet.fleetfile.problems import Refused
    from modelfleet.fleetfile.sending import draft

    try:
        return draft(connection, loaded, prune=prune, retry=retry)
    except Refused as refused:
        _refuse(refused.problems)


def _shown(plan: Mapping[str, Any], output: str) -> None:
    from modelfleet.cli import planned

    if output == "json":
        click.echo(json.dumps(plan, ensure_ascii=False))
        return
    lines = planned.markdown(plan) if output == "md" else planned.text(plan)
    for line in lines:
        click.echo(line)


@click.command()
@_PLACE
@_STAGE
@_PRUNE
@_RETRY
@click.option("-o", "--output", type=click.Choice(["text", "md", "json"]), default="text")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Keep the plan, to apply it."
)
@connected
def plan(
    place: Path,
    stage: str,
    prune: bool,
    retry: bool,
    output: str,
    out: Path | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Show what applying the fleet files at PATH would change.

    PATH is a folder, a fleet.yaml or one document. Exit code: 0 nothing would change, 1 something
    would, 2 the files are wrong.
    """
    loaded = _loaded(place, stage, prune)
    with _client(home, url) as connection:
        made = _drafted(loaded, connection, prune=prune, retry=retry)
    if out is not None:
        out.write_text(json.dumps(made.as_json(), ensure_ascii=False, indent=1), "utf-8")
    _shown(made.plan, "json" if as_json else output)
    sys.exit(1 if made.changing else 0)


@click.command()
@_PLACE
@_STAGE
@_PRUNE
@_RETRY
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--no-rollout", is_flag=True, help="Record the documents; start no rollout.")
@click.option("--wait", is_flag=True, help="Until the rollouts have ended.")
@connected
def apply(
    place: Path,
    stage: str,
    prune: bool,
    retry: bool,
    yes: bool,
    no_rollout: bool,
    wait: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Bring the platform to what the fleet files at PATH say.

    PATH is a folder, a fleet.yaml, one document, or a plan (`plan --out`), which is refused if
    somebody applied something else meanwhile. Shows the plan and asks. Interrupted, it goes on
    when it is run again. Exit code: 0 all was applied, 1 something waits for a rollout, 5 something
    was refused.
    """
    from modelfleet.cli import planned
    from modelfleet.fleetfile.sending import Applying

    kept = place.is_file() and place.suffix == ".json"
    if kept and (stage or prune or retry):
        raise click.UsageError("a plan says itself what --stage, --prune and --retry were")
    given = _read_plan(place) if kept else _loaded(place, stage, prune)
    with _client(home, url) as connection:
        made = given if kept else _drafted(given, connection, prune=prune, retry=retry)
        if not as_json:
            _shown(made.plan, "text")
        if made.changing and not yes:
            _confirm()
        run = Applying(connection, made, rollouts=not no_rollout)
        try:
            with Line("apply") as line:
                run.run(line.say)
                if wait:
                    _wait(connection, run, line)
        except KeyboardInterrupt:
            click.echo(f"{len(run.results)} objects were applied; run it again to go on.", err=True)
            raise click.Abort from None
    if as_json:
        show(run.results, True)
    elif run.results:
        for text in planned.outcomes(run.results):
            click.echo(text)
    sys.exit(_code(run.results))


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("there is nobody to ask: use --yes")
    click.confirm("Apply this?", abort=True)


def _read_plan(path: Path) -> Any:
    from modelfleet.client.errors import ClientError
    from modelfleet.fleetfile.sending import from_json

    try:
        return from_json(json.loads(path.read_text("utf-8")))
    except (ValueError, ClientError) as error:
        raise click.BadParameter(f"{path}: {error}") from error


def _wait(connection: Client, run: Any, line: Line) -> None:
    """For the rollouts; then pipelines that had to wait for them are defined."""
    for one in list(run.results):
        if one["rollout"]:
            line.say(f"waits for {one['name']} {one['version']}")
            ended = connection.wait_for_rollout(one["rollout"], _WAITED)
            if ended.state != "succeeded":
                one["outcome"], one["message"] = "refused", f"{ended.state}: {ended.sentence}"
    waiting = [(r["kind"], r["name"]) for r in run.results if r["outcome"] == "waiting"]
    if waiting:
        run.again(waiting, line.say)


def _code(results: Sequence[Mapping[str, Any]]) -> int:
    outcomes = {one["outcome"] for one in results}
    if outcomes & {"conflict", "refused"}:
        forbidden = all(
            one["status"] == 403 for one in results if one["outcome"] in ("conflict", "refused")
        )
        return 4 if forbidden else 5
    return 1 if "waiting" in outcomes else 0


@click.command()
@_PLACE
@_STAGE
@connected
def diff(place: Path, stage: str, home: Path | None, url: str | None, as_json: bool) -> None:
    """Compare the fleet files at PATH with what is there; fields alone.

    Exit code: 0 there is no difference, 1 there is one, 2 the files are wrong.
    """
    from modelfleet.cli import planned

    loaded = _loaded(place, stage)
    with _client(home, url) as connection:
        made = _drafted(loaded, connection)
    bare: dict[str, object] = {
        "steps": [],
        "affected": [],
        "samples": [],
        "warnings": [],
        "notes": [],
    }
    objects = [{**one, **bare} for one in made.changing]
    if as_json:
        show([{k: one[k] for k in ("kind", "name", "changes", "version")} for one in objects], True)
    else:
        for line in list(planned.text({**made.plan, "objects": objects}))[:-1]:
            click.echo(line)
    sys.exit(1 if objects else 0)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--fleet", help="Everything of this fleet.")
@click.option("--prune", is_flag=True, help="Do it; without it, only show what would go.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@connected
def destroy(
    names: tuple[str, ...],
    fleet: str | None,
    prune: bool,
    yes: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Stop serving what files applied: NAMES, or a whole --fleet.

    Endpoints, pipelines and declared lineage go; versions stay in the registry. What others use
    is refused. Exit code: 0 done, 1 something would go but --prune is missing, 5 refused.
    """
    from modelfleet.cli import planned
    from modelfleet.fleetfile.sending import remove

    if bool(names) == bool(fleet):
        raise click.UsageError("name objects, or a --fleet")
    with _client(home, url) as connection:
        known: Any = connection.api.get("/v1/fleet/objects", name=fleet)
        gone = [one for one in known if not names or one["name"] in names]
        for missing in sorted(set(names) - {one["name"] for one in gone}):
            raise click.UsageError(f"no file was applied for {missing}; see: modelfleet applied")
        for one in gone:
            if not as_json:
                click.secho(
                    f"- {one['kind']} {one['name']} (generation {one['generation']})", fg="red"
                )
        if not prune:
            if as_json:
                show(gone, True)
            elif gone:
                click.echo(f"{len(gone)} would be removed: with --prune they are.")
            sys.exit(1 if gone else 0)
        if gone and not yes:
            _confirm()
        signed = {"fleet": fleet or "default"}
        results = remove(connection, gone, signed) if gone else []
    if as_json:
        show(results, True)
    elif results:
        for text in planned.outcomes(results):
            click.echo(text)
    sys.exit(_code(results))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--name", "names", multiple=True, help="Only this model or pipeline; repeatable.")
@click.option("--fleet", default="default", help="Name of the fleet in fleet.yaml.")
@click.option("--force", is_flag=True, help="Write over files that are there.")
@connected
def export(
    folder: Path | None,
    names: tuple[str, ...],
    fleet: str,
    force: bool,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Write what is there as fleet files into FOLDER; to the terminal without one.

    Planning these files finds nothing to do.
    """
    from modelfleet.cli.exported import files_of

    with _client(home, url) as connection:
        query = "&".join(f"name={one}" for one in names)
        found: Any = connection.api.get(f"/v1/fleet/export{f'?{query}' if query else ''}")
    for missing in sorted(set(names) - {one["document"]["metadata"]["name"] for one in found}):
        raise click.UsageError(f"there is no model or pipeline {missing}")
    if as_json:
        show(found, True)
        return
    files = files_of(found, fleet)
    if folder is None:
        click.echo("---\n".join(text for path, text in files.items() if path != "fleet.yaml"))
        return
    taken = [path for path in files if (folder / path).exists()]
    if taken and not force:
        raise click.UsageError(
            f"{folder / taken[0]} is there already: use --force to write over it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        (folder / path).write_text(text, "utf-8")
    click.echo(f"{len(files)} files are in {folder}.")


@click.command()
@click.option("--fleet", help="Only of this fleet.")
@connected
def applied(fleet: str | None, home: Path | None, url: str | None, as_json: bool) -> None:
    """What was applied by files: by whom, from which commit, and whether it is still so."""
    with _client(home, url) as connection:
        show(connection.api.get("/v1/fleet/standings", name=fleet), as_json, _APPLIED)


@click.command()
@click.option(
    "--kind", type=click.Choice(["Fleet", "Model", "Pipeline"]), help="Of this kind only."
)
def schema(kind: str | None) -> None:
    """The JSON Schema of fleet files, for editors."""
    from modelfleet.fleetfile.schema import schema as made

    click.echo(json.dumps(made(kind), indent=2, ensure_ascii=False))
