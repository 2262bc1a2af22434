"""Envoy's admin interface: HTTP over a Unix socket that only we may open."""

from __future__ import annotations

from pathlib import Path

from modelfleet.core import unix_http


def get(admin_socket: Path, path: str, seconds: float = 2.0) -> str | None:
    """The body of a good answer; None if the gateway can't be asked right now."""
    answer = unix_http.get(admin_socket, path, seconds)
    return answer.body if answer is not None and answer.status == 200 else None


def statistics(admin_socket: Path, pattern: str) -> dict[str, str] | None:
    """Counters, gauges and texts whose name matches the regular expression, by name."""
    body = get(admin_socket, f"/stats?filter={pattern}")
    if body is None:
        return None
    pairs = (line.partition(": ") for line in body.splitlines())
    return {name: value.strip().strip('"') for name, _, value in pairs}
