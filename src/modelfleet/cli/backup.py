"""Backups of this machine's home. No server is asked: it works also when none runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import show, table

PASSPHRASE = "MODELFLEET_BACKUP_PASSPHRASE"
_PATH = click.Path(path_type=Path)
_HOME = click.option("--home", type=_PATH, help="Defaults to MODELFLEET_HOME or ~/.modelfleet.")
_KEY_FILE = click.option("--key-file", type=_PATH, help="Of an encrypted backup.")
_ASK = click.option("--passphrase", is_flag=True, help=f"Ask for one, or take ${PASSPHRASE}.")
_SNAPSHOT = click.option("--snapshot", help="Another one than the newest.")
_JSON = click.option("--json", "as_json", is_flag=True)


class _DestinationFirst(click.Group):
    """`backup DEST` is `backup create DEST`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = ["create", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("--help",):
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DestinationFirst)
def backup() -> None:
    """Back a home up: `modelfleet backup DEST`, also while it runs. See also: restore."""


@backup.command()
@click.argument("dest", type=_PATH)
@_HOME
@click.option("--encrypt", is_flag=True, help="With --key-file or a passphrase; keys come along.")
@_KEY_FILE
@_ASK
@click.option("--with-keys", is_flag=True, help="Signing and admin key, though not encrypted.")
@click.option("--with-evidence", is_flag=True, help="Counters, windows and predictions, too.")
@_JSON
def create(
    dest: Path,
    home: Path | None,
    encrypt: bool,
    key_file: Path | None,
    passphrase: bool,
    with_keys: bool,
    with_evidence: bool,
    as_json: bool,
) -> None:
    """A new snapshot in the folder DEST; contents that are there already are not copied again.

    Without encryption no keys are kept, unless --with-keys: whoever reads the backup could act as
    anybody. Exit code 1 if contents of versions are missing in the home.
    """
    from modelfleet.backup import Place
    from modelfleet.backup import create as make
    from modelfleet.core.settings import load_settings

    settings = load_settings(home)
    if dest.resolve().is_relative_to(settings.home):
        raise click.UsageError("A backup can't lie in the home itself.")
    secret = _secret(key_file, passphrase, asked=encrypt, confirm=not dest.exists())
    place = Place(dest, secret, create=True)
    with _bar("Copying", as_json) as told:
        found = make(settings, place, keys=with_keys, evidence=with_evidence, report=told)
    if as_json:
        _show(found)
    else:
        size = f"{_bytes(found.new_bytes)} of {_bytes(found.all_bytes)}"
        click.echo(f"Snapshot {found.snapshot} in {found.folder}")
        click.echo(f"{found.rows} rows, {found.blobs} blobs; {found.new_objects} new, {size}")
        if not found.keys:
            click.echo("Without keys: after a restore, keys must be issued anew.", err=True)
        if not found.settings and settings.layout.settings_file.exists():
            click.echo("Without settings.toml: it holds the database's password.", err=True)
        for one in found.missing:
            click.echo(f"Missing or damaged in the home: blob {one}", err=True)
    if found.missing:
        raise SystemExit(1)


@backup.command("list")
@click.argument("source", type=_PATH)
@_KEY_FILE
@_ASK
@_JSON
def list_(source: Path, key_file: Path | None, passphrase: bool, as_json: bool) -> None:
    """Snapshots in SOURCE, newest first."""
    from modelfleet.backup import Place

    place = Place(source, _secret(key_file, passphrase))
    found = [place.manifest(one) for one in reversed(place.snapshots())]
    rows = [
        {
            "snapshot": one.id,
            "release": one.release,
            "store": one.store,
            "rows": sum(one.rows.values()),
            "blobs": len(one.blobs),
            "bytes": sum(one.objects().values()),
            "keys": one.keys,
            "evidence": one.evidence,
        }
        for one in found
    ]
    if as_json:
        show(rows, True)
    elif rows:
        table(list(rows[0]), [list(row.values()) for row in rows])


@backup.command()
@click.argument("source", type=_PATH)
@_SNAPSHOT
@_KEY_FILE
@_ASK
@_JSON
def verify(
    source: Path, snapshot: str | None, key_file: Path | None, passphrase: bool, as_json: bool
) -> None:
    """Read every byte of a snapshot in SOURCE; exit code 1 if any is wrong."""
    from modelfleet.backup import Place
    from modelfleet.backup import verify as check

    place = Place(source, _secret(key_file, passphrase))
    with _bar("Reading", as_json) as told:
        found = check(place, snapshot, told)
    if as_json:
        _show(found, ok=found.ok)
    else:
        for one in found.bad:
            click.echo(one, err=True)
        word = "whole" if found.ok else f"not whole: {len(found.bad)} contents are bad"
        size = f"{found.objects} contents, {_bytes(found.bytes)}"
        click.echo(f"Snapshot {found.snapshot} is {word} ({size}).")
    if not found.ok:
        raise SystemExit(1)


@backup.command()
@click.argument("source", type=_PATH)
@click.option("--keep", type=click.IntRange(1), required=True, help="How many of the newest stay.")
@_KEY_FILE
@_ASK
@_JSON
def prune(source: Path, keep: int, key_file: Path | None, passphrase: bool, as_json: bool) -> None:
    """Remove older snapshots from SOURCE, and contents that only they need."""
    from modelfleet.backup import Place

    found = Place(source, _secret(key_file, passphrase)).prune(keep)
    if as_json:
        _show(found)
        return
    size = f"{found.objects} contents, {_bytes(found.bytes)}"
    click.echo(f"Removed {len(found.snapshots)} snapshots ({size}).")


@click.command()
@click.argument("source", type=_PATH)
@click.option("--home", type=_PATH, required=True, help="A folder that is empty or not there.")
@click.option(
    "--database-url",
    default="",
    help="An empty PostgreSQL database; without one, SQLite. The password comes from "
    "MODELFLEET_DATABASE__PASSWORD or from this address.",
)
@_SNAPSHOT
@_KEY_FILE
@_ASK
@_JSON
def restore(
    source: Path,
    home: Path,
    database_url: str,
    snapshot: str | None,
    key_file: Path | None,
    passphrase: bool,
    as_json: bool,
) -> None:
    """Build a home from a backup in SOURCE. Either it is whole, or it is not there."""
    from modelfleet.backup import Place
    from modelfleet.backup import restore as build

    place = Place(source, _secret(key_file, passphrase))
    password = os.environ.get("MODELFLEET_DATABASE__PASSWORD", "")
    with _bar("Restoring", as_json) as told:
        found = build(
            place,
            home,
            snapshot=snapshot,
            database_url=database_url,
            password=password,
            report=told,
        )
    if as_json:
        _show(found)
        return
    click.echo(f"Restored {found.snapshot} into {found.home} ({found.store}).")
    click.echo(f"{found.rows} rows, {found.blobs} blobs. Start it: modelfleet up")
    if not found.keys:
        click.echo("It makes new keys when it starts: those of before do not count.", err=True)


def _secret(
    key_file: Path | None, passphrase: bool, *, asked: bool = False, confirm: bool = False
) -> Any:
    """How to make the place's seal; None for a backup that is not encrypted."""
    from modelfleet.backup import seal_from_key_file, seal_from_passphrase

    if key_file is not None and passphrase:
        raise click.UsageError("--key-file and --passphrase exclude each other.")
    if key_file is not None:
        return lambda salt: seal_from_key_file(key_file, salt)
    given = os.environ.get(PASSPHRASE)
    if not (passphrase or asked or given):
        return None
    if given is None:
        given = str(
            click.prompt("Passphrase", hide_input=True, err=True, confirmation_prompt=confirm)
        )
    text = given
    return lambda salt: seal_from_passphrase(text, salt)


@contextmanager
def _bar(what: str, silent: bool) -> Iterator[Callable[[str, int, int], None]]:
    """On a terminal."""
    if silent:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    bar = Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda _name, done, total: bar.update(task, completed=done, total=total)


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _show(found: object, **more: object) -> None:
    import msgspec

    plain: Any = msgspec.to_builtins(found, enc_hook=str)
    show(plain | more, True)
