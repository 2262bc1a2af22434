"""Moving an endpoint from one version to another, on evidence.

Verbs: `RolloutService.start`, `start_group`, `retry`, `pause`, `resume`, `abort`, `promote`,
`override`, `get`, `list`, `advance` (one look of the reconciler); of freeze windows
`FreezeService.create`, `list`, `delete`. `plan` says what a rollout is told, `step` is the pure
decision, `advance` reads the world and writes what was decided through `moving`; `judging` feeds
the `judge`, whose tests are in `sequential`; `contest` compares several arms, `groups` moves
several rollouts as one.
"""
