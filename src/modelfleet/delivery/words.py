"""Sentences of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelfleet.delivery import facts
from modelfleet.delivery.samples import Expected
from modelfleet.rollouts.plan import FULL, Spec, Step, Strategy


def shape(spec: Spec) -> str:
    """The steps in a few words."""
    parts = [_step(step) for step in spec.plan]
    if spec.strategy is Strategy.CANARY:
        parts.append("100 %")
    return f" ({' → '.join(parts)})" if parts else ""


def _step(step: Step) -> str:
    if step.approve is not None:
        return f"approval of {step.approve.quorum} {step.approve.role}"
    if step.pause:
        return "pause"
    if step.shadow:
        return f"copies of {100 * step.shadow / FULL:g} %"
    return "preview" if step.preview is not None else f"{100 * step.weight / FULL:g} %"


def proof_warnings(
    spec: Spec, samples: Sequence[Expected], rate: float, plain: Mapping[str, Any]
) -> list[str]:
    found = []
    if spec.plan and rate == 0:
        found.append(
            "nobody calls the endpoint now: nothing can be proven, and it waits at its first step"
        )
    patience = spec.inconclusive_after_seconds
    last = {one.metric: one for one in samples if rate > 0}
    for metric, one in last.items():
        if one.requests is None:
            found.append(f"{metric}: no number of requests proves it: the margin is too tight")
        elif one.seconds is not None and one.seconds > patience:
            found.append(
                f"{metric}: half of all proofs take over {_time(one.seconds)}, and on_inconclusive "
                f"acts after {_time(patience)}: widen the margin, or use shadow"
            )
    endpoint = plain.get("endpoint", {})
    if spec.plan and endpoint.get("sticky", "none") != "none":
        found.append(
            "sticky: requests of one key belong together, so proofs need more of them than told"
        )
    return found


def _time(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def kept(plain: Mapping[str, Any]) -> list[str]:
    """Sections that nothing acts on yet."""
    found = [
        f"{key}: kept only; {what} come later" for key, what in facts.KEPT.items() if key in plain
    ]
    serve = plain.get("serve", {})
    for key in ("runtime", "env", "resources", "pinned"):
        if key in serve and serve[key] not in ("auto",):
            found.append(f"serve.{key}: kept only; nothing acts on it yet")
    return found
