"""A thousand logistic regressions as ONNX: `python density_graphs.py FOLDER COUNT FEATURES`.

Runs in an environment with skl2onnx. Writes `<k>.onnx` and `<k>.npz` (x, label, probability).
"""

import sys
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

folder, count, features = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
for index in range(1, count + 1):
    rng = np.random.default_rng(index)
    x = rng.normal(size=(64, features))
    model = LogisticRegression().fit(x, x @ rng.normal(size=features) > 0)
    graph = to_onnx(model, x[:1].astype(np.float32), options={"zipmap": False})
    (folder / f"{index}.onnx").write_bytes(graph.SerializeToString())
    x = x[:8]
    label = model.predict(x).astype(np.int64)
    np.savez(folder / f"{index}.npz", x=x, label=label, probability=model.predict_proba(x))
