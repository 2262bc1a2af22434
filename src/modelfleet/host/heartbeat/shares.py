"""Fair shares that nobody follows any more.

The control plane sets what the gateway lets in of an overloaded endpoint, and follows what the
model can do. Without it a share would stay for ever, whatever becomes of the overload. So it is
lifted, and the workers refuse by themselves again, which costs more and is always right.
"""

from __future__ import annotations

import time
from pathlib import Path

from modelfleet.core.layout import Layout
from modelfleet.serving.gateway import GatewayFiles

ABANDONED_SECONDS = 30.0
"""without a good round of the reconciler; a restart takes two or three"""


def lift_abandoned(layout: Layout) -> list[str]:
    """The endpoints whose shares were lifted just now."""
    if _age(layout.reconciled) < ABANDONED_SECONDS:
        return []
    gateway = GatewayFiles(layout)
    lifted = [one.endpoint for one in gateway.shares()]
    if lifted:
        gateway.set_shares(())
    return lifted


def _age(path: Path) -> float:
    """Seconds since it was touched."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return ABANDONED_SECONDS
