"""`modelfleet doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import show

_HOME = click.option(
    "--home", type=click.Path(path_type=Path), help="Defaults to MODELFLEET_HOME or ~/.modelfleet."
)
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@_HOME
@click.option("--json", "as_json", is_flag=True)
@click.option("--deep", is_flag=True, help="Read every byte that is served.")
@click.option("--probe", is_flag=True, help="Send each live endpoint its version's example.")
def doctor(home: Path | None, as_json: bool, deep: bool, probe: bool) -> None:
    """Look at every part of a home and of this machine; nothing is changed.

    Works on a stopped home and on a broken one. A line each: ok, warn or fail, and what to do.
    Exit code 1 if anything fails. Requests of --probe are recorded as those of caller `doctor`.
    """
    import msgspec

    from modelfleet.core.settings import default_home
    from modelfleet.host.doctor import examine

    place = (home or default_home()).expanduser().resolve()
    report = examine(place, deep=deep, probe=probe)
    if as_json:
        plain: Any = msgspec.to_builtins(report, enc_hook=str)
        show(plain | {"ok": report.ok}, True)
    else:
        width = max(len(one.check) for one in report.findings)
        for one in report.findings:
            mark = click.style(f"{one.status:<4}", fg=_COLOURS[one.status])
            click.echo(f"{mark}  {one.check:<{width}}  {one.says}")
            if one.remedy:
                click.echo(f"      {'':<{width}}  -> {one.remedy}")
        counts = [f"{report.count(kind)} {kind}" for kind in ("ok", "warn", "fail")]
        click.echo(", ".join(counts), err=True)
    if not report.ok:
        raise SystemExit(1)


@click.command("support-bundle")
@_HOME
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The archive to write, FILE.tar.gz.",
)
@click.option("--lines", default=500, help="Of the end of each log.")
@click.option("--json", "as_json", is_flag=True)
def support_bundle(home: Path | None, output: Path, lines: int, as_json: bool) -> None:
    """Collect what somebody needs who helps from afar.

    The doctor's report, settings, versions, states, ends of logs, the gateway's configuration,
    shapes and sizes of databases. Keys, tokens, inputs and outputs of predictions stay here.
    """
    import msgspec

    from modelfleet.core.settings import default_home
    from modelfleet.host.support import collect

    place = (home or default_home()).expanduser().resolve()
    made = collect(place, output.absolute(), lines=lines)
    if as_json:
        show(msgspec.to_builtins(made, enc_hook=str), True)
        return
    click.echo(f"{made.path}  ({made.bytes} bytes, {len(made.files)} files)")
    for one in made.omitted:
        click.echo(f"left out: {one}", err=True)
    click.echo("Names of models and teams are in it. Look through it before you send it.", err=True)
