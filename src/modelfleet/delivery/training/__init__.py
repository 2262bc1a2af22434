"""Making a better version: what a model's document says of its training, run when there is cause.

Verbs: `TrainingService.start`, `list`, `get`, `log`, `cancel`, and `look`, which the reconciler
calls. `Triggers.look` finds causes: a schedule, an alias that moved, new data, drift. What was
trained is registered as a version like any other and goes through the same gates and rollout.
"""

from modelfleet.delivery.training.plan import Cause, Plan
from modelfleet.delivery.training.service import TrainingService
from modelfleet.delivery.training.triggers import Triggers

__all__ = ["Cause", "Plan", "TrainingService", "Triggers"]
