"""LitServe with one model: `python peer_litserve.py PORT`; MODEL and CORES in the environment."""

import os
import sys

import joblib
import litserve
import numpy as np


class Peer(litserve.LitAPI):
    def setup(self, device):
        self.model = joblib.load(os.environ["MODEL"])

    def decode_request(self, request):
        return np.asarray(request["x"])

    def predict(self, x):
        return self.model.predict(x)

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    cores = int(os.environ["CORES"])
    server = litserve.LitServer(Peer(), accelerator="cpu", workers_per_device=cores)
    server.run(
        port=int(sys.argv[1]),
        num_api_servers=cores,
        log_level="warning",
        generate_client_file=False,
    )
