"""Carrying out what serves: endpoints and routes, pools, environments, compiling, the gateway.

`endpoints` holds the public names; `pools` and `routing` plan, purely, what workers hold and
what the gateway runs; `environments` and `compile` make versions executable.
"""
