"""Every framework: made where it is, registered from its files, served, compared with itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import SETTINGS, Platform, say

import modelfleet
from modelfleet.client.errors import ClientError

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("e2e-frameworks"),
]
TORCH = "torch==2.13.0"
PACKAGES = {
    "catboost": ["catboost"],
    "torch": [TORCH, "onnx", "onnxscript"],
    "tensorflow": ["tensorflow-cpu"],
    "mlflow": ["mlflow-skinny", "scikit-learn", "pandas", "skops"],
}


@pytest.fixture(scope="module")
def wheels() -> Path:
    """A folder with PyTorch as pip finds it: for the processor alone, where that is to be had."""
    folder = Path(tempfile.gettempdir()) / f"modelfleet-wheels-{os.getuid()}"
    if not list(folder.glob("torch-*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "-d", str(folder), TORCH], check=True, timeout=600)
    return folder


@pytest.fixture(scope="module")
def platform(wheels: Path) -> Iterator[Platform]:
    made = Platform(SETTINGS.replace("memory_mb = 600", "memory_mb = 4000\nreplicas = 1"))
    made.environment["UV_FIND_LINKS"] = str(wheels)
    try:
        made.up()
        yield made
    finally:
        made.end()


def run_maker(what: str, folder: Path, packages: list[str], **environment: str) -> None:
    """A function of `makers.py`, in an environment with these packages."""
    uv = str(Path(sys.executable).parent / "uv")
    wanted = [part for one in packages for part in ("--with", one)]
    run = (uv, "run", "--quiet", "--no-project", "--isolated", "--python", "3.11", *wanted)
    done = subprocess.run(
        [*run, "python", str(Path(__file__).with_name("makers.py")), what, str(folder)],
        timeout=600,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def made(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder with what a framework's maker made."""
    folders: dict[str, Path] = {}

    def make(what: str) -> Path:
        if what not in folders:
            folders[what] = tmp_path_factory.mktemp(what)
            run_maker(what, folders[what], PACKAGES[what], UV_FIND_LINKS=str(wheels))
        return folders[what]

    return make


def register(platform: Platform, path: Path, name: str, *options: str) -> dict[str, Any]:
    """By the command line; the version's details."""
    done = platform.run(
        *("versions", "register", str(path), "--name", name, "--team", "e2e"),
        *("--wait", "--json", *options),
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ready"
    found: Any = platform.client.api.get(f"/v1/models/{name}/versions/latest")
    return found  # type: ignore[no-any-return]


def agrees(platform: Platform, folder: Path, name: str, truth: str) -> None:
    """Deployed and asked through the gateway, it answers as the framework did."""
    ended = platform.client.deploy(name, wait=True)
    assert ended.state == "succeeded", ended
    with np.load(folder / f"{truth}.npz") as rows:
        given = {key[3:]: rows[key] for key in rows.files if key.startswith("in_")}
        wanted = {key[4:]: rows[key] for key in rows.files if key.startswith("out_")}
    found: Any = platform.client.predict(name, given)["outputs"]
    answers = {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in found}
    for output, truth_of in wanted.items():
        if truth_of.dtype.kind in "US":
            assert answers[output].tolist() == truth_of.tolist()
        else:
            np.testing.assert_allclose(answers[output], truth_of, rtol=1e-3, atol=1e-4)


def shown(name: str, details: dict[str, Any]) -> None:
    speed = details["variants"][0]["evidence"]["speed"]
    say(f"{name}: {details['version']['serving']} {speed} {details['gates'][-1]['sentence']}")


@pytest.mark.parametrize(
    ("what", "file", "truth", "serving", "options"),
    [
        ("catboost", "three.cbm", "three", "compiled", []),
        ("catboost", "towns.cbm", "towns", "source", ["--example", "towns.json"]),
        ("catboost", "own.onnx", "own", "source", []),
        ("torch", "net.pt2", "net", "compiled", []),
        ("torch", "script.pt", "net", "compiled", ["--example", "x.npy"]),
        (
            "torch",
            "weights.pt",
            "net",
            "compiled",
            "--source net.py --class Net --argument hidden=8 --example x.npy".split(),
        ),
        (
            "torch",
            "halving.pt",
            "halving",
            "source",
            "--source net.py --class Halving --argument hidden=8 --example x.npy".split(),
        ),
        ("torch", "single.onnx", "net1", "source", []),
        ("torch", "amplified.pt", "amplified", "source", ["--example", "amplified-rows.npz"]),
        ("tensorflow", "scaled", "scaled", "source", ["--example", "scaled-rows.npz"]),
        (
            "tensorflow",
            "scored.keras",
            "scored",
            "compiled",
            "--source sorted.py --example x.npy".split(),
        ),
        ("tensorflow", "saved", "saved", "compiled", []),
        ("tensorflow", "shout", "shout", "source", ["--example", "text.json"]),
        ("tensorflow", "dense.keras", "dense", "compiled", []),
        ("tensorflow", "ranked.keras", "ranked", "source", ["--source", "sorted.py"]),
        ("mlflow", "linear", "linear", "compiled", []),
        ("mlflow", "sums", "sums", "source", ["--example", "abc.csv"]),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else None,
)
def test_a_model_from_its_files(
    platform: Platform,
    made: Any,
    what: str,
    file: str,
    truth: str,
    serving: str,
    options: list[str],
) -> None:
    folder = made(what)
    rows(folder)
    name = file.replace(".", "-")
    here = [str(folder / one) if (folder / one).is_file() else one for one in options]
    details = register(platform, folder / file, name, *here)
    shown(name, details)
    assert details["version"]["serving"] == serving, details["gates"]
    assert details["progress"] is None
    gates = {gate["gate"]: gate for gate in details["gates"]}
    assert gates["parity"]["verdict"] == ("pass" if serving == "compiled" else "inconclusive")
    assert gates["loads"]["evidence"]["sandbox"]["missing"] == []
    assert details["variants"][0]["evidence"]["speed"]["source_1_us"] > 0
    if truth == "net1":  # the same net, exported for one row at a time
        with np.load(folder / "net.npz") as found:
            np.savez(folder / "net1.npz", in_x=found["in_x"], **only(details, found["out_output"]))
    agrees(platform, folder, name, truth)


def only(details: dict[str, Any], output: Any) -> dict[str, Any]:
    """`output` under the name that the version gave it."""
    name = details["version"]["info"]["signature"]["outputs"][0]["name"]
    return {f"out_{name}": output}


def rows(folder: Path) -> None:
    """Example files beside the models."""
    from makers import X

    np.save(folder / "x.npy", X)
    x = X.astype(np.float32)
    np.savez(folder / "amplified-rows.npz", x=x[:8], gain=2)
    np.savez(folder / "scaled-rows.npz", x=x[:3], by=np.float32(2))
    (folder / "text.json").write_text(json.dumps({"text": ["one", "three"]}))
    towns = {"f0": X[:8, 0].tolist(), "f1": ["odd", "even"] * 4}
    (folder / "towns.json").write_text(json.dumps(towns))
    lines = ["a,b,c", *(",".join(map(str, row[:3])) for row in X[:6])]
    (folder / "abc.csv").write_text("\n".join(lines))


def test_parameters_and_optional_columns_of_mlflow(platform: Platform, made: Any) -> None:
    register(platform, made("mlflow") / "tuned", "tuned")
    assert platform.client.deploy("tuned", wait=True).state == "succeeded"

    def ask(**body: Any) -> Any:
        found = platform.ask("tuned", body, verb="invocations")
        return found.status, found.body

    both = {"columns": ["a", "n"], "data": [[1.0, 5], [2.0, 6]]}
    assert ask(dataframe_split=both) == (200, {"predictions": [{"0": 7.0}, {"0": 10.0}]})
    alone = [{"a": 1.0}, {"a": 2.0}]
    status, found = ask(dataframe_records=alone)
    assert (status, [list(one.values()) for one in found["predictions"]]) == (200, [[2.0], [4.0]])
    status, found = ask(dataframe_split=both, params={"gain": 10})
    assert (status, [list(one.values()) for one in found["predictions"]]) == (200, [[15.0], [26.0]])
    for params, complaint in (({"gain": "much"}, "'gain'"), ({"gian": 1}, "unknown parameter")):
        status, found = ask(dataframe_split=both, params=params)
        assert status == 400
        assert complaint in found["message"]
    status, found = ask(dataframe_split={"columns": ["a", "n"], "data": [[1.0, 5.5]]})
    assert (status, found["message"]) == (400, "column 'n' takes whole numbers")


@pytest.mark.parametrize("what", ["torch", "catboost"])
def test_an_object_from_the_process_that_trained_it(
    platform: Platform, wheels: Path, tmp_path: Path, what: str
) -> None:
    source = str(Path(modelfleet.__file__).parents[1])
    packages = [PACKAGES[what][0], "httpx2", "click", "msgspec", "numpy"]
    run_maker(
        f"live_{what}",
        tmp_path,
        packages,
        PYTHONPATH=source,
        UV_FIND_LINKS=str(wheels),
        MODELFLEET_HOME=str(platform.home),
    )
    found: Any = platform.client.api.get(f"/v1/models/live-{what}/versions/latest")
    assert found["version"]["serving"] == "compiled", found["gates"]
    agrees(platform, tmp_path, f"live-{what}", f"live-{what}")


def test_frameworks_that_are_here_from_their_files(platform: Platform, tmp_path: Path) -> None:
    import joblib
    import lightgbm
    import xgboost
    from makers import X, keep
    from sklearn.linear_model import LogisticRegression

    y = (X[:, 0] > 0).astype(int)
    linear = LogisticRegression().fit(X, y)
    light = lightgbm.LGBMClassifier(n_estimators=5, min_child_samples=2, verbose=-1).fit(X, y)
    extreme = xgboost.XGBClassifier(n_estimators=5).fit(X, y)
    joblib.dump(linear, tmp_path / "linear.joblib")
    light.booster_.save_model(tmp_path / "light.txt")
    extreme.save_model(tmp_path / "extreme.ubj")
    for model, file in ((linear, "linear.joblib"), (light, "light.txt"), (extreme, "extreme.ubj")):
        name = f"here-{file.partition('.')[0]}"
        details = register(platform, tmp_path / file, name)
        assert "parity" in {gate["gate"] for gate in details["gates"]}
        keep(tmp_path, name, {"x": X}, {"probability": model.predict_proba(X)})
        agrees(platform, tmp_path, name, name)


@pytest.mark.parametrize(
    ("what", "file", "options", "complaint"),
    [
        ("torch", "weights.pt", [], "weights without code"),
        ("torch", "seven.pt2", [], "exactly 7 rows"),
        ("torch", "net.py", [], "no model that is known here"),
        ("torch", "script.pt", [], "give an example"),
        ("mlflow", "unsigned", [], "give an example"),
        ("tensorflow", "shout", [], "give an example"),
    ],
)
def test_what_cannot_be_registered_is_told_why(
    platform: Platform, made: Any, what: str, file: str, options: list[str], complaint: str
) -> None:
    done = platform.run(
        *("versions", "register", str(made(what) / file), "--name", "nothing", "--team", "e2e"),
        *options,
        timeout=300,
    )
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ClientError):
        platform.client.model("nothing")


def test_a_lock_that_cannot_be_resolved_says_why(platform: Platform, tmp_path: Path) -> None:
    from makers import X
    from sklearn.linear_model import Ridge

    with pytest.raises(ClientError, match="no version of six==99"):
        platform.client.register(
            Ridge().fit(X, X[:, 0]),
            X,
            name="unresolvable",
            team="e2e",
            requirements=["scikit-learn", "six==99"],
            wait=True,
        )
