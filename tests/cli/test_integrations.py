"""The templates for CI systems: what they run, with what exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parents[2] / "integrations"
STUB = f"""#!{sys.executable}
import json, sys
given = sys.argv[1:]
open("given.json", "w").write(json.dumps(given))
open(given[given.index("--markdown") + 1], "w").write("### gates\\n")
print(json.dumps({{"verdict": "inconclusive"}}))
sys.exit(3)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "modelfleet").write_text(STUB)
    (folder / "modelfleet").chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    found = {"PATH": f"{folder}:{os.environ['PATH']}"}
    return found | {
        "GITHUB_OUTPUT": str(tmp_path / "out"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "md"),
    }


def bash(script: str, environment: dict[str, str], place: Path) -> int:
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    return subprocess.run(command, env=environment, cwd=place, check=False).returncode


def test_the_github_action(tmp_path: Path, environment: dict[str, str]) -> None:
    action: Any = yaml.safe_load((HERE / "github" / "action.yml").read_text())
    [step] = [one for one in action["runs"]["steps"] if one.get("id") == "run"]
    names = {name.lower() for name in step["env"] if not name.startswith("MODELFLEET_")}
    assert names <= set(action["inputs"])
    given = {
        "MODEL": "a model.joblib",
        "VERSION": "",
        "FILE": "churn.model.yaml",
        "OPTIONS": "--example rows.csv",
        "REPORTS": "out dir",
        "MODELFLEET_URL": "",
        "MODELFLEET_KEY": "",
    }
    assert bash(step["run"], environment | given, tmp_path) == 3
    told = json.loads((tmp_path / "given.json").read_text())
    assert told[:7] == [
        *("gates", "run", "a model.joblib", "--file", "churn.model.yaml"),
        *("--example", "rows.csv"),
    ]
    assert told[-1] == "out dir/gates.md"
    assert (tmp_path / "out").read_text() == "verdict=inconclusive\n"
    assert (tmp_path / "md").read_text() == "### gates\n"


def test_the_gitlab_template(tmp_path: Path, environment: dict[str, str]) -> None:
    template: Any = yaml.safe_load((HERE / "gitlab" / "gates.yml").read_text())
    job = template[".modelfleet-gates"]
    given = {"MODEL": "churn", "VERSION": "1.2.0", "FILE": "churn.model.yaml", "OPTIONS": "--again"}
    assert bash("\n".join(job["script"]), environment | given, tmp_path) == 3
    told = json.loads((tmp_path / "given.json").read_text())
    assert told[:6] == ["gates", "run", "churn", "1.2.0", "--file", "churn.model.yaml"]
    assert job["artifacts"]["reports"]["junit"] in told
