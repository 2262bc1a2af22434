"""Training: experiments, runs and what they logged.

Verbs of `TrackingService`: on experiments, on runs (`runs`), what logs (`measures`), what finds
(`search`, `model_search`), histories of metrics, logged models, and the files of both
(`artifacts`). Like the registry it is bound to one namespace. What may be logged is in `limits`.
"""
