"""The control plane's process."""

from __future__ import annotations

import json

import pytest
import structlog

from modelfleet.app import configure_logs


def test_what_was_not_expected_is_in_the_log_with_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = structlog.get_config()
    configure_logs()
    try:
        raise RuntimeError("odd row")
    except RuntimeError as error:
        structlog.get_logger("app").error("unexpected error", exc_info=error)
    finally:
        structlog.configure(**before)
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["level"]) == ("unexpected error", "error")
    assert line["exception"].startswith("Traceback")
    assert "RuntimeError: odd row" in line["exception"]
