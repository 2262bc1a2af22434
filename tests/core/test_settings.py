"""Settings: sources, their order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelfleet.core.errors import InvalidInput
from modelfleet.core.settings import Settings, default_home, load_settings


def load(home: Path, text: str = "", **environment: str) -> Settings:
    home.mkdir(exist_ok=True)
    if text:
        (home / "settings.toml").write_text(text)
    return load_settings(home, environment=environment)


def test_defaults_need_no_file(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "new", environment={})
    assert settings.home == tmp_path / "new"
    assert settings.serving.replicas == 2
    assert not (tmp_path / "new").exists()


def test_later_sources_win_field_by_field(tmp_path: Path) -> None:
    text = "port = 1000\nhost = '::1'\n[serving]\nreplicas = 3\nmemory_mb = 100\nsegment_mb = 8\n"
    (tmp_path / "settings.toml").write_text(text)
    environment = {"MODELFLEET_PORT": "2000", "MODELFLEET_SERVING__MEMORY_MB": "200"}
    overrides = {"port": 3000}
    settings = load_settings(tmp_path, overrides, environment)
    assert (settings.port, settings.host) == (3000, "::1")
    serving = settings.serving
    assert (serving.replicas, serving.memory_mb, serving.segment_mb) == (3, 200, 8)


def test_the_environment_gives_numbers_and_truth_values(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        MODELFLEET_EVIDENCE__TICK_SECONDS="0.5",
        MODELFLEET_SERVING__ALLOW_ROOT_WORKERS="true",
    )
    assert settings.evidence.tick_seconds == 0.5
    assert settings.serving.allow_root_workers is True


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1\n", "prot"),
        ("[serving]\nreplica = 1\n", "replica"),
        ("[serving]\nreplicas = 'many'\n", "replicas"),
        ("port = [1]\n", "port"),
        ("port = ", "settings.toml"),
    ],
)
def test_a_wrong_file_is_refused_and_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        load(tmp_path, text)


def test_an_unknown_nested_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="replica"):
        load(tmp_path, MODELFLEET_SERVING__REPLICA="1")


def test_variables_of_the_client_are_none_of_ours(tmp_path: Path) -> None:
    environment = {"MODELFLEET_URL": "x", "MODELFLEET_KEY": "y", "MODELFLEET_HOME": "/elsewhere"}
    assert load(tmp_path, **environment).home == tmp_path


def test_contradicting_variables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        load(tmp_path, MODELFLEET_SERVING="1", MODELFLEET_SERVING__REPLICAS="1")


def test_home_comes_from_the_environment(tmp_path: Path) -> None:
    assert default_home({"MODELFLEET_HOME": str(tmp_path)}) == tmp_path
    assert default_home({}) == Path.home() / ".modelfleet"
    assert load_settings(environment={"MODELFLEET_HOME": str(tmp_path)}).home == tmp_path
