"""What is rendered, read without Envoy."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from modelfleet.core.errors import InvalidInput
from modelfleet.serving.gateway import (
    EndpointRoutes,
    GatewayConfig,
    GatewayFiles,
    PoolAddress,
    Shadow,
    Sticky,
    Target,
    clusters,
    envoy_binary,
    routes,
)
from modelfleet.serving.gateway.clusters import pool_cluster


def text_of(config: GatewayConfig) -> str:
    return msgspec.json.encode(routes.render(config, "s3cret")).decode()


def endpoint(name: str, *weights: int, **more: object) -> EndpointRoutes:
    targets = tuple(
        Target(10 + n, f"1.{n}.0", n + 1, "pool", weight) for n, weight in enumerate(weights)
    )
    return EndpointRoutes(name, targets, **more)  # type: ignore[arg-type]


def test_an_endpoint_without_weights_is_reachable_by_pin_only() -> None:
    text = text_of(GatewayConfig(1, (endpoint("m", 0),)))
    assert '"weighted_clusters"' not in text
    assert '"x-mf-version","value":"10"' in text


def test_no_name_answers_for_a_longer_one() -> None:
    found = json.loads(text_of(GatewayConfig(1, (endpoint("m1", 10_000),))))
    host = found["resources"][0]["virtual_hosts"][0]
    below = host["matcher"]["on_no_match"]["matcher"]["matcher_tree"]["prefix_match_map"]["map"]
    route = below["/v2/models/m1"]["action"]["typed_config"]
    path = re.compile(route["match"]["safe_regex"]["regex"])
    for good in ("", "/infer", "/invocations", "/ready", "/versions/1", "/versions/1.0.0/infer"):
        assert path.fullmatch(f"/v2/models/m1{good}"), good
    for bad in ("0", "0/infer", "/other", "/feedback", "/versions/2/infer", "/infer/infer"):
        assert not path.fullmatch(f"/v2/models/m1{bad}"), bad


def test_what_has_not_changed_is_not_rendered_again() -> None:
    renderer = routes.RouteRenderer()
    before = endpoint("a", 10_000), endpoint("b", 10_000)
    first = renderer.render(GatewayConfig(1, before), "s")
    after = before[0], endpoint("b", 5_000, 5_000)
    second = renderer.render(GatewayConfig(2, after), "s")

    def part(rendered: dict[str, object], name: str) -> object:
        host = rendered["resources"][0]["virtual_hosts"][0]  # type: ignore[index]
        below = host["matcher"]["on_no_match"]["matcher"]["matcher_tree"]["prefix_match_map"]
        return below["map"][f"/v2/models/{name}"]

    assert part(first, "a") is part(second, "a")
    assert part(first, "b") != part(second, "b")
    assert msgspec.json.encode(second) == msgspec.json.encode(
        routes.render(GatewayConfig(2, after), "s")
    )


def test_dots_of_a_version_are_no_wildcards() -> None:
    assert r"1\\.0\\.0|1" in text_of(GatewayConfig(1, (endpoint("m", 10_000),)))


def test_only_inference_is_mirrored() -> None:
    shadows = (Shadow(99, "pool", 2_500),)
    text = text_of(GatewayConfig(1, (endpoint("m", 10_000, shadows=shadows),)))
    assert text.count("request_mirror_policies") == 1
    assert '"numerator":2500' in text


def test_the_503_of_a_pipeline_is_its_answer() -> None:
    plain = routes.render(GatewayConfig(1, (endpoint("m", 10_000),)), "s")
    final = routes.render(GatewayConfig(1, (endpoint("m", 10_000, retries_503=False),)), "s")
    never = '"retriable_status_codes": [599]'
    assert never not in json.dumps(json.loads(msgspec.json.encode(plain)))
    assert never in json.dumps(json.loads(msgspec.json.encode(final)))


def test_a_pool_has_the_clusters_that_its_routes_name() -> None:
    pool = PoolAddress("p", ("/a", "/b", "/c"))
    light, heavy = Target(1, "1.0.0", 1, "p", 10_000, light=True), Target(2, "1.0.0", 1, "p", 1)

    def names(*targets: Target, shadows: tuple[Shadow, ...] = ()) -> dict[object, object]:
        routes = tuple(
            EndpointRoutes(f"m{t.version_index}", (t,), shadows=shadows) for t in targets
        )
        found = clusters.of(GatewayConfig(1, routes, (pool,)), Path("/f"))
        return {one["name"]: one["lb_policy"] for one in found}

    assert names() == names(heavy) == {"pool-p": "LEAST_REQUEST"}
    assert names(light) == {"pool-p-near": "RING_HASH"}
    both = {"pool-p": "LEAST_REQUEST", "pool-p-near": "RING_HASH"}
    assert names(light, heavy) == names(light, shadows=(Shadow(3, "p", 100),)) == both


def test_only_the_connection_itself_ejects_a_worker() -> None:
    detection = pool_cluster(PoolAddress("p", ("/s",)), Path("/f"))["outlier_detection"]
    assert detection["enforcing_consecutive_5xx"] == 0  # type: ignore[index]
    assert detection["enforcing_consecutive_gateway_failure"] == 0  # type: ignore[index]


def test_feedback_is_never_sent_twice() -> None:
    found = routes.render(GatewayConfig(1, (endpoint("m", 10_000),)), "s3cret")
    host = json.loads(msgspec.json.encode(found))["resources"][0]["virtual_hosts"][0]
    (matcher,) = host["matcher"]["matcher_list"]["matchers"]
    feedback = matcher["on_match"]["action"]["typed_config"]
    assert "/feedback" in feedback["match"]["safe_regex"]["regex"]
    assert feedback["route"]["retry_policy"] == {"num_retries": 0}
    assert "s3cret" in str(feedback["request_headers_to_add"])


def test_an_endpoint_with_a_try_timeout_has_a_whole_policy_of_its_own() -> None:
    plain = text_of(GatewayConfig(1, (endpoint("m", 10_000),)))
    own = text_of(GatewayConfig(1, (endpoint("m", 10_000, per_try_timeout_ms=250),)))
    assert plain.count("previous_hosts") == 2  # name and type, once for the virtual host
    assert own.count('"per_try_timeout":"0.25s"') * 2 + 2 == own.count("previous_hosts")


@pytest.mark.parametrize(
    "build",
    [
        lambda: endpoint("a/b", 1),
        lambda: endpoint("", 1),
        lambda: endpoint("m", 10_001),
        lambda: endpoint("m", -1),
        lambda: endpoint("m", 1, sticky=Sticky("header", "X Y")),
        lambda: EndpointRoutes("m", (Target(1, "1.0.0", 1, "p", 1), Target(1, "1.0.1", 2, "p", 1))),
        lambda: GatewayConfig(1, (endpoint("m", 1), endpoint("m", 1))),
        lambda: GatewayConfig(1, (), (PoolAddress("p", ()), PoolAddress("p", ()))),
    ],
)
def test_what_can_not_be_right_is_refused(build: object) -> None:
    with pytest.raises(InvalidInput):
        build()  # type: ignore[operator]


def test_envoy_accepts_the_bootstrap(tmp_path: Path) -> None:
    from modelfleet.core.keys import SigningKey
    from modelfleet.core.layout import Layout

    layout = Layout(tmp_path)
    SigningKey(layout)
    files = GatewayFiles(layout)
    files.bootstrap(
        host="127.0.0.1",
        port=1,
        control_plane=("127.0.0.1", 2),
        jwks=layout.jwks.read_text("utf-8"),
    )
    validated = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", layout.gateway / "bootstrap.json"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert validated.returncode == 0, validated.stderr
    assert (layout.gateway / "rds.json").stat().st_mode & 0o077 == 0


def test_bootstrap_keeps_the_last_good_routes(tmp_path: Path) -> None:
    from modelfleet.core.layout import Layout

    files = GatewayFiles(Layout(tmp_path))
    files.write(GatewayConfig(7, (endpoint("m", 10_000),)))
    files.bootstrap(host="127.0.0.1", port=1, control_plane=("127.0.0.1", 2), jwks='{"keys":[]}')
    assert '"version_info":"7"' in (tmp_path / "run/gateway/rds.json").read_text()
    assert files.acknowledged() == 0
