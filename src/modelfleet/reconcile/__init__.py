"""The one loop that makes what is into what should be.

Level-triggered: every round reads everything and repeats what is not yet true, so it doesn't
matter when the process last died. Verbs: `Reconciler.start`, `stop`, `round`.
"""

from modelfleet.reconcile.loop import Reconciler

__all__ = ["Reconciler"]
