"""`modelfleet gateway`: what the gateway does, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import click

from modelfleet.cli.base import client, connected, show


@click.group()
def gateway() -> None:
    """The gateway: where requests go."""


@gateway.command("explain")
@click.argument("model")
@click.option("--path", help="Try a request with this path. [/v2/models/MODEL/infer]")
@click.option("--method", default="POST", help="Of that request.")
@click.option("--header", "headers", multiple=True, help="Of that request: NAME=VALUE.")
@click.option("--caller", help="Principal who sends that request.")
@connected
def explain(
    model: str,
    path: str | None,
    method: str,
    headers: Sequence[str],
    caller: str | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """What happens to requests for the endpoint MODEL; with --path, --header or --caller, to one.

    Exit code 1 if the gateway does not run what was written last, or refuses the request.
    """
    asked: list[tuple[str, str]] = [("method", method)]
    asked += [("header", one) for one in headers]
    asked += [(name, value) for name, value in (("path", path), ("by", caller)) if value]
    with client(home, url) as connection:
        at = f"/v1/endpoints/{quote(model, safe='')}/gateway?{urlencode(asked)}"
        found: Any = connection.api.get(at)
    if as_json:
        show(found, True)
    else:
        for line in _lines(found):
            click.echo(line)
    decision = found["gateway"]["decision"]
    if not found["in_step"] or not found["applied"] or (decision and decision["status"]):
        raise SystemExit(1)


def _lines(found: Any) -> Iterator[str]:
    told = found["gateway"]
    yield f"endpoint {told['endpoint']}"
    yield from _standing(found)
    if told["known"]:
        yield "versions"
        for one in told["versions"]:
            yield (
                f"  {one['version']} (number {one['sequence']}): {one['percent']:g} % "
                f"in pool {one['pool']}"
            )
        yield "replicas"
        for one in told["replicas"]:
            yield f"  {one['pool']} {one['address']}: {one['health']}"
        yield "a version is chosen"
        steps = [
            "by the path (/versions/...) or the header x-model-version",
            *told["rules"],
            "by weight",
        ]
        for number, step in enumerate(steps, 1):
            yield f"  {number}. {step}"
        for title, lines in (
            ("shadows", told["shadows"]),
            ("patience", told["patience"]),
            ("limits", told["limits"]),
            ("access", [told["access"]]),
        ):
            if lines:
                yield title
                yield from (f"  {line}" for line in lines)
    yield from _refusals(found["refusals"])
    if found["keys"] is not None:
        yield "keys"
        yield from (f"  {one}" for one in found["keys"] or ["none"])
    if told["decision"]:
        yield from _decision(told["decision"])


def _standing(found: Any) -> Iterator[str]:
    told = found["gateway"]
    if not told["known"]:
        yield "  the gateway was told nothing of it: it answers 404"
    if not found["applied"]:
        yield "  its newest routes and policy are not live yet"
    if not found["in_step"]:
        running = told["running"] or "nothing that is known"
        yield f"  revision {told['written']} was written, the gateway runs {running}"
    if told["refused"]:
        yield f"  the gateway refused {told['refused']} updates since it started: see its log"


def _refusals(found: Any) -> Iterator[str]:
    yield f"refused in the last {found['minutes']} minutes"
    for one in found["reasons"]:
        yield f"  {one['count']:,} {one['reason']}: {one['words']}"
    if not found["known"]:
        yield "  it is not known whether more: the counters can't be read right now"
    elif not found["reasons"]:
        yield "  none"
    if (shed := found["shed"]) and shed["refused_per_second"] is not None:
        since = f" since {shed['since']}" if shed["since"] else ""
        yield f"  overloaded{since}: {shed['refused_per_second']:,.1f} a second are refused"


def _decision(decision: Any) -> Iterator[str]:
    yield "this request"
    if decision["status"]:
        yield f"  is answered {decision['status']}: {decision['why']}"
        return
    yield f"  {decision['why']}"
    for version, percent in decision["chances"].items():
        yield f"  goes to {version} with {percent:g} %"
    for version, percent in decision["shadows"].items():
        yield f"  is copied to {version} with {percent:g} %"
    yield f"  needs the scope {decision['scope']}"
