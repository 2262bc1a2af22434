"""What runs pipelines: `python -m modelfleet.serving.pipelines.executor`, a process of the
platform. Two replicas form the gateway's pool `pipelines`. It runs no code of models.
"""
