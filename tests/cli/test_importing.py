"""The command line of imports: what is wrong is told in one line, with the right exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelfleet.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["import", "files", "x", "--kind", "nonsense"], 2, "is none of"),
        (["import", "files"], 2, "Missing argument"),
        (["import", "kserve", __file__, "--storage", "s3://bucket"], 2, "is not ADDRESS=FOLDER"),
        (["import", "runs", __file__], 2, "Missing option '--from'"),
        (["import", "triton", "/nowhere"], 2, "does not exist"),
        (["import", "files", "x", "--map", "gone.yaml"], 1, "gone.yaml"),
        (["import", "files", "x", "--url", "http://127.0.0.1:1"], 3, ""),
    ],
)
def test_what_is_wrong(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MODELFLEET_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors
