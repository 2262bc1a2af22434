"""Pipelines: a typed graph of models behind one endpoint.

`definition` is what a person writes; `check` refuses what can't work and makes a `plan` of it;
`service` holds the verbs (define, get, list, delete) and tells gateway and executors what to do.
`executor` is a process of the platform that runs plans; it calls every step through the gateway,
so that routes, canaries and shadows of the models count in pipelines, too.
"""
