"""From an error to what a person reads: what happened, what to do, an exit code."""

from __future__ import annotations

import os
import traceback

import click

_CODES = {400: 2, 413: 2, 422: 2, 401: 4, 403: 4, 404: 5, 409: 5, 503: 3}


def explain(error: Exception) -> int:
    """Write to stderr; return the exit code."""
    from modelfleet.client.errors import ApiError, ClientError, Unreachable
    from modelfleet.core.errors import FleetError

    if isinstance(error, ApiError):
        return _say(error.detail, error.hint, _CODES.get(error.status, 70))
    if isinstance(error, Unreachable):
        return _say(str(error), "", 3)
    if isinstance(error, ClientError):
        return _say(str(error), "", 1)
    if isinstance(error, FleetError):
        return _say(error.message, error.hint, error.exit_code)
    if os.environ.get("MODELFLEET_DEBUG"):
        click.echo(traceback.format_exc(), err=True)
    hint = "Set MODELFLEET_DEBUG=1 for the whole story."
    return _say(f"{type(error).__name__}: {error}", hint, 70)


def _say(message: str, hint: str, code: int) -> int:
    click.secho(f"Error: {message}", fg="red", err=True)
    if hint:
        click.echo(hint, err=True)
    return code
