"""Reading, merging, writing."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelfleet.fleetfile.documents import KINDS, ModelDocument
from modelfleet.fleetfile.files import settle
from modelfleet.fleetfile.load import load
from modelfleet.fleetfile.merge import lay
from modelfleet.fleetfile.nodes import Node, parse, resolve
from modelfleet.fleetfile.problems import Place, Refused
from modelfleet.fleetfile.schema import schema
from modelfleet.fleetfile.text import dump, duration, pretty, share, size

DESIGN = """apiVersion: modelfleet.dev/v1
kind: Model
metadata: {name: churn, owner: growth, tags: {tier: critical}}
source: {registry: models:/churn, version: "^1.4"}  # lock pins the digest
uses: [{model: user-embedding, version: "~2.1", as: emb}]
consumers: [{model: next-best-offer}, {app: crm}]
serve: {runtime: onnx, env: auto, resources: {memory: 400Mi}, timeout: 200ms, isolate: team}
scale: {min: 0, max: 8, target: {concurrency: 4}, idle: 10m}
gates:
  - quality: {dataset: churn_eval@latest, metric: roc_auc, vs: champion, noninferior: 0.005,
      slices: [country], min_support: 300}
  - signature: {compatible_with: consumers}
  - latency: {p95: 30ms, vs_champion: 1.2x}
  - run: {uses: ./checks/business.py}
rollout:
  strategy: canary
  sticky: header:x-user-id
  steps: [{shadow: 100%, for: 30m}, {weight: 5%, for: 15m}, {weight: 25%, for: 1h},
    {approve: {role: release-manager}}, {weight: 100%, bake: 24h}]
  analysis: {alpha: 0.05, errors: {max_increase: 0.5pp}, latency: {quantile: p95, max_ratio: 1.15},
    predictions: {max_distance: 0.1}, labels: {metric: precision, noninferior: 0.01, delay: 7d}}
  on_fail: rollback
  on_inconclusive: {after: 4h, do: hold}
monitor: [{drift: {test: tolerance, window: 1d}}, {slo: {availability: 99.9%, window: 30d}}]
budget: {monthly: 300 EUR, on_exceed: alert}
train: {entry: "churn.train:main", inputs: {rows: events@latest}, schedule: "0 3 * * 1",
  triggers: {drift: true, data: [events], alias: candidate, webhook: true}}
approvals: {role: release-manager, quorum: 2}
"""


def one(folder: Path, text: str = DESIGN, stage: str = "", **files: str) -> dict[str, Any]:
    (folder / "churn.model.yaml").write_text(text)
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    [found] = load(folder, stage).objects
    return found.plain


def test_the_whole_vocabulary_is_read(tmp_path: Path) -> None:
    found = one(tmp_path)
    assert found["serve"]["resources"]["memory"] == 400 * 2**20
    assert found["serve"]["timeout"] == 0.2
    assert found["serve"]["isolation"] == "team"
    assert found["rollout"]["steps"][1] == {"weight": 0.05, "for": 900.0}
    assert found["rollout"]["analysis"]["errors"]["max_increase"] == pytest.approx(0.005)
    assert found["gates"][2] == {"latency": {"p95": 0.03, "vs_champion": 1.2}}


def test_what_is_written_reads_the_same(tmp_path: Path) -> None:
    found = one(tmp_path)
    text = dump(pretty(ModelDocument, found), ["a comment"])
    assert "memory: 400Mi" in text
    assert "for: 15m" in text
    assert "weight: 5%" in text
    assert one(tmp_path, text) == found


def test_scalars_mean_what_yaml_1_2_says() -> None:
    cases: dict[str, object] = {
        "no": "no", "on": "on", "yes": "yes", "off": "off", "y": "y", "true": True, "False": False,
        "12:30:00": "12:30:00", "2026-01-01": "2026-01-01", "012": "012", "0o17": 15, "0x1f": 31,
        "1_000": "1_000", "1.10": 1.1, "1e3": 1000.0, "~": None, "null": None, "": None,
        "1.2.3": "1.2.3", "^1.4": "^1.4", ".5": 0.5, "-": "-", "+1": 1, "9" * 50: "9" * 50,
    }  # fmt: skip
    for raw, meant in cases.items():
        assert resolve(raw) == meant, raw
        assert type(resolve(raw)) is type(meant), raw


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = """apiVersion: modelfleet.dev/v1
kind: Model
metadata: {name: churn, owner: growth}
scale: &usual {min: 1, max: 4}
serve:
  resources: &small {memory: 1Gi}
x-later: null
""".replace("x-later: null\n", "")
    found = one(tmp_path, text + "train: {command: a b 'c d', timeout: 1h}\n")
    assert found["train"]["command"] == ["a", "b", "c d"]
    [node] = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{z: 1}, *a]}", "f")
    assert node.plain["b"] == {"x": 1, "y": 3}
    assert node.plain["c"] == {"z": 1, "x": 1, "y": 2}


FLEET = """apiVersion: modelfleet.dev/v1
kind: Fleet
metadata: {name: shop}
defaults:
  metadata: {owner: growth, tags: {from: fleet}}
  scale: {min: 1, max: 2}
  gates: [signature]
tiers:
  critical:
    scale: {min: 2}
    gates: [signature, {approval: {role: release-manager}}]
stages:
  prod:
    defaults: {scale: {max: 20}}
    models: {churn: {endpoint: {priority: high}}}
    exclude: [experiment-*]
  test:
    tiers: {critical: {gates: null}}
"""
CHURN = """apiVersion: modelfleet.dev/v1
kind: Model
metadata: {name: churn, tier: critical, tags: {own: "1"}}
stages:
  prod: {scale: {min: 5}, metadata: {tags: {from: null}}}
"""


def test_defaults_tiers_and_stages_are_laid_over_each_other(tmp_path: Path) -> None:
    plain = one(tmp_path, CHURN, fleet=FLEET)
    assert plain["metadata"]["tags"] == {"from": "fleet", "own": "1"}
    assert plain["scale"] == {"min": 2, "max": 2}
    assert [next(iter(g)) for g in plain["gates"]] == ["signature", "approval"]
    prod = one(tmp_path, CHURN, "prod", fleet=FLEET)
    assert prod["scale"] == {"min": 5, "max": 20}
    assert prod["metadata"]["tags"] == {"own": "1"}
    assert prod["endpoint"] == {"priority": "high"}
    test = one(tmp_path, CHURN, "test", fleet=FLEET)
    assert "gates" not in test
    (tmp_path / "e.model.yaml").write_text(CHURN.replace("name: churn", "name: experiment-1"))
    assert [o.name for o in load(tmp_path, "prod").objects] == ["churn"]
    assert len(load(tmp_path, "test").objects) == 2


def test_one_document_alone_and_several_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    path = tmp_path / "churn.model.yaml"
    path.write_text(CHURN + "---\n" + CHURN.replace("name: churn", "name: other") + "---\n")
    assert [o.name for o in load(tmp_path).objects] == ["churn", "other"]
    alone = load(path)
    assert (len(alone.objects), alone.whole, alone.fleet) == (2, False, "shop")
    assert alone.objects[0].plain["metadata"]["owner"] == "growth", "the nearest fleet.yaml counts"
    below = tmp_path / "below"
    below.mkdir()
    (below / "third.model.yaml").write_text(CHURN.replace("name: churn", "name: third"))
    assert [o.name for o in load(below).objects] == ["third"]
    assert len(load(tmp_path).objects) == 3
    assert load(tmp_path / "fleet.yaml").whole


def test_local_files_are_noted_with_their_digests(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    check = tmp_path / "checks" / "business.py"
    check.write_text("ok")
    (tmp_path / "model.onnx").write_text("weights")
    (tmp_path / "churn.model.yaml").write_text(
        "apiVersion: modelfleet.dev/v1\nkind: Model\nmetadata: {name: churn, owner: g}\n"
        "source: {path: ./model.onnx}\ngates: [{run: {uses: ./checks/business.py}}]\n"
    )
    before, uploads = settle(load(tmp_path))
    [found] = before.objects
    assert list(found.plain["files"]) == ["./checks/business.py"]
    assert [u.path for u in uploads.values()] == [check]
    digest = found.plain["source"]["digest"]
    (tmp_path / "model.onnx").write_text("other weights")
    assert settle(load(tmp_path))[0].objects[0].plain["source"]["digest"] != digest


def test_quantities_are_written_with_units_only_where_they_read_back() -> None:
    assert [duration(s) for s in (900.0, 0.2, 86400.0, 90.0, 0.0005)] == [
        "15m", "200ms", "1d", "90s", 0.0005,
    ]  # fmt: skip
    assert share(0.005) == "0.5%"
    assert size(419430400) == "400Mi"
    plain = {"serve": {"timeout": math.pi}}
    assert pretty(ModelDocument, plain) == plain


def test_the_schema_is_one_and_accepts_what_we_accept() -> None:
    found = schema()
    assert json.dumps(found, sort_keys=True) == json.dumps(schema(), sort_keys=True)
    assert set(found["properties"]["kind"]["enum"]) == set(KINDS)
    steps = found["$defs"]["Step"]["properties"]
    assert {"shadow", "weight", "for", "bake"} <= steps.keys()
    assert found["$defs"]["ModelDocument"]["additionalProperties"] is False


# Properties --------------------------------------------------------------------------------------

words = st.text("abcde-", min_size=1, max_size=4)
scalars = st.none() | st.booleans() | st.integers(-5, 5) | words | st.floats(-1e6, 1e6)
trees = st.recursive(
    scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(words, below, max_size=3),
    max_leaves=12,
)  # fmt: skip
mappings = st.dictionaries(words, trees, max_size=4)


def node(value: Any) -> Node:
    place = Place("t")
    if isinstance(value, dict):
        return Node({k: node(v) for k, v in value.items()}, place, keys=dict.fromkeys(value, place))
    if isinstance(value, list):
        return Node([node(v) for v in value], place)
    return Node(value, place, str(value))


def patched(target: Any, patch: Any) -> Any:
    """RFC 7386, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    found = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = patched(found.get(key), value)
    return found


@given(mappings, mappings)
def test_laying_is_json_merge_patch(below: Any, above: Any) -> None:
    merged = lay(node(below), node(above))
    assert merged is not None
    assert merged.plain == patched(below, above)


@given(mappings)
def test_laying_twice_is_laying_once(above: Any) -> None:
    once = lay(node({}), node(above))
    assert once is not None
    twice = lay(once, node(above))
    assert twice is not None
    assert twice.plain == once.plain


@given(mappings.filter(bool))
@settings(deadline=None)
def test_what_is_dumped_is_parsed(value: Any) -> None:
    [found] = parse(dump(value), "t")
    assert found.plain == value
    assert yaml.safe_load(dump(value)).keys() == value.keys()


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(Refused):
        for found in parse(text, "t"):
            assert found.plain is not None


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**30, 10**400, -1, 1e308, "5m", "5%", "1x", "p95", "", "@", "^1"])
    | st.text(max_size=8),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def nearly_right(draw: st.DrawFn) -> dict[str, Any]:
    """The document of the design with something else somewhere."""
    document: Any = yaml.safe_load(DESIGN)
    here = document
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = draw(st.sampled_from(keys))
        if isinstance(here[key], (dict, list)) and here[key] and draw(st.booleans()):
            here = here[key]
            continue
        here[key] = draw(anything)
        return document


@given(nearly_right())
@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
def test_what_is_nearly_right_is_read_or_refused_with_its_place(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    path = tmp_path / "churn.model.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    try:
        load(path)
    except Refused as refused:
        assert all(one.place.line == 1 for one in refused.problems)  # noqa: PT017
