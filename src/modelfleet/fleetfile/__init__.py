"""Fleet files: what a team wants of its models, as text in version control.

Typed documents (`gates`, `rollout`, `model`), how they are read and merged, and their JSON Schema.
Knows only text and types: it runs with the client as well as in the control plane.
"""
