"""Where and in what batches a version runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show, table
from modelfleet.views.tuning import bars, svg


@click.command()
@click.argument("model")
@click.argument("version", default="latest")
@click.option("--objective-ms", default=50.0, help="p95 in the worker that must be kept. [50]")
@click.option("--concurrency", default=16, help="Clients at a time, over all workers. [16]")
@click.option("--apply", is_flag=True, help="Let workers run it so from now on.")
@click.option("--reset", is_flag=True, help="Let workers choose by themselves again.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The curve as SVG.")
@connected
def tune(
    model: str,
    version: str,
    objective_ms: float,
    concurrency: int,
    apply: bool,
    reset: bool,
    output: Path | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Measure VERSION of MODEL with 1, 2, 4, ... 256 rows a call, and say how it runs best: on the
    event loop of a worker, or in a thread with batches of what size."""
    path = f"/v1/models/{model}/versions/{version}/tuning"
    with client(home, url) as connection:
        if reset:
            connection.api.delete(path)
            return
        body = {"objective_ms": objective_ms, "concurrency": concurrency, "apply": apply}
        found: Any = connection.api.post(path, body)
    if output is not None:
        output.write_text(svg(found))
    if as_json:
        show(found, True)
        return
    head = ["batch", "us a call", "us a row", "requests/s", "p95 ms", "fits"]
    rows = [("loop", found["inline"]), *((one["rows"], one) for one in found["sizes"])]
    names = ("call_us", "row_us", "requests_per_second", "p95_ms")
    table(
        head,
        [
            [name, *(f"{one[k]:,.1f}" for k in names), "yes" if one["fits"] else "no"]
            for name, one in rows
        ],
    )
    click.echo()
    for line in bars(found):
        click.echo(line)
    click.echo()
    click.echo(f"{found['model']}@{found['version']}: {found['sentence']}.")
    if found["gain"] != 1.0:
        said = "Applied." if apply else "Apply it with --apply."
        click.echo(said)
