"""Importing models and runs from elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from modelfleet.cli.base import client, connected, table

if TYPE_CHECKING:
    from modelfleet.importing import Options, Outcome, Source

_F = TypeVar("_F", bound=Callable[..., Any])
_KINDS = {"run": "run of ", "model": "logged model of "}
_PATH = click.Path(path_type=Path)


def _common(function: _F) -> _F:
    """Options of every import."""
    for option in (
        click.option("--team", default="imported", help="The team that owns new models."),
        click.option("--dry-run", is_flag=True, help="Look and tell; change nothing."),
        click.option("--wait/--no-wait", default=True, help="Until each version was checked."),
        click.option(
            "--unlisted-pickles", is_flag=True, help="Run pickles of unknown classes (sandboxed)."
        ),
        click.option(
            "--require-sandbox", is_flag=True, help="Run no model where the sandbox is incomplete."
        ),
        click.option(
            "--allow-builds", is_flag=True, help="Let requirements be built from source here."
        ),
        click.option("--journal", type=_PATH, help="Folder of the journal; one per source if not."),
    ):
        function = option(function)
    return connected(function)


@click.group("import")
def import_() -> None:
    """Import models and runs from other tools.

    Each item ends imported, needing attention (with what to do) or refused. A killed import goes
    on where it was when it is called again. See docs/importing.md.
    """


@import_.command("mlflow")
@click.argument("server")
@click.option(
    "--token", envvar="MLFLOW_TRACKING_TOKEN", help="Bearer token (MLFLOW_TRACKING_TOKEN)."
)
@click.option("--user", envvar="MLFLOW_TRACKING_USERNAME", help="Of basic authentication.")
@click.option("--password", envvar="MLFLOW_TRACKING_PASSWORD", help="Better by its variable.")
@click.option(
    "--runs/--no-runs",
    default=True,
    help="All runs and logged models, with their files; else only those of versions.",
)
@click.option("--leave-gaps", is_flag=True, help="Go past versions that could not be fetched.")
@click.option("--local-artifacts", is_flag=True, help="Read paths that the server names, here.")
@_common
def mlflow(
    server: str,
    token: str | None,
    user: str | None,
    password: str | None,
    runs: bool,
    local_artifacts: bool,
    leave_gaps: bool,
    **common: Any,
) -> int:
    """Everything of a running MLflow server (http://host:5000)."""
    from modelfleet.importing.mlflow_api import MlflowApi
    from modelfleet.importing.mlflow_server import MlflowServer

    api = MlflowApi(server, token=token, user=user, password=password)
    try:
        return _run(
            MlflowServer(api, runs=runs, local=local_artifacts), server, gaps=leave_gaps, **common
        )
    finally:
        api.close()


@import_.command("files")
@click.argument("paths", nargs=-1, required=True, type=_PATH)
@click.option("--map", "told", type=_PATH, help="models.yaml or CSV: name, team, example, ...")
@click.option("--kind", "kinds", multiple=True, help="Only this kind of file, repeatable.")
@_common
def files(paths: tuple[Path, ...], told: Path | None, kinds: tuple[str, ...], **common: Any) -> int:
    """Models in files and folders, as many tools leave them.

    Pickles, SageMaker, TorchServe, BentoML, MLflow, SavedModel, Keras, ONNX, Hugging Face, ...
    """
    from modelfleet.importing.files import KINDS, Files, read_map

    if unknown := set(kinds) - set(KINDS):
        raise click.BadParameter(f"{unknown.pop()!r} is none of {', '.join(KINDS)}")
    source = Files(paths, kinds=kinds, told=read_map(told) if told is not None else None)
    return _run(source, " ".join(str(path.resolve()) for path in paths), **common)


@import_.command("triton")
@click.argument("repository", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_common
def triton(repository: Path, **common: Any) -> int:
    """A model repository of Triton: what can be mapped, with versions and warm-up data."""
    from modelfleet.importing.triton import Triton

    return _run(Triton(repository), str(repository.resolve()), **common)


@import_.command("kserve")
@click.argument("manifests", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--storage", multiple=True, help="ADDRESS=FOLDER: where its files lie, repeatable.")
@_common
def kserve(manifests: tuple[Path, ...], storage: tuple[str, ...], **common: Any) -> int:
    """InferenceServices of KServe, from YAML."""
    from modelfleet.importing.kserve import KServe

    places = {}
    for one in storage:
        address, _, folder = one.rpartition("=")
        if not address or not folder:
            raise click.BadParameter(f"{one!r} is not ADDRESS=FOLDER")
        places[address] = Path(folder)
    return _run(KServe(manifests, places), " ".join(map(str, manifests)), **common)


@import_.command("runs")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--from", "tool", required=True, type=click.Choice(["wandb", "neptune"]))
@click.option("--project", default="wandb", help="The experiment of runs that name none.")
@click.option("--files", type=_PATH, help="Neptune: the folder of --files-path.")
@click.option("--step-multiplier", default=1, help="Neptune: makes decimal steps whole.")
@_common
def runs(
    path: Path, tool: str, project: str, files: Path | None, step_multiplier: int, **common: Any
) -> int:
    """Runs that were exported from Weights & Biases or Neptune."""
    from modelfleet.importing.neptune import Neptune
    from modelfleet.importing.wandb import Wandb

    source: Source = (
        Wandb(path, project) if tool == "wandb" else Neptune(path, files, step_multiplier)
    )
    return _run(source, f"{tool} {path.resolve()}", **common)


def _run(
    source: Source,
    where: str,
    *,
    team: str,
    dry_run: bool,
    wait: bool,
    unlisted_pickles: bool,
    require_sandbox: bool,
    allow_builds: bool,
    journal: Path | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
    gaps: bool = False,
) -> int:
    from modelfleet.client.waiting import Line
    from modelfleet.importing import Options, run
    from modelfleet.importing.journal import Journal

    if not allow_builds:
        os.environ.setdefault("UV_NO_BUILD", "1")  # building runs a package's own code
    options: Options = Options(team, dry_run, wait, unlisted_pickles, require_sandbox, gaps)
    with client(home, url) as connection:
        folder = journal or _default_journal(home, source.name, where, connection.api.url)
        with Journal(folder) as book, Line(f"import {source.name}") as line:
            found = run(source, connection, book, options, line.say)
    return _report(found, folder, as_json, dry_run)


def _default_journal(home: Path | None, source: str, where: str, target: str) -> Path:
    """The same for the same source and the same server."""
    from modelfleet.client.transport import home_folder

    name = hashlib.sha256(f"{source}\n{where}\n{target}".encode()).hexdigest()[:16]
    return home_folder(home) / "imports" / f"{source}-{name}"


def _report(found: list[Outcome], folder: Path, as_json: bool, dry_run: bool) -> int:
    counts = dict.fromkeys(("imported", "attention", "refused"), 0)
    for outcome in found:
        counts[outcome.state] += 1
    if as_json:
        items = msgspec.to_builtins(found)
        click.echo(json.dumps({"items": items, **counts, "journal": str(folder)}))
    else:
        word = {"imported": "would be imported"} if dry_run else {}
        rows = [
            [
                word.get(one.state, one.state) + (" earlier" if one.earlier else ""),
                _KINDS.get(one.what, "") + one.model,
                f"{one.version or ''} ({one.sequence})" if one.sequence else one.version,
                one.example,
                "; ".join([*([one.reason] if one.reason else []), *one.notes]),
            ]
            for one in found
        ]
        table(["state", "item", "version", "example", "remarks"], rows)
        for one in found:
            if one.kept:
                click.echo(f"Kept: {one.model} {one.version or ''} in {one.kept}", err=True)
        said = ", ".join(f"{number} {state}" for state, number in counts.items())
        click.echo(f"{said}. Journal: {folder}", err=True)
    weaker = sorted({one.sandbox for one in found if one.sandbox})
    if weaker:
        click.secho(f"THE SANDBOX WAS INCOMPLETE: {'; '.join(weaker)}", fg="red", err=True)
    return 1 if counts["attention"] or counts["refused"] else 0
