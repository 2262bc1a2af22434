"""Starting, ending and looking at the modelfleet of this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import show, table

_HOME = click.option(
    "--home", type=click.Path(path_type=Path), help="Defaults to MODELFLEET_HOME or ~/.modelfleet."
)


@click.command()
@_HOME
@click.option("--host", help="Address to listen on. [127.0.0.1]")
@click.option("--port", type=int, help="Of API and pages; 0 picks a free one. [8080]")
@click.option("--gateway-port", type=int, help="Of predictions; 0 picks a free one. [8081]")
@click.option(
    "--dev",
    is_flag=True,
    help="For tests and development: namespaces on first use, webhooks to this machine.",
)
def up(home: Path | None, dev: bool, **given: Any) -> None:
    """Start modelfleet and stay in the foreground; Ctrl-C stops everything.

    Settings come from HOME/settings.toml and MODELFLEET_* variables as well.
    """
    import os

    from modelfleet.core.settings import load_settings
    from modelfleet.host import run

    if dev:  # all processes read their settings themselves
        for name in ("CREATE_NAMESPACES", "PRIVATE_WEBHOOKS"):
            os.environ[f"MODELFLEET_REGISTRY__{name}"] = "true"
    overrides = {name: value for name, value in given.items() if value is not None}
    settings = load_settings(home, overrides)
    click.echo(f"Starting modelfleet in {settings.home} ...", err=True)
    run(settings, _announce)
    click.echo("Stopped.", err=True)


@click.command()
@_HOME
@click.option("--host", help="Address to listen on. [127.0.0.1]")
@click.option("--port", type=int, default=0, help="Of API and pages; 0 picks a free one. [0]")
def control(home: Path | None, host: str | None, port: int) -> None:
    """Run a further control plane of a home, in the foreground; needs PostgreSQL.

    It serves API and pages like the one that `modelfleet up` runs, on this machine, over the same
    home. When the leading one dies it goes on with its jobs and rollouts, within seconds.
    """
    import os
    import sys

    from modelfleet.core.database import check
    from modelfleet.core.errors import InvalidInput
    from modelfleet.core.settings import load_settings
    from modelfleet.host.compose import overrides_as_environment
    from modelfleet.host.ports import free_port, is_free

    settings = load_settings(home, {"host": host} if host else None)
    if not settings.database.url:
        raise InvalidInput(
            "A home with SQLite has one control plane.",
            hint="For several of them, use PostgreSQL (database.url).",
        )
    if not settings.layout.signing_key.exists():
        raise InvalidInput(f"{settings.home} was never started.", hint="Start: modelfleet up")
    check(settings)
    if port and not is_free(settings.host, port):
        raise InvalidInput(f"Port {port} is taken.", hint="Choose another one, or 0.")
    chosen = port or free_port(settings.host)
    click.echo(f"API         http://{settings.host}:{chosen}/v1")
    sys.stdout.flush()
    argv = [sys.executable, "-m", "modelfleet.app"]
    argv += ["--home", str(settings.home), "--port", str(chosen)]
    os.execve(argv[0], argv, {**os.environ, **overrides_as_environment(settings)})


def _announce(status: Any) -> None:
    from modelfleet.client import Client
    from modelfleet.client.transport import key_of

    with Client(home=status.home) as client:
        found: Any = client.api.post("/v1/login-links")
        api = client.api.url
        click.echo(f"Pages       {api}{found['path']}  (logs you in, once, for ten minutes)")
        click.echo(f"API         {api}/v1")
        click.echo(f"Predictions {client.gateway_url}/v2/models/NAME/infer")
        click.echo(f"Metrics     http://127.0.0.1:{status.ports.metrics}/metrics")
    if key_of(status.home):
        click.echo(f"Key         {status.home / 'admin.key'}")


@click.command()
@_HOME
def down(home: Path | None) -> None:
    """Stop the modelfleet of this home; exit code 1 if none runs."""
    from modelfleet.core.settings import load_settings
    from modelfleet.host import down as stop

    settings = load_settings(home)
    if not stop(settings.layout):
        click.echo(f"Nothing runs in {settings.home}.", err=True)
        raise SystemExit(1)


@click.command()
@_HOME
@click.option("--rolling", is_flag=True, help="Replace every process, one after the other.")
def restart(home: Path | None, rolling: bool) -> None:
    """Let the host agent replace itself; serving goes on undisturbed.

    With --rolling all processes follow: gateway, control plane, collector, workers. No request
    fails if pools have two workers or more.
    """
    from modelfleet.core.settings import load_settings
    from modelfleet.host import restart as replace
    from modelfleet.host import roll

    layout = load_settings(home).layout
    if not rolling:
        replace(layout)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Replacing", total=None)
        replaced = roll(
            layout,
            lambda done, total, name: bar.update(
                task, completed=done, total=total, description=f"Replacing {name}"
            ),
        )
    click.echo(f"Replaced {replaced} processes.", err=True)


@click.command()
@_HOME
@click.option("--json", "as_json", is_flag=True)
def status(home: Path | None, as_json: bool) -> None:
    """What runs and how it is; exit code 1 if not everything is ready."""
    import msgspec

    from modelfleet.core.settings import load_settings
    from modelfleet.host import status as look

    found = look(load_settings(home).layout)
    if as_json:
        plain: Any = msgspec.to_builtins(found, enc_hook=str)
        show(plain | {"ready": found.ready}, True)
    else:
        word = "ready" if found.ready else "not ready" if found.running else "not running"
        ports = found.ports
        click.echo(f"modelfleet in {found.home}: {word}")
        if ports is not None and found.running:
            click.echo(f"api {ports.api}  gateway {ports.gateway}  metrics {ports.metrics}")
        rows: list[list[object]] = [
            [name, p.state, p.pid, p.restarts, p.last_exit]
            for name, p in sorted(found.observed.processes.items())
        ]
        for pool, seen in sorted(found.observed.pools.items()):
            rows += [
                [f"{pool}/{r.replica}", r.state, r.pid, r.restarts, r.error or r.last_exit]
                for r in seen.replicas
            ]
        if rows:
            table(["process", "state", "pid", "restarts", "last trouble"], rows)
    if not found.ready:
        raise SystemExit(1)


@click.command()
@click.argument("process", required=False)
@_HOME
@click.option("--lines", default=50, help="How many of the last lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows.")
def logs(process: str | None, home: Path | None, lines: int, follow: bool) -> None:
    """The log of PROCESS (as `status` names it); without one, their names."""
    from modelfleet.core.settings import load_settings
    from modelfleet.host import log_files, tail

    layout = load_settings(home).layout
    known = log_files(layout)
    if process is None:
        for name in known:
            click.echo(name)
        return
    name = process.replace("/", "-")
    for line in tail(layout, name, lines=lines):
        click.echo(line)
    if follow:
        _follow(known[name])


def _follow(path: Path) -> None:
    with path.open("rb") as stream:
        stream.seek(0, 2)
        while True:
            line = stream.readline()
            if line:
                click.echo(line.rstrip(b"\n").decode(errors="replace"))
            else:
                time.sleep(0.2)
