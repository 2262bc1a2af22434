"""Turning a bundle's model into ONNX, and proving that the result is the same and faster.

Runs in the model's own environment with the converters beside it, never in a worker.
`graphs` converts, `trial` compares and measures, `converter` is the process (`python -m
modelfleet_worker.convert`).
"""
