"""What commands share: the client, tables, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from modelfleet.client import Client

_F = TypeVar("_F", bound=Callable[..., Any])


def connected(function: _F) -> _F:
    """Options of every command that talks to a server."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="The API's own answer."),
        click.option(
            "--home", type=click.Path(path_type=Path), help="Use the modelfleet of this home."
        ),
        click.option("--url", envvar="MODELFLEET_URL", help="Use the modelfleet at this address."),
    ):
        function = option(function)
    return function


def client(home: Path | None, url: str | None) -> Client:
    return Client(url, home=home)


def show(
    found: object,
    as_json: bool,
    columns: Mapping[str, Callable[[Any], object]] | None = None,
) -> None:
    """JSON, a table of `columns` for a list, or names and values for one thing."""
    if as_json or columns is None:
        click.echo(json.dumps(found, indent=None if as_json else 2, ensure_ascii=False))
        return
    if isinstance(found, list):
        table(list(columns), [[make(row) for make in columns.values()] for row in found])
        return
    width = max(len(name) for name in columns)
    for name, make in columns.items():
        click.echo(f"{name:<{width}}  {_text(make(found))}")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their content, one row a line."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max([len(title), *(len(row[k]) for row in cells)]) for k, title in enumerate(head)]
    lines = [[title.upper() for title in head], *cells]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _text(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_text(v)}" for k, v in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(v) for v in value) or "-"
    return str(value)
