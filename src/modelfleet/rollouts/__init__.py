"""Moving an endpoint from one version to another, on evidence.

Verbs: `RolloutService.start`, `pause`, `resume`, `abort`, `get`, `list`, `advance` (one tick of
the reconciler). `sequential` holds the tests, `judge` the verdict, `step` the pure decision.
"""
