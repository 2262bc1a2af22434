"""An endpoint's traffic policy through the command line, on a platform that speaks https."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import SETTINGS, Platform, eventually, say
from zoo import EXAMPLE, Linear

sys.path.insert(0, str(Path(__file__).parents[1] / "serving" / "gateway"))
from gateway_support import TestAuthority

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("e2e-traffic")]
TLS = '[serving]\ntls_cert = "gw.pem"\ntls_key = "gw.key"\n'
BODY = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP64", "data": [0.0, 0.0, 0.0]}]}


@pytest.fixture(scope="module")
def secure() -> Iterator[Platform]:
    made = Platform(SETTINGS.replace("[serving]\n", TLS))
    authority = TestAuthority(made.home)
    authority.issue("gw")
    os.environ["MODELFLEET_CA"] = str(authority.file)
    try:
        made.up()
        made.environment["MODELFLEET_CA"] = str(authority.file)
        made.serve("tide", Linear(), EXAMPLE)
        made.client.register(Linear(shift=5.0), EXAMPLE, name="tide", team="e2e", wait=True)
        yield made
    finally:
        del os.environ["MODELFLEET_CA"]
        made.end()


def connect(platform: Platform) -> http.client.HTTPSConnection:
    trusted = ssl.create_default_context(cafile=os.environ["MODELFLEET_CA"])
    port = platform.ports()["gateway"]
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=trusted)


def ask(
    connection: http.client.HTTPConnection, key: str, path: str = "infer", **headers: str
) -> tuple[int, dict[str, Any]]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    sent |= {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", f"/v2/models/tide/{path}", json.dumps(BODY), sent)
    found = connection.getresponse()
    return found.status, json.loads(found.read())


def told(platform: Platform, *arguments: str, code: int = 0) -> Any:
    found = platform.run(*arguments, "--json")
    assert found.returncode == code, found.stdout + found.stderr
    return json.loads(found.stdout)


def until_live(platform: Platform) -> dict[str, Any]:
    def live() -> dict[str, Any] | None:
        found = json.loads(platform.run("gateway", "explain", "tide", "--json").stdout)
        return found["gateway"] if found["applied"] and found["in_step"] else None

    return eventually(live, 60, 0.2)


def test_predictions_come_by_https_only(secure: Platform) -> None:
    said = (secure.home / "up.log").read_text()
    assert f"https://127.0.0.1:{secure.ports()['gateway']}/v2/models" in said
    assert secure.client.predict("tide", EXAMPLE[:1])["model_name"] == "tide"
    plain = http.client.HTTPConnection("127.0.0.1", secure.ports()["gateway"], timeout=10)
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(plain, secure.key)


def test_a_rule_brings_a_version_to_those_it_names(secure: Platform) -> None:
    change = ["endpoints", "traffic", "tide"]
    rules = ["--rule", "header:x-channel=beta", "2", "--rule", "caller:admin", "1"]
    found = told(secure, *change, *rules, "--per-try-timeout-ms", "2000", "--sticky", "caller")
    stable, other = (one["version"] for one in reversed(found["rules"]))
    assert stable != other
    gateway = until_live(secure)
    assert [one["percent"] for one in gateway["versions"]] == [100, 0]
    assert {one["health"] for one in gateway["replicas"]} == {"healthy"}
    connection = connect(secure)
    assert ask(connection, secure.key)[1]["model_version"] == stable
    assert ask(connection, secure.key, x_channel="beta")[1]["model_version"] == other
    dry = told(secure, "gateway", "explain", "tide", "--header", "x-channel=beta")
    assert dry["gateway"]["decision"]["version"] == other
    dry = told(secure, "gateway", "explain", "tide", "--caller", "admin")
    assert dry["gateway"]["decision"]["why"].startswith("Rule 2")
    words = secure.run("gateway", "explain", "tide", "--path", "/v2/models/tide/nothing")
    assert words.returncode == 1
    assert "answered 404" in words.stdout
    refused = secure.run(*change, "--rule", "header:X_A=1", "2")
    assert refused.returncode == 2
    assert "is not a header name" in refused.stderr


def test_a_revoked_key_is_refused_within_five_seconds(secure: Platform) -> None:
    create = ["keys", "create", "admin", "--model", "tide:infer", "--model", "other"]
    made = told(secure, *create)
    connection = connect(secure)
    assert ask(connection, made["key"])[0] == 200
    assert ask(connection, made["key"], "feedback")[0] == 403
    sock = connection.sock
    started = time.monotonic()
    assert secure.run("keys", "revoke", made["info"]["id"]).returncode == 0
    eventually(lambda: ask(connection, made["key"])[0] == 403, 5)
    say(f"revoked after {time.monotonic() - started:.2f} s, the command included")
    assert connection.sock is sock


def test_a_bad_pair_stops_the_start(secure: Platform, tmp_path: Path) -> None:
    two = TestAuthority(tmp_path)
    two.issue("one")
    two.issue("two")
    (tmp_path / "settings.toml").write_text(
        '[serving]\ntls_cert = "one.pem"\ntls_key = "two.key"\nallow_root_workers = true\n'
    )
    found = subprocess.run(
        [*secure.command, "up", "--home", str(tmp_path), "--port", "0", "--gateway-port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 2
    assert "is not that of the certificate" in found.stderr
