"""The Open Inference Protocol over gRPC: a process that turns each call into one over HTTP.

The gateway hands it all calls of `inference.GRPCInferenceService`; it asks the gateway again, with
the caller's own credentials, so that keys, weights, shadows, limits and the prediction log are the
same for both protocols. `python -m modelfleet.compat.grpc --home HOME`.
"""
