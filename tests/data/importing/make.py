"""Made the files beside it, with the libraries that they are of.

    uv run --with torch --with torch-model-archiver --with bentoml --with scikit-learn==1.9.1 \\
        python make.py FOLDER

Leaves churn.bentomodel (`bentoml models export`), net.mar (TorchScript) and weights.mar (a state
dict with its module), as `torch-model-archiver` packs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

NET = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 2)

    def forward(self, x):
        return torch.softmax(self.first(x), 1)
"""
HANDLER = "def handle(data, context):\n    return data\n"


def bento(folder: Path) -> None:
    os.environ["BENTOML_HOME"] = tempfile.mkdtemp()
    import bentoml
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(60, 4))
    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    saved = bentoml.sklearn.save_model(
        "churn", model, labels={"team": "growth"}, metadata={"auc": 0.91, "by": "ann"}
    )
    bentoml.models.export_model(str(saved.tag), str(folder / "churn.bentomodel"))


def torchserve(folder: Path) -> None:
    import torch

    work = Path(tempfile.mkdtemp())
    (work / "net.py").write_text(NET)
    (work / "handler.py").write_text(HANDLER)
    sys.path.insert(0, str(work))
    from net import Net  # type: ignore[import-not-found]

    torch.manual_seed(0)
    net = Net().eval()
    torch.jit.script(net).save(str(work / "net.pt"))
    torch.save(net.state_dict(), work / "weights.pt")
    pack = ["torch-model-archiver", "--force", "--version", "1.0", "--export-path", str(folder)]
    script = ["--serialized-file", str(work / "net.pt"), "--handler", "image_classifier"]
    subprocess.run([*pack, "--model-name", "net", *script], check=True)
    parts = ["--serialized-file", str(work / "weights.pt"), "--model-file", str(work / "net.py")]
    handler = ["--handler", str(work / "handler.py")]
    subprocess.run([*pack, "--model-name", "weights", *parts, *handler], check=True)


if __name__ == "__main__":
    bento(Path(sys.argv[1]))
    torchserve(Path(sys.argv[1]))
