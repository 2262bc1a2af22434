"""What is wrong is told with file, line, column and path, all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelfleet.fleetfile.files import settle
from modelfleet.fleetfile.load import load
from modelfleet.fleetfile.nodes import parse
from modelfleet.fleetfile.problems import Problem, Refused

HEAD = """apiVersion: modelfleet.dev/v1
kind: Model
metadata: {name: churn, owner: growth}
"""


def problems(folder: Path, **files: str) -> list[Problem]:
    for name, text in files.items():
        (folder / f"{name}.yaml".replace("_", ".")).write_text(text)
    with pytest.raises(Refused) as caught:
        settle(load(folder))
    return list(caught.value.problems)


TABLE = [
    # body below the head, line, column, path, message, hint
    ("sorce: {version: '1'}", 4, 1, "sorce", "no key 'sorce'", "source"),
    ("source: {version: 1.10}", 4, 19, "source.version", "1.10 is read as a number", '"1.10"'),
    ("source: {version: 1}", 4, 19, "source.version", "1 is read as a number", '"1"'),
    ("source: {}", 4, 1, "source", "version (of the registry) or a path", ""),
    ("serve: {pinned: yes}", 4, 17, "serve.pinned", "neither true nor false", ""),
    ("serve: {pinned: on}", 4, 17, "serve.pinned", "neither true nor false", ""),
    ("serve: {timeout: 5 min}", 4, 18, "serve.timeout", "'5 min' is no duration", ""),
    ("serve: {timeout: 5m}", 4, 9, "serve.timeout", "1 ms and 120 s", ""),
    ("serve: {resources: {memory: 400 Megs}}", 4, 29, "serve.resources.memory", "no size", ""),
    ("serve: {isolation: teem}", 4, 20, "serve.isolation", "none of shared, team, model", "team"),
    ("serve: [1]", 4, 1, "serve", "expected a mapping, found a list", ""),
    ("scale: {min: 4, max: 2}", 4, 1, "scale", "min (4) is more than max (2)", ""),
    ("scale: {min: 1.5}", 4, 14, "scale.min", "expected a whole number, found 1.5", ""),
    ("scale: {min: true}", 4, 14, "scale.min", "is no number", ""),
    ("metadata: {name: a, owner: b}", 4, 1, "metadata", "stands here twice", "line 3"),
    ("uses: [{model: a, model: b}]", 4, 19, "uses.model", "stands here twice", ""),
    ("uses: {model: a}", 4, 1, "uses", "expected a list, found a mapping", ""),
    ("uses: [{modle: a}]", 4, 9, "uses[0].modle", "no key", "model"),
    ("consumers: [{model: a, app: b}]", 4, 13, "consumers[0]", "a model or an app", ""),
    ("gates: [{qualty: {}}]", 4, 10, "gates[0].qualty", "no key 'qualty'", "quality"),
    ("gates: [qualty]", 4, 9, "gates[0].qualty", "no key 'qualty'", "quality"),
    ("gates: [{signature: {}, drift: {}}]", 4, 9, "gates[0]", "one kind an entry", ""),
    ("gates: [{quality: {metric: f1}}]", 4, 10, "gates[0].quality.dataset", "missing", ""),
    ("gates: [signature, signature]", 4, 20, "gates[1].signature", "once more", ""),
    ("gates: [{latency: {p95: 1s}}, {latency: {p95: 2s}}]", 4, 32, "gates[1].latency",
     "contradicts gates[0]: the same check, but another p95", ""),
    ("gates: [{latency: {p95: 1s}}]\nserve: {timeout: 200ms}", 4, 20, "gates[0].latency.p95",
     "serve.timeout ends requests after 0.2 s", ""),
    ("rollout: {strategy: canary}", 4, 1, "rollout", "on_inconclusive is missing", "do: hold"),
    ("rollout: {steps: [{weight: 50%}, {weight: 20%}]}", 4, 1, "rollout", "weights rise", ""),
    ("rollout: {steps: [{weight: 5%, shadow: 5%}]}", 4, 19, "rollout.steps[0]", "one of", ""),
    ("rollout: {steps: [{weight: 150%}]}", 4, 28, "rollout.steps[0].weight", "less than", ""),
    ("rollout: {steps: [{weight: 5%, bake: 1h}]}", 4, 19, "rollout.steps[0]", "bakes", ""),
    ("rollout: {strategy: immediate, steps: [{weight: 5%}]}", 4, 32, "rollout.steps", "once", ""),
    ("rollout: {strategy: ab, on_inconclusive: {after: 1h, do: hold}}", 4, 11, "rollout.strategy",
     "belong together", ""),
    ("rollout: {freeze: [{cron: '0 0 * * *'}]}", 4, 20, "rollout.freeze[0]", "belongs to", ""),
    ("rollout: {freeze: [{from: 2026-12-20, to: 2026-12-01}]}", 4, 20, "rollout.freeze[0]",
     "ends before it begins", ""),
    ("train: {command: x, schedule: '0 0 30 2 *'}", 4, 21, "train.schedule", "bad day", ""),
    ("train: {command: x, schedule: '61 * * * *'}", 4, 21, "train.schedule", "no schedule", ""),
    ("train: {entry: no-colon}", 4, 16, "train.entry", "not written like", ""),
    ("train: {}", 4, 1, "train", "a command or an entry", ""),
    ("budget: {monthly: 300}", 4, 19, "budget.monthly", "300 is read as a number", '"300"'),
    ("endpoint: {sticky: x-user}", 4, 20, "endpoint.sticky", "not written like", ""),
    ("endpoint: {rules: [{version: '1', header: a}]}", 4, 20, "endpoint.rules[0]", "equals", ""),
    ("monitor: [{drfit: {}}]", 4, 12, "monitor[0].drfit", "no key", "drift"),
    ("tags: !!python/object:os.system {}", 4, 7, "tags", "have no meaning here", ""),
    ("train: {entry: 'a:b', code: [./missing.py]}", 4, 30, "train.code[0]", "no such file", ""),
    ("gates: [{run: {uses: ../../etc/passwd}}]", 4, 16, "gates[0].run.uses", "", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case[0][:60])
def test_the_table(tmp_path: Path, case: tuple[str, int, int, str, str, str]) -> None:
    body, line, column, path, message, hint = case
    found = problems(tmp_path, churn_model=HEAD + body + "\n")[0]
    assert found.place.file.endswith("churn.model.yaml")
    assert (found.place.line, found.place.column, found.path) == (line, column, path), str(found)
    assert message in found.message, str(found)
    assert hint in found.hint, str(found)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: [1, 2", 2, "this is not YAML"),
        ("a: b: c", 1, "this is not YAML"),
        ("a:\n\tb: 1", 2, "this is not YAML"),
        ("a: *nobody", 1, "there is no anchor &nobody"),
        ("a: &x [*x]", 1, "it would hold itself"),
        ("a: " + "[" * 100, 1, "nested more than"),
        ("? [1, 2]\n: 3", 1, "a name is a word"),
        ("a: .nan", 1, None),
        ("a: 'x\x00y'", 1, "this is not YAML"),
        ("- just\n- a list", 1, "a document is a mapping"),
        ("kind: Modle", 1, "no kind of document"),
        ("apiVersion: v1", 1, "kind is missing"),
        ("kind: Model\napiVersion: modelfleet.dev/v9", 2, "modelfleet.dev/v1 only"),
    ],
)
def test_what_is_no_yaml_and_no_document(
    tmp_path: Path, text: str, line: int, message: str | None
) -> None:
    found = problems(tmp_path, a_model=text)
    assert found[0].place.line in (line, 0 if "\x00" in text else line)
    assert message is None or message in found[0].message


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(Refused, match="more than 100000 values"):
        parse("\n".join(lines), "bomb.yaml")
    deep = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 5000)]
    with pytest.raises(Refused, match="nested more than"):
        parse("\n".join(deep), "deep.yaml")


def test_huge_files_links_that_leave_and_bytes_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "fleet"
    inside.mkdir()
    (tmp_path / "outside.yaml").write_text(HEAD)
    (inside / "link.model.yaml").symlink_to(tmp_path / "outside.yaml")
    (inside / "huge.model.yaml").write_text(HEAD + "#" * 1_100_000)
    (inside / "bytes.model.yaml").write_bytes(b"\xff\xfe\x00")
    (inside / "gone.model.yaml").symlink_to(tmp_path / "nothing")
    told = {p.place.file.rpartition("/")[2]: p.message for p in problems(inside)}
    assert "leaves the folder" in told["link.model.yaml"]
    assert "larger than" in told["huge.model.yaml"]
    assert "no UTF-8" in told["bytes.model.yaml"]
    assert set(told) == {
        "link.model.yaml", "huge.model.yaml", "bytes.model.yaml", "gone.model.yaml",
    }  # fmt: skip


def test_local_files_outside_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "fleet"
    (inside / "code").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (inside / "code" / "leak").symlink_to(tmp_path / "secret")
    body = "train: {entry: 'a:b', code: [../secret, ./code]}\n"
    found = problems(inside, churn_model=HEAD + body)
    assert [p.path for p in found] == ["train.code[0]", "train.code[1]"]
    assert all("out" in p.message for p in found)


def test_all_problems_of_all_files_come_at_once_in_their_order(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        fleet="apiVersion: modelfleet.dev/v1\nkind: Fleet\nmetadata: {nam: shop}\n",
        a_model=HEAD + "serve: {pined: true, timeout: x}\n",
        b_model="a: [",
    )
    assert [(p.place.file.rpartition("/")[2], p.path) for p in found] == [
        ("a.model.yaml", "serve.pined"),
        ("a.model.yaml", "serve.timeout"),
        ("b.model.yaml", ""),
        ("fleet.yaml", "metadata.nam"),
    ]


MODEL = "apiVersion: modelfleet.dev/v1\nkind: Model\nmetadata: {{name: {0}, owner: g}}\n{1}\n"


def test_circles_duplicates_and_slips_between_documents(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        a_model=MODEL.format("a", "uses: [{model: b}]"),
        b_model=MODEL.format("b", "uses: [{model: c}]"),
        c_model=MODEL.format("c", "consumers: [{model: x}]\nuses: [{model: a}]"),
        d_model=MODEL.format("d", "uses: [{model: user_emb}]"),
        e_model=MODEL.format("user-emb", ""),
        f_model=MODEL.format("user-emb", ""),
        g_model=MODEL.format("g", "endpoint: {name: d}"),
    )
    told = {p.message for p in found}
    assert "models feed each other in a circle: a → b → c → a" in told or any(
        m.startswith("models feed each other in a circle: a →") for m in told
    )
    assert any("there is a Model user-emb already" in m for m in told)
    assert any("has the endpoint d already" in m for m in told)
    assert [p.hint for p in found if "no document is named" in p.message] == [
        "did you mean user-emb?"
    ]


def test_a_stage_that_is_not_there_and_overlays_that_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(
        "apiVersion: modelfleet.dev/v1\nkind: Fleet\nmetadata: {name: shop}\n"
        "stages:\n  prod:\n    models: {churn: {srve: {}}}\n"
    )
    (tmp_path / "churn.model.yaml").write_text(HEAD)
    with pytest.raises(Refused) as caught:
        load(tmp_path, "prd")
    told = {(p.place.line, p.path, p.hint) for p in caught.value.problems}
    assert (6, "stages.prod.models.churn.srve", "did you mean serve?") in told
    assert any(path == "stages" and "prod" in hint for _, path, hint in told)


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such file"):
        load(tmp_path / "nothing")
