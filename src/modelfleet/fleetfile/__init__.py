"""Fleet files: what a team wants of its models, as text in version control.

`load` reads a folder into typed documents (`documents`, `sections`, `gates`): found, parsed with
the place of every value (`nodes`), merged (`merge`), checked (`validate`, `check`). `schema` is
their JSON Schema, `text` writes them. Knows only text and types: it runs with the client as well
as in the control plane.
"""
