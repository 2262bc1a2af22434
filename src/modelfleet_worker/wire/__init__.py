"""What the worker shares with the rest of the fleet: files and bytes, nothing else.

`bundle` and `spec` describe a model on disk; `desired` says what a pool should hold; `control` and
`segment` are the shared memory in which a worker tells how it is and what it predicted;
`signature`, `tensors` and `profile` describe the data of a model; `ids` names predictions.
"""
