"""The curve of a tuning, as SVG and as text: requests per second by largest batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 320, 70, 50, 40


def bars(found: Mapping[str, Any], width: int = 40) -> list[str]:
    """A bar for each size; the chosen one is marked."""
    rows = [("loop", found["inline"])] + [(str(one["rows"]), one) for one in found["sizes"]]
    most = max(one["requests_per_second"] for _, one in rows)
    lines = []
    for name, one in rows:
        bar = "#" * max(1, round(width * one["requests_per_second"] / most))
        mark = "<" if _is_chosen(found, name) else ""
        lines.append(f"{name:>5} {bar} {one['requests_per_second']:,.0f}/s {mark}".rstrip())
    return lines


def _is_chosen(found: Mapping[str, Any], name: str) -> bool:
    return name == ("loop" if found["place"] == "inline" else str(found["rows"]))


def svg(found: Mapping[str, Any]) -> str:
    """Requests per second over the largest batch; hollow points miss the objective."""
    sizes: Sequence[Mapping[str, Any]] = found["sizes"]
    loop = float(found["inline"]["requests_per_second"])
    most = max(loop, *(float(one["requests_per_second"]) for one in sizes)) * 1.1
    step = (_WIDTH - _LEFT - 30) / max(len(sizes) - 1, 1)

    def y(pace: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * pace / most

    points = [(_LEFT + k * step, y(one["requests_per_second"])) for k, one in enumerate(sizes)]
    title = f"{found['model']}@{found['version']}: requests/s of a worker, by its largest batch"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' font-family="sans-serif" font-size="12"><title>{escape(title)}</title>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = y(most * share)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{most * share:,.0f}</text>'
        )
    at = y(loop)
    parts.append(
        f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{at:.1f}" y2="{at:.1f}" stroke="#b45309"'
        f' stroke-dasharray="6 4"/><text x="{_WIDTH - 20}" y="{at - 5:.1f}" text-anchor="end"'
        ' fill="#b45309">on the event loop</text>'
    )
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1d4ed8" stroke-width="2"/>')
    for (a, b), one in zip(points, sizes, strict=True):
        fill = "#1d4ed8" if one["fits"] else "#fff"
        radius = 7 if _is_chosen(found, str(one["rows"])) else 4
        parts.append(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{radius}" fill="{fill}" stroke="#1d4ed8">'
            f"<title>{one['rows']} rows: p95 {one['p95_ms']:g} ms</title></circle>"
            f'<text x="{a:.1f}" y="{_HEIGHT - 28}" text-anchor="middle">{one["rows"]}</text>'
        )
    under = f"largest batch, {found['concurrency']} clients of a worker; hollow: p95 above "
    parts.append(
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{under}{found["objective_ms"]:g} ms</text></svg>'
    )
    return "\n".join(parts) + "\n"
