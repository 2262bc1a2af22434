"""Ray Serve with one model: `python peer_ray.py PORT`; MODEL and CORES in the environment."""

import os
import sys
import time

import joblib
import numpy as np
import ray
from ray import serve
from ray.serve.schema import LoggingConfig

CORES = int(os.environ["CORES"])


@serve.deployment(num_replicas=CORES, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.5})
class Peer:
    def __init__(self, path):
        self.model = joblib.load(path)

    async def __call__(self, request):
        rows = np.asarray((await request.json())["x"])
        return {"y": self.model.predict(rows).tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    quiet = LoggingConfig(enable_access_log=False)
    serve.run(Peer.bind(os.environ["MODEL"]), route_prefix="/predict", logging_config=quiet)
    while True:
        time.sleep(60)
