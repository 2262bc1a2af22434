"""How a change reaches traffic: what fleet files want, gates, approvals, rollouts, retraining.

Fleet files: `FleetFileService.plan`, `apply`, `remove`, `applied`, `export`. A plan is the
three-way difference (`diff`) of a document, what was last applied (`objects`) and what is there
(`world`, `facts`); `apply` carries one object's plan out in one transaction.
"""
