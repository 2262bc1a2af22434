"""Every page as a browser without JavaScript gets it."""

from __future__ import annotations

import gzip
import html
import re
import time
from html.parser import HTMLParser

import msgspec
import pytest
from fastapi.routing import APIRoute

from modelfleet.core.authorization import SYSTEM, Action, Role
from modelfleet.core.clock import now_us
from modelfleet.delivery.apply import Signed
from modelfleet.delivery.types import Order
from modelfleet.serving.gateway import FairShare
from modelfleet.serving.pipelines.counters import Counted, PipelineCounters, StepCounters
from modelfleet.telemetry.database import open_writer, transaction, write_meta
from modelfleet.telemetry.gateway import STEP_US
from modelfleet.web.install import PAGES
from people import ADMIN

HOSTILE = '"><script>alert(1)</script>{{7*7}}'


class Scan(HTMLParser):
    """Elements and attributes that the content security policy would block, and broken nesting."""

    VOID = frozenset("input link meta br img line rect circle polyline use path".split())

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        if tag == "style" or (tag == "script" and not names.get("src")):
            self.wrong.append(tag)
        self.wrong += [name for name in names if name == "style" or name.startswith("on")]
        if names.get("id"):
            self.ids.append(names["id"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(f"</{tag}>")


def places(world) -> list[str]:
    alerts = world.fleet.monitoring.list_alerts(ADMIN)
    assert alerts, "the world drifts"
    return [
        "/",
        "/?q=churn&team=growth&state=rolling-out&sort=rate&order=desc",
        "/models/churn",
        "/models/churn?version=1.1.0&span=5m",
        "/models/fraud",
        "/rollouts",
        "/rollouts?show=active&endpoint=churn",
        f"/rollouts/{world.rollout}",
        "/pipelines",
        "/files",
        "/experiments",
        "/experiments/0",
        "/models/churn/diff",
        "/models/churn/delivery",
        "/models/fraud/delivery",
        "/models/churn/versions/1.1.0/gates",
        "/models/churn/versions/1.1.0/gates/quality",
        "/models/churn/versions/1.1.0/gates/strange",
        "/models/churn/versions/1.0.0/gates",
        "/pipelines/scoring",
        "/alerts",
        "/alerts?by=endpoint&state=all&q=churn",
        "/audit",
        "/audit?kind=model&name=churn",
    ]


def test_all_pages_are_sound(world, enter):
    visitor = enter()
    for place in places(world):
        answer = visitor.get(place)
        assert answer.status_code == 200, place
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        scan = Scan()
        scan.feed(answer.text)
        assert (scan.wrong, scan.open) == ([], []), place
        assert len(scan.ids) == len(set(scan.ids)), place


def test_the_page_of_files_tells_drift_and_shows_nobody_else_s(world, enter):
    assert "Nothing was applied" in enter().get("/files").text
    document = {
        "apiVersion": "modelfleet.dev/v1",
        "kind": "Model",
        "metadata": {"name": "churn", "owner": "growth", "description": "<i>who</i>"},
    }
    signed = Signed("shop", "prod", "c0ffee-dirty", "")
    world.fleet.files.apply(ADMIN, signed, [Order(document)])
    text = enter().get("/files").text
    assert "shop (prod)" in text
    assert "c0ffee" in text
    assert "changed outside" not in text
    world.fleet.registry.update_model(ADMIN, "churn", description="by hand")
    assert "changed outside of files: metadata.description" in enter().get("/files").text
    assert "churn" not in enter(Role.VIEWER, team="risk").get("/files").text


def test_the_fleet_can_be_filtered_and_sorted(world, enter):
    def endpoints(query: str) -> list[str]:
        return re.findall(r'<th scope="row"><a[^>]*>([^<]+)', enter_once.get(f"/?{query}").text)

    enter_once = enter()
    assert endpoints("") == ["churn", "fraud", "upsell"]
    assert endpoints("order=desc") == ["upsell", "fraud", "churn"]
    assert endpoints("team=risk") == ["fraud"]
    assert endpoints("state=rolling-out") == ["churn"]
    assert endpoints("q=UPS") == ["upsell"]
    assert endpoints("sort=predictions&order=desc")[0] == "churn"
    assert endpoints("sort=nonsense") == ["churn", "fraud", "upsell"]
    assert 'aria-sort="descending"' in enter_once.get("/?sort=rate&order=desc").text


def test_an_overload_and_other_refusals_are_told(world, enter):
    assert "More is asked" not in enter().get("/").text
    refuse(world, {("churn", "overload"): 400, ("churn", "key-expired"): 3, ("", "not-found"): 9})
    world.fleet.gateway.set_shares([FairShare("churn", 12.5, since_us=now_us() - 90_000_000)])
    text = plain(enter().get("/").text)
    told = r"churn: each caller gets 12.5 requests a second, (\S+) a second are refused, since 20"
    found = re.search(told, text)
    assert found is not None, text
    assert 9.0 <= float(found[1]) <= 14.0
    for place in ("/", "/models/churn"):
        scan = Scan()
        scan.feed(enter().get(place).text)
        assert (scan.wrong, scan.open) == ([], [])
    page = plain(enter().get("/models/churn").text)
    assert "More is asked of churn than it can answer: each caller gets 12.5" in page
    assert "400 beyond the caller's fair share" in page
    assert "3 with a key that has expired key-expired" in page
    assert "not there" not in page
    assert "refused" not in plain(enter().get("/models/upsell").text)
    stranger = enter(Role.VIEWER, team="risk")
    assert "More is asked" not in stranger.get("/").text
    assert stranger.get("/models/churn").status_code in (403, 404)
    world.fleet.gateway.set_shares([])
    assert "More is asked" not in enter().get("/").text


def refuse(world, counts: dict[tuple[str, str], int]) -> None:
    """As the collector notes what the gateway refused just now."""
    connection = open_writer(world.fleet.layout.evidence_database)
    with transaction(connection):
        for (endpoint, reason), count in counts.items():
            start = now_us() // STEP_US * STEP_US
            row = (start, endpoint, reason, count)
            connection.execute("INSERT INTO refusal VALUES (?, ?, ?, ?)", row)
        write_meta(connection, "gateway_seen", now_us())
    connection.close()


def plain(text: str) -> str:
    """Words without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def test_a_gate_page_draws_its_evidence_and_escapes_it(world, enter):
    visitor = enter()
    text = visitor.get("/models/churn/versions/1.1.0/gates/quality").text
    assert "<script>alert" not in text
    assert text.count('<svg class="chart"') == 3
    assert "land=fr: -0.01, from -0.03 to 0.01, 900 rows, fail" in text
    assert "one-sided bounds" in text
    assert visitor.get("/models/churn/versions/1.1.0/gates/nothing").status_code == 404
    listed = visitor.get("/models/churn/versions/1.1.0/gates").text
    assert "Asked for by ada, against 1.0.0" in listed
    assert "/models/churn/versions/1.1.0/gates" in visitor.get("/models/churn").text


def test_gates_run_again_from_their_page(world, enter):
    place = "/models/churn/versions/1.1.0/gates"
    visitor = enter()
    answer = visitor.fill(place, place)
    assert answer.status_code in (200, 303)
    again = world.fleet.gates.requests(ADMIN, "churn", "1.1.0")
    assert [len(one.gates) for one in again] == [2, 2]
    viewer = enter(Role.VIEWER)
    assert "Run again" not in viewer.get(place).text


def test_the_model_page_tells_what_is_known(world, enter):
    text = enter().get("/models/churn").text
    for told in (
        "1.1.0",
        "churn-2026",  # lineage in words
        '<svg class="graph"',  # and drawn
        "f0: 4.25, f1: 8.5",  # inputs of the recent prediction
        "<td>admin</td>",  # who asked for it
        "register-version",  # audit
        "preliminary",
        "Requests and errors a second",
        'class="histogram"',
    ):
        assert told in text, told


def test_the_rollout_page_draws_its_evidence(world, enter):
    text = enter().get(f"/rollouts/{world.rollout}").text
    assert text.count('class="chart"') == 2
    assert "Undecided in errors: &lt;b&gt;." in text
    assert "enough to roll back" in text


def test_a_rollout_is_steered_by_forms(world, enter):
    visitor, place = enter(), f"/rollouts/{world.rollout}"
    assert visitor.fill(f"{place}/pause", place).headers["location"] == place
    assert "asked to pause" in visitor.get(place).text
    visitor.fill(f"{place}/resume", place)
    assert "asked to" not in visitor.get(place).text
    visitor.fill(f"{place}/abort", place)
    text = visitor.get(place).text
    assert "asked to abort" in text
    assert "/abort" not in text, "there is nothing left to press"
    assert world.fleet.rollouts.get(ADMIN, world.rollout).rollout.desired == "abort"


def test_what_people_are_asked_has_buttons(world, enter):
    visitor, place = enter(), f"/rollouts/{world.rollout}"
    with world.fleet.database.begin() as connection:
        asked = world.fleet.approvals.ask(
            connection, SYSTEM, f"rollout/{world.rollout}/step/0", {"spec": "0" * 8},
            role="approver", team="growth", sentence="Go on with <b>it</b>.",
        )  # fmt: skip
    for page in (place, "/approvals"):
        text = visitor.get(page).text
        assert f"/approvals/{asked}/approve" in text
        assert "Go on with &lt;b&gt;it&lt;/b&gt;." in text
    done = visitor.fill(f"/approvals/{asked}/approve", place, back=place, reason="fine")
    assert done.headers["location"] == place
    assert "approved (fine)" in visitor.get(place).text
    assert world.fleet.approvals.get(ADMIN, asked).state == "approved"
    assert "Nobody needs to approve" in visitor.get("/approvals").text


def test_a_promotion_by_hand_needs_a_reason(world, enter):
    visitor, place = enter(), f"/rollouts/{world.rollout}"
    assert visitor.fill(f"{place}/promote", place).status_code == 400
    assert visitor.fill(f"{place}/promote", place, reason="it is urgent").status_code == 303
    assert "asked to promote" in visitor.get(place).text


def test_alerts_are_acknowledged_and_resolved(world, enter):
    visitor = enter()
    alert = world.fleet.monitoring.list_alerts(ADMIN, open_only=True)[0]
    answer = visitor.fill(f"/alerts/{alert.id}/acknowledge", "/alerts", back="/alerts?by=endpoint")
    assert answer.headers["location"] == "/alerts?by=endpoint"
    assert "Acknowledged" in visitor.get("/alerts?state=acknowledged").text
    visitor.fill(f"/alerts/{alert.id}/resolve", "/alerts")
    assert world.fleet.monitoring.get_alert(ADMIN, alert.id).state == "resolved"
    assert alert.id in visitor.get("/alerts?state=resolved").text


def test_forms_need_their_token(world, enter):
    visitor = enter()
    for place in (f"/rollouts/{world.rollout}/abort", "/logout"):
        for token in ("", "a.b", visitor.form_token("/")[:-1] + "!"):
            assert visitor.post(place, data={"csrf": token}).status_code == 403
    assert world.fleet.rollouts.get(ADMIN, world.rollout).rollout.desired == "run"


def test_each_page_shows_another_token(world, enter):
    visitor = enter()
    assert visitor.form_token("/") != visitor.form_token("/")


def test_names_are_never_markup(world, enter):
    fleet = world.fleet
    fleet.registry.update_model(
        ADMIN, "churn", description=HOSTILE, business_function=HOSTILE, tags={HOSTILE: HOSTILE}
    )
    visitor = enter()
    for place in [*places(world), f"/?q={HOSTILE}&team={HOSTILE}", f"/audit?name={HOSTILE}"]:
        text = visitor.get(place).text
        assert "<script>alert" not in text, place
        assert "49" not in text[text.find("alert(1)") :][:40], place
    assert "&lt;script&gt;alert(1)" in visitor.get("/models/churn").text


def test_a_pipeline_is_drawn_and_its_steps_are_told(world, enter):
    counted = {"first": StepCounters(calls=7, errors=2, fallbacks=2, breaker="open")}
    found = Counted({"scoring": PipelineCounters(requests=9, steps=counted)})
    path = world.fleet.layout.pipeline_counters(0)
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.json.encode(found))
    text = enter().get("/pipelines/scoring").text
    assert "Graph of scoring: 4 nodes, 5 edges." in text
    assert "9 requests" in text
    assert "circuit open: churn</text>" in text
    row = text[text.index('<th scope="row">first</th>') :].partition("</tr>")[0]
    assert "open" in row
    assert "<td>7</td><td>2</td>" in row
    assert "else previous version, constant" in row
    assert enter(Role.VIEWER, team="risk").get("/pipelines/scoring").status_code == 403
    assert "scoring" not in enter(Role.VIEWER, team="risk").get("/pipelines").text


def test_a_tampered_log_is_told(world, enter):
    visitor = enter()
    assert "chain intact" in visitor.get("/audit").text
    with world.fleet.database.begin() as connection:
        connection.exec_driver_sql("UPDATE audit_event SET principal = 'eve' WHERE sequence = 2")
    assert "chain broken" in visitor.get("/audit").text
    assert "Event 2 does not fit" in visitor.get("/audit").text


def test_polling_gets_what_changed(world, enter):
    visitor = enter()
    tag = re.search(r'data-tag="(\w+)"', visitor.get("/").text)[1]
    quiet = visitor.get("/", headers={"x-modelfleet-have": tag})
    assert (quiet.status_code, quiet.text) == (204, "")
    world.serve("fraud", (world.versions["fraud"], 10_000))
    world.fleet.rollouts.abort(ADMIN, world.rollout)
    with world.fleet.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM alert")
    update = visitor.get("/", headers={"x-modelfleet-have": tag})
    assert update.headers["x-modelfleet-whole"] == "0"
    assert re.findall(r"<!--\[(\w+)\]-->", update.text)[0] == "tiles"
    assert update.text.count("<tr ") == 1, "only churn's row changed"


def test_mistakes_are_told_as_pages(world, enter):
    visitor = enter()
    for place, status in (
        ("/nowhere", 404),
        ("/models/nobody", 404),
        ("/models/churn?version=9.9.9", 404),
        ("/rollouts/nothing", 404),
        ("/alerts?page=x", 400),
        ("/static/0/pages.css", 404),
    ):
        answer = visitor.get(place)
        assert (answer.status_code, "<h1>" in answer.text) == (status, True), place
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_conflict_is_told_as_a_page(world, enter):
    visitor, place = enter(), f"/rollouts/{world.rollout}"
    visitor.fill(f"{place}/abort", place)
    answer = visitor.fill(f"{place}/pause", "/")
    assert answer.status_code == 409
    assert "was aborted" in answer.text


def test_an_unexpected_error_is_told_without_its_inside(world, enter, monkeypatch):
    visitor = enter()
    monkeypatch.setattr(
        "modelfleet.web.fleet.fleet_view", lambda *_: (_ for _ in ()).throw(ValueError("inside"))
    )
    answer = visitor.get("/")
    assert answer.status_code == 500
    assert "inside" not in answer.text
    assert "<h1>" in answer.text


def test_programs_keep_their_problems(world, visitor):
    for place, status in (("/v1/models", 401), ("/v1/nowhere", 404)):
        answer = visitor.get(place)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


def test_strangers_are_sent_to_log_in(world, visitor):
    for place in places(world):
        answer = visitor.get(place)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login")


def test_the_viewer_of_a_team_sees_that_team_only(world, enter):
    visitor = enter(Role.VIEWER, team="risk")
    text = visitor.get("/").text
    assert "fraud" in text
    assert "churn" not in text
    assert visitor.get("/models/churn").status_code == 403
    assert visitor.get(f"/rollouts/{world.rollout}").status_code == 403
    assert "churn" not in visitor.get("/rollouts").text
    assert "churn" not in visitor.get("/alerts").text
    assert visitor.get("/audit").status_code == 403


def test_a_viewer_finds_no_buttons_and_no_payloads(world, enter):
    visitor = enter(Role.VIEWER, team="growth")
    rollout = visitor.get(f"/rollouts/{world.rollout}").text
    assert "/abort" not in rollout
    assert "/pause" not in rollout
    assert "/acknowledge" not in visitor.get("/alerts").text
    model = visitor.get("/models/churn").text
    assert "You may not read inputs and outputs" in model
    assert "f0: 4.25, f1: 8.5" not in model
    assert "You may not read the audit log" in model
    token = visitor.form_token("/")
    answer = visitor.post(f"/rollouts/{world.rollout}/abort", data={"csrf": token})
    assert answer.status_code == 403
    assert "Forbidden" in answer.text


def test_who_has_no_grant_gets_a_clear_answer(world, enter):
    visitor = enter(grants=False)
    for place in ("/", "/rollouts", "/alerts", "/audit", "/models/churn"):
        answer = visitor.get(place)
        assert answer.status_code == 403, place
        assert "An admin can grant a role" in answer.text


def test_every_page_declares_what_it_asks():
    known = {action.value for action in Action} | {"public"}
    public = set()
    for router in PAGES:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            permission = (route.openapi_extra or {})["x-permission"]
            assert permission in known
            if permission == "public":
                public.add(route.path)
    assert public == {"/login", "/login/{secret}", "/static/{version}/{name}"}


def test_assets_never_age(visitor):
    page = visitor.get("/login").text
    for place in re.findall(r'(?:href|src)="(/static/[^"]+)"', page):
        answer = visitor.get(place)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert "//" not in re.sub(r"<!doctype[^>]*>", "", page).replace("http://www.w3.org", "")


def test_replayed_days_are_shown(world, enter):
    start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    file = world.fleet.layout.run / "replay.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f'{{"start":"{start}","from":"2013-07-01","seconds_per_day":60}}')
    visitor = enter()
    assert re.search(r"replay: <b>(29|30|31) Aug 2013", visitor.get("/").text)
    assert re.search(r'class="tick day"[^>]*>\d+ (Jul|Aug)<', visitor.get("/models/churn").text)


@pytest.mark.parametrize("models", [124])
def test_a_whole_fleet_is_small_and_quick(models, bare, registrar, enter):
    from modelfleet.serving.endpoints import Route

    for k in range(models):
        registrar.model(f"late-{k}")
        version = registrar.ready(f"late-{k}")
        bare.endpoints.create(ADMIN, f"late-{k}", f"late-{k}")
        with bare.database.begin() as connection:
            place = bare.endpoints.find(connection, f"late-{k}")
            bare.endpoints.set_routes(
                connection, place.id, [Route(version.id, 10_000)], stable_version_id=version.id
            )
    visitor = enter()
    visitor.get("/")
    quickest = min(_seconds(lambda: visitor.get("/")) for _ in range(5))
    text = visitor.get("/").text
    assert text.count('<th scope="row">') == models
    assert len(gzip.compress(text.encode())) < 40_000
    assert quickest < 0.3


def _seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start
