"""Environments: what may be asked for, and that the same wish is the same environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from modelfleet.core.errors import InvalidInput
from modelfleet.core.layout import Layout
from modelfleet.serving import environments
from modelfleet.serving.environments import EnvironmentBuilder, own_python


class Uv:
    """Answers as uv does, without an index."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Sequence[str], str]] = []
        self.failing = False
        monkeypatch.setattr(EnvironmentBuilder, "_uv", self)

    def __call__(self, arguments: Sequence[str], text: str = "") -> str:
        self.calls.append((list(arguments), text))
        if self.failing:
            raise InvalidInput("no such package")
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
    assert len(uv.calls) == 1
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
    assert Path(environments._uv_binary()).exists()
