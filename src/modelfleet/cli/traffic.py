"""`endpoints traffic`: what decides over an endpoint's requests besides weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from modelfleet.cli.base import client, connected, show

_FIELD = {"field": lambda row: row["field"], "value": lambda row: row["value"]}


@click.command("traffic")
@click.argument("name")
@click.option("--sticky", help="header:NAME, cookie:NAME, caller, or none.")
@click.option(
    "--rule",
    "rules",
    nargs=2,
    multiple=True,
    metavar="CONDITION VERSION",
    help="header:NAME=VALUE, header:NAME^=PREFIX, caller:NAME or team:NAME, and where such "
    "requests go. Repeat in the order to be tried; replaces all rules.",
)
@click.option("--no-rules", is_flag=True, help="Take all rules back.")
@click.option("--rate-limit", help="Of each caller: REQUESTS/SECONDS, or none.")
@click.option("--concurrency", help="Requests that one worker runs at once, or none.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]))
@click.option("--timeout-ms", help="Of a request, or none for the one it was made with.")
@click.option("--per-try-timeout-ms", help="After it another worker is asked; or none.")
@click.option("--file", "file", type=click.File("rb"), help="The fields to change as JSON.")
@connected
def traffic(
    name: str,
    sticky: str | None,
    rules: Sequence[tuple[str, str]],
    no_rules: bool,
    rate_limit: str | None,
    concurrency: str | None,
    priority: str | None,
    timeout_ms: str | None,
    per_try_timeout_ms: str | None,
    file: Any,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """The traffic policy of endpoint NAME: without options shown, with options changed."""
    changes: dict[str, Any] = {} if file is None else _fields(file)
    if sticky is not None:
        changes["sticky"] = _sticky(sticky)
    if rules or no_rules:
        changes["rules"] = [_rule(*one) for one in rules]
    if rate_limit is not None:
        changes["rate_limit"] = _rate(rate_limit)
    if priority is not None:
        changes["priority"] = priority
    numbers = {
        "concurrency": concurrency,
        "timeout_ms": timeout_ms,
        "per_try_timeout_ms": per_try_timeout_ms,
    }
    changes |= {key: _number(key, value) for key, value in numbers.items() if value is not None}
    with client(home, url) as connection:
        path = f"/v1/endpoints/{name}/traffic"
        found: Any
        if changes:
            found = connection.api.patch(path, changes)
            found = found["traffic"]
        else:
            found = connection.api.get(path)
    if as_json:
        show(found, True)
        return
    show([{"field": key, "value": _words(value)} for key, value in found.items()], False, _FIELD)


def _fields(file: Any) -> dict[str, Any]:
    try:
        found = json.load(file)
    except ValueError as error:
        raise click.BadParameter(f"the file is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.BadParameter("the file holds no JSON object")
    return found


def _sticky(text: str) -> dict[str, str] | None:
    by, _, name = text.partition(":")
    if text == "none":
        return None
    if by not in ("header", "cookie", "caller"):
        raise click.BadParameter(f"{text!r} is not header:NAME, cookie:NAME, caller or none")
    return {"by": by, "name": name}


def _rule(condition: str, version: str) -> dict[str, str]:
    by, _, rest = condition.partition(":")
    if by in ("caller", "team") and rest:
        return {"version": version, by: rest}
    name, equals, value = rest.partition("=")
    if by != "header" or not equals:
        raise click.BadParameter(
            f"{condition!r} is not header:NAME=VALUE, header:NAME^=PREFIX, caller:NAME or team:NAME"
        )
    if name.endswith("^"):
        return {"version": version, "header": name[:-1], "prefix": value}
    return {"version": version, "header": name, "equals": value}


def _rate(text: str) -> dict[str, int] | None:
    if text == "none":
        return None
    requests, _, seconds = text.partition("/")
    try:
        return {"requests": int(requests), "seconds": int(seconds or 1)}
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not REQUESTS/SECONDS or none") from error


def _number(name: str, text: str) -> int | None:
    try:
        return None if text == "none" else int(text)
    except ValueError as error:
        raise click.BadParameter(f"{name}: {text!r} is neither a number nor none") from error


def _words(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return "; ".join(_words(one) for one in value)
    if isinstance(value, dict):
        given = {k: v for k, v in value.items() if v != "" and not k.endswith("_id")}
        return " ".join(f"{key}={part}" for key, part in given.items())
    return str(value)
