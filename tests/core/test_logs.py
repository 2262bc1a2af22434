from __future__ import annotations

import json

import pytest
import structlog

from modelfleet.core.logs import configure


def test_a_line_is_json_with_the_traceback_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    log = structlog.get_logger("somewhere")
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        try:
            raise ValueError("what nobody thought of")
        except ValueError as error:
            log.error("unexpected error", exc_info=error)
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["level"], line["request_id"]) == (
        "unexpected error",
        "error",
        "r-1",
    )
    assert "Traceback" in line["exception"]
    assert 'raise ValueError("what nobody thought of")' in line["exception"]
