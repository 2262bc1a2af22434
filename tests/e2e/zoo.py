"""Models of tests, well-behaved and not. They travel by value: the worker never sees this file.

All take a tensor `x` [rows, 3] and answer `score` [rows]; bad ones misbehave when the first
feature is above `TRIGGER`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]
TRIGGER = 100.0
EXAMPLE = np.random.default_rng(7).normal(size=(400, 3))
EXAMPLE[0, 2] = 0.00099
"""the row that a worker warms up with: also a model that fails most requests answers it"""


class Linear:
    """A logistic score. shift: added to it. fails: share of the rows that raise, alone or
    with others in a small batch."""

    def __init__(self, shift: float = 0.0, fails: float = 0.0, weight: float = 1.0) -> None:
        self.shift = shift
        self.fails = fails
        self.weight = weight

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        x = np.asarray(inputs["x"])
        if len(x) <= 64 and np.any(np.abs(x[:, 2] * 1000) % 1.0 < self.fails):
            raise RuntimeError("this one I cannot do")
        return {"score": 1 / (1 + np.exp(-self.weight * x[:, 0])) + self.shift}


class Deliberate(Linear):
    """50 ms a call; raises for rows whose first feature is above 50."""

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        time.sleep(0.05)
        if np.any(np.asarray(inputs["x"])[:, 0] > 50):
            raise ValueError("above fifty")
        return super().predict(inputs)


class Scarce(Linear):
    """20 ms a row: a worker answers fifty a second, however they are put together."""

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        time.sleep(0.02 * len(np.asarray(inputs["x"])))
        return super().predict(inputs)


class Heavy(Linear):
    """Takes so many seconds to load."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        time.sleep(self.seconds)


class Bad(Linear):
    """how: raise, hang, exit or eat."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        if float(np.max(inputs["x"])) > TRIGGER:
            misbehave(self.how)
        return super().predict(inputs)


def misbehave(how: str) -> None:
    if how == "raise":
        raise ValueError("such a number is not for me")
    if how == "hang":
        time.sleep(20)
    if how == "exit":
        os._exit(3)
    if how == "eat":
        kept = []
        while True:
            kept.append(np.ones(4 << 20))


class Spy:
    """Tries to read what model code must not see: `found` is the number of files it could read,
    `user` the id of the user it runs as."""

    def __init__(self, home: str) -> None:
        self.places = [
            f"{home}/{name}"
            for name in ("admin.key", "fleet.db", "evidence.db", "keys/signing.pem")
        ]

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        found = 0
        for place in self.places:
            try:
                with open(place, "rb") as stream:
                    found += len(stream.read(1))
            except OSError:
                continue
        count = len(inputs["x"])
        return {
            "score": np.zeros(count),
            "found": np.full(count, float(found)),
            "user": np.full(count, float(os.geteuid())),
        }


class Wide(Linear):
    """Answers a few megabytes, however little it is asked."""

    VALUES = 400_000

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        return {"values": np.full((len(inputs["x"]), self.VALUES), 0.12345)}


class Slow(Linear):
    """Takes its time over each row of a request whose first feature is above `TRIGGER`."""

    SECONDS = 0.2

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        if float(np.max(inputs["x"])) > TRIGGER:
            time.sleep(self.SECONDS * len(inputs["x"]))
        return super().predict(inputs)
