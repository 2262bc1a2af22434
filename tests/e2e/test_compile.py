"""What the compiler makes of real estimators, and what serves from its source."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import SETTINGS, Platform, say
from zoo import EXAMPLE, Linear

from modelfleet.client.errors import ClientError
from modelfleet.client.saving import own_python, save

warnings.filterwarnings("ignore", category=UserWarning)
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("e2e-compile"),
]
X = np.random.default_rng(3).normal(size=(600, 4))
Y = (X[:, 0] + 0.5 * X[:, 1] ** 2 > 0.3).astype(np.int64)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    made = Platform(SETTINGS.replace("memory_mb = 600", "memory_mb = 2000"))
    try:
        made.up()
        yield made
    finally:
        made.end()


def estimators() -> dict[str, Any]:
    from lightgbm import LGBMClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from xgboost import XGBClassifier

    return {
        "logistic": LogisticRegression(),
        "forest": RandomForestClassifier(n_estimators=20, random_state=0),
        "neighbours": KNeighborsClassifier(),
        "boosting": HistGradientBoostingClassifier(max_iter=20),
        "lightgbm": LGBMClassifier(n_estimators=20, verbose=-1),
        "xgboost": XGBClassifier(n_estimators=20),
    }


def details(platform: Platform, name: str) -> dict[str, Any]:
    found = platform.client.api.get(f"/v1/models/{name}/versions/latest")
    assert isinstance(found, dict)
    return found


def answered(platform: Platform, name: str, rows: Any, output: str) -> Any:
    found = platform.client.predict(name, rows)["outputs"]
    assert isinstance(found, list)
    one = next(one for one in found if one["name"] == output)
    return np.array(one["data"]).reshape(one["shape"])


@pytest.mark.parametrize(
    "name", ["logistic", "forest", "neighbours", "boosting", "lightgbm", "xgboost"]
)
def test_estimators_are_compiled_and_proven_equal(platform: Platform, name: str) -> None:
    model = estimators()[name].fit(X, Y)
    platform.serve(name, model, X[:64])
    found = details(platform, name)
    variants = {one["kind"]: one for one in found["variants"]}
    assert set(variants) == {"source", "compiled"}
    evidence = variants["compiled"]["evidence"]
    assert evidence["parity"]["passed"], evidence
    assert evidence["parity"]["rows"] == 64
    speed = evidence["speed"]
    faster = speed["compiled_1_us"] < speed["source_1_us"]
    assert found["version"]["serving"] == ("compiled" if faster else "source")
    assert {gate["gate"]: gate["verdict"] for gate in found["gates"]}["parity"] == "pass"
    served = answered(platform, name, X[100:105], "probability")
    assert np.allclose(served, model.predict_proba(X[100:105]), atol=1e-4)
    gap = {"name": "x", "datatype": "FP64", "shape": [1, 4], "data": [None, 0.0, 0.0, 0.0]}
    takes_gaps = name not in ("logistic", "neighbours")
    answer = platform.ask(name, {"inputs": [gap]})
    assert answer.status == (200 if takes_gaps else 400)
    if takes_gaps:  # no example row had one, and yet the compiled form sends it the same way
        outputs = {one["name"]: one["data"] for one in answer.body["outputs"]}
        wanted = model.predict_proba(np.array([[np.nan, 0.0, 0.0, 0.0]]))[0]
        assert np.allclose(outputs["probability"], wanted, atol=1e-4)
    say(f"{name}: source {speed['source_1_us']:.0f} us, compiled {speed['compiled_1_us']:.0f} us")


def test_what_does_not_convert_serves_from_its_source(platform: Platform) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import SplineTransformer

    model = make_pipeline(SplineTransformer(), Ridge()).fit(X, X[:, 0] ** 2)
    platform.serve("spline", model, X[:64])
    found = details(platform, "spline")
    assert found["version"]["serving"] == "source"
    assert [one["kind"] for one in found["variants"]] == ["source"]
    assert "SplineTransformer" in {g["gate"]: g["sentence"] for g in found["gates"]}["parity"]
    served = answered(platform, "spline", X[100:105], "prediction")
    assert np.allclose(served, model.predict(X[100:105]))


def test_a_python_object_serves_from_its_own_environment(platform: Platform) -> None:
    platform.serve("object", Linear(), EXAMPLE)
    found = details(platform, "object")
    assert found["version"]["serving"] == "source"
    assert [one["kind"] for one in found["variants"]] == ["source"]
    digest = found["variants"][0]["environment_digest"]
    assert platform.layout().environment(digest).is_dir()
    assert f"env-{digest[:12]}" in platform.observed()["pools"]
    score = answered(platform, "object", EXAMPLE[:5], "score")
    assert np.allclose(score, Linear().predict({"x": EXAMPLE[:5]})["score"])


@pytest.mark.parametrize(
    ("pickle", "ending"),
    [(b"cos\n_exit\n(I3\ntR.", "exit code 3"), (b"cctypes\nstring_at\n(I0\ntR.", "SIGSEGV")],
    ids=["exit", "crash"],
)
def test_a_model_that_ends_the_process_that_checks_it_fails_alone(
    platform: Platform, tmp_path: Path, pickle: bytes, ending: str
) -> None:
    """Another version of the same environment is checked at the same time."""
    saved = save(Linear(), EXAMPLE, work=tmp_path)
    name = "ends-" + ending.split()[0].lower()
    platform.client.ensure_model(name, team="e2e")
    bad = platform.client.register_files(
        name,
        {**saved.files, "model.pkl": pickle},
        requirements=saved.requirements,
        python=own_python(),
    )
    good = platform.client.register(Linear(), EXAMPLE, name=f"{name}-not", team="e2e", wait=True)
    assert good.status == "ready"
    with pytest.raises(ClientError, match=ending):
        platform.client.wait_until_ready(name, bad.version)
    found = details(platform, name)
    assert found["version"]["status"] == "failed"
    assert found["variants"] == []
    assert {gate["gate"]: gate["verdict"] for gate in found["gates"]}["loads"] == "fail"
    with pytest.raises(ClientError, match="not fit to serve"):
        platform.client.deploy(name, bad.version)
