"""BentoML with one model; MODEL in the environment."""

import os

import bentoml
import joblib
import numpy as np


@bentoml.service(workers="cpu_count", logging={"access": {"enabled": False}})
class Peer:
    def __init__(self) -> None:
        self.model = joblib.load(os.environ["MODEL"])

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.predict(x))
