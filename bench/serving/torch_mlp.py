"""A torch MLP: 4 inputs, two layers of 256, one output. `python torch_mlp.py FOLDER` saves it.

`torch.joblib` is an object with `predict` for the peers, `torch.pt2` the exported program for us.
"""

import io
import sys
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator

FEATURES = 4


def network():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(FEATURES, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256)]
    return torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(256, 1)).eval()


class TorchModel(BaseEstimator):
    """What one writes to serve a network: a tensor in, no gradient, an array out."""

    def __init__(self, content=b""):
        self.content = content

    def predict(self, rows):
        if not hasattr(self, "_network"):
            torch.set_num_threads(1)
            self._network = network()
            self._network.load_state_dict(torch.load(io.BytesIO(self.content), weights_only=True))
        with torch.inference_mode():
            return self._network(torch.as_tensor(np.asarray(rows, dtype=np.float32))).numpy()


if __name__ == "__main__":
    import torch_mlp  # so that the class is found by the module's name

    folder, made, buffer = Path(sys.argv[1]), network(), io.BytesIO()
    torch.save(made.state_dict(), buffer)
    joblib.dump(torch_mlp.TorchModel(buffer.getvalue()), folder / "torch.joblib")
    rows = {"rows": torch.export.Dim("rows", min=1, max=4096)}
    shapes = ({0: rows["rows"]},)
    program = torch.export.export(made, (torch.zeros(2, FEATURES),), dynamic_shapes=shapes)
    torch.export.save(program, folder / "torch.pt2")
