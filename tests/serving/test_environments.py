"""Environments: what may be asked for, and that the same wish is the same environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelfleet.core.errors import InvalidInput
from modelfleet.core.layout import Layout
from modelfleet.serving import environments
from modelfleet.serving.environments import EnvironmentBuilder, own_python, pins, reason_of
from modelfleet.serving.progress import Progress


class Uv:
    """Answers as uv does, without an index."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Sequence[str], str]] = []
        self.failing = False
        self.slow = 0.0
        monkeypatch.setattr(EnvironmentBuilder, "_uv", self)

    def __call__(
        self, arguments: Sequence[str], text: str = "", heard: Callable[[str], None] | None = None
    ) -> str:
        self.calls.append((list(arguments), text))
        time.sleep(self.slow)
        if self.failing:
            raise InvalidInput("no such package")
        if heard is not None:
            for line in ("Downloading six (1.0MiB)", " Downloaded six", "Prepared 1 package in 1s"):
                heard(line)
        if arguments[0] == "venv":
            (Path(arguments[-1]) / "bin").mkdir(parents=True)
            (Path(arguments[-1]) / "bin" / "python").touch()
        return "".join(f"{line.split('>=')[0]}==1 \\\n    --hash=x\n" for line in text.splitlines())


@pytest.fixture
def uv(monkeypatch: pytest.MonkeyPatch) -> Uv:
    return Uv(monkeypatch)


@pytest.fixture
def builder(tmp_path: Path) -> EnvironmentBuilder:
    return EnvironmentBuilder(Layout(tmp_path))


def test_order_and_repetition_make_no_difference(builder: EnvironmentBuilder, uv: Uv) -> None:
    one = builder.resolve(["scikit-learn==1.7.0", "joblib"], "3.11")
    assert builder.resolve(["joblib", "scikit-learn==1.7.0", "joblib"], "3.11") == one
    assert len([call for call in uv.calls if call[0][:2] == ["pip", "compile"]]) == 1
    assert (
        EnvironmentBuilder(Layout(Path("/other")))
        .resolve(("joblib", "scikit-learn==1.7.0"), "3.11")
        .digest
        == one.digest
    )
    assert "msgspec" in uv.calls[0][1]  # the worker's own few packages


def test_what_differs_makes_another_environment(builder: EnvironmentBuilder, uv: Uv) -> None:
    found = [
        builder.resolve(["joblib"], "3.11"),
        builder.resolve(["joblib"], "3.12"),
        builder.resolve(["joblib", "six"], "3.11"),
    ]
    assert len({one.digest for one in found}) == 3
    assert all(len(one.digest) == 64 for one in found)


@pytest.mark.parametrize(
    "requirement",
    ["numpy", "numpy==2.0", "a.b-c_d>=1,<2", "x[extra,other]~=1.0", "y>=1 ; python_version>'3.9'"],
)
def test_requirements_that_are_fine(builder: EnvironmentBuilder, uv: Uv, requirement: str) -> None:
    builder.resolve([requirement], "3.11")
    assert requirement in uv.calls[0][1].splitlines()


@pytest.mark.parametrize(
    "requirement",
    [
        "",
        "-r other.txt",
        "--index-url https://evil.example",
        "-e .",
        "x @ https://evil.example/x.whl",
        "git+https://evil.example/x",
        "./x.whl",
        "/tmp/x",
        "numpy\n--index-url https://evil.example",
        "numpy==1\r--index-url https://evil.example",
    ],
)
def test_requirements_that_reach_elsewhere_are_refused(
    builder: EnvironmentBuilder, uv: Uv, requirement: str
) -> None:
    with pytest.raises(InvalidInput):
        builder.resolve(["numpy", requirement], "3.11")
    assert uv.calls == []


@pytest.mark.parametrize("python", ["", "2.7", "3", "/usr/bin/python", "--help", "3.11; rm"])
def test_pythons_that_are_no_versions_are_refused(
    builder: EnvironmentBuilder, uv: Uv, python: str
) -> None:
    with pytest.raises(InvalidInput):
        builder.resolve(["numpy"], python)
    assert uv.calls == []


def test_an_environment_is_built_once_and_whole(
    builder: EnvironmentBuilder, uv: Uv, tmp_path: Path
) -> None:
    environment = builder.resolve(["six"], own_python())
    python = builder.python(environment)
    assert python == Layout(tmp_path).environment(environment.digest) / "bin" / "python"
    count = len(uv.calls)
    assert builder.python(environment) == python
    assert len(uv.calls) == count
    install = next(arguments for arguments, _ in uv.calls if arguments[:2] == ["pip", "install"])
    assert "--require-hashes" in install


def test_control_planes_that_share_a_home_build_it_once(
    builder: EnvironmentBuilder, uv: Uv, tmp_path: Path
) -> None:
    environment = builder.resolve(["six"], own_python())
    (Layout(tmp_path).environments / f".building-{environment.digest}" / "lib").mkdir(parents=True)
    uv.slow = 0.05
    others = [EnvironmentBuilder(Layout(tmp_path)) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(lambda one: one.python(environment), others))
    assert found == {Layout(tmp_path).environment(environment.digest) / "bin" / "python"}
    assert [one[0] for one, _ in uv.calls].count("venv") == 1
    assert [one.name for one in Layout(tmp_path).environments.iterdir()] == [environment.digest]


def test_a_failed_build_leaves_nothing(builder: EnvironmentBuilder, uv: Uv, tmp_path: Path) -> None:
    environment = builder.resolve(["six"], own_python())
    uv.failing = True
    with pytest.raises(InvalidInput):
        builder.python(environment)
    assert list(Layout(tmp_path).environments.iterdir()) == []


@pytest.mark.slow
def test_uv_really_resolves(builder: EnvironmentBuilder) -> None:
    found = builder.resolve(["six==1.16.0"], own_python())
    assert "six==1.16.0" in found.lock
    assert "--hash=sha256:" in found.lock
    assert "://" not in found.lock  # no index address
    again = EnvironmentBuilder(Layout(Path("/other"))).resolve(["six==1.16.0"], own_python())
    assert again.digest == found.digest
    with pytest.raises(InvalidInput):
        builder.resolve(["six==999.0"], own_python())


def test_uv_is_at_hand() -> None:
    assert Path(environments.uv_binary()).exists()


def test_building_tells_how_far_it_is(builder: EnvironmentBuilder, uv: Uv) -> None:
    heard: list[Progress] = []
    environment = builder.resolve(["six"], own_python(), heard.append)
    builder.python(environment, heard.append)
    count = len(pins(environment.lock))
    assert heard == [
        Progress("resolving", 0, 5),
        Progress("installing", 0, count),
        Progress("downloading", 0, 1, "six"),
        Progress("downloading", 1, 1, "six"),
        Progress("installing", 0, count),
    ]


def test_a_patch_of_python_makes_no_difference(builder: EnvironmentBuilder, uv: Uv) -> None:
    one = builder.resolve(["six"], own_python())
    assert builder.resolve(["six"], f"{own_python()}.1") == one
    assert one.python == own_python()


def test_a_python_that_is_not_installed_is_refused(builder: EnvironmentBuilder, uv: Uv) -> None:
    uv.failing = True
    with pytest.raises(InvalidInput, match=r"Python 3\.6 is not installed on this machine"):
        builder.resolve(["six"], "3.6")


def test_converters_are_installed_where_there_are_some(builder: EnvironmentBuilder, uv: Uv) -> None:
    environment = builder.resolve(["six"], own_python())
    plain = builder.python(environment)
    assert builder.converter_python(environment, "python") == plain
    trees = builder.converter_python(environment, "sklearn")
    assert builder.converter_python(environment, "xgboost") == trees
    networks = builder.converter_python(environment, "torch")
    assert len({plain, trees, networks}) == 3
    wanted = [text for arguments, text in uv.calls if arguments[:2] == ["pip", "compile"]]
    assert "skl2onnx" in wanted[1]
    assert "onnxscript" in wanted[2]
    assert "six==1" in wanted[2].splitlines()  # what the model has stays as it is


def test_a_model_whose_packages_exclude_the_converters_is_checked_without_them(
    builder: EnvironmentBuilder, uv: Uv
) -> None:
    environment = builder.resolve(["six"], own_python())
    plain = builder.python(environment)
    uv.failing = True
    assert builder.converter_python(environment, "sklearn") == plain


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "error: No solution found when resolving dependencies\n"
            "  cause: Because there is no version of six==99 and you require six==99, we can "
            "conclude that your requirements are unsatisfiable.",
            "Because there is no version of six==99 and you require six==99",
        ),
        ("warning: `x` is yanked\nerror: Failed to fetch: `x`", "Failed to fetch: `x`"),
        (
            "  × Failed to build `x==1`\n  ├─▶ The build failed",
            "Failed to build `x==1` The build failed",
        ),
        ("", "uv gave no reason."),
    ],
)
def test_reasons_are_short(said: str, reason: str) -> None:
    assert reason_of(said.splitlines()) == reason
