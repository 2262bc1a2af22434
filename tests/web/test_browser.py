"""The pages in a real Chromium: axe finds nothing, what moves keeps moving, forms work."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from modelfleet.app import create_app
from people import ADMIN

pytestmark = pytest.mark.browser
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield made
        made.close()


@pytest.fixture
def address(world) -> Iterator[str]:
    """The pages of the world on a free port; reconciler and jobs stand still."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(world.fleet), lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    listening.close()


@pytest.fixture
def visit(world, address: str, browser: Browser) -> Iterator[Open]:
    """A window in which the admin has logged in by link; whatever it complains of is an error."""
    contexts, complaints = [], list[str]()

    def opened(**options: object) -> Page:
        context = browser.new_context(base_url=address, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on(
            "console", lambda said: complaints.append(said.text) if said.type == "error" else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        admin = world.fleet.identity.authenticate(world.fleet.layout.admin_key.read_text().strip())
        page.goto(f"/login/{world.fleet.identity.create_login_link(admin)}")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing(world, visit, scheme, width):
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 900})
    for place in (
        "/",
        "/models/churn",
        "/models/fraud",
        "/rollouts",
        "/approvals",
        f"/rollouts/{world.rollout}",
        "/pipelines",
        "/experiments",
        "/experiments/0",
        "/models/churn/diff",
        "/models/churn/versions/1.1.0/gates",
        "/models/churn/versions/1.1.0/gates/quality",
        "/pipelines/scoring",
        "/alerts",
        "/audit",
        "/login",
    ):
        page.goto(place)
        found = Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == [], place
        assert page.evaluate("document.documentElement.scrollWidth") <= width, place


def test_from_the_fleet_to_a_model(visit):
    page = visit()
    page.get_by_label("Text").fill("fraud")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(re.compile(r"q=fraud"))
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="fraud").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("fraud")


def test_a_rollout_is_aborted_with_the_mouse(world, visit):
    page = visit()
    page.get_by_role("link", name="rolling out").click()
    page.get_by_text("Abort…").click()
    page.get_by_role("button", name="all traffic back to 1.0.0").click()
    expect(page.get_by_text("asked to abort")).to_be_visible()
    assert world.fleet.rollouts.get(ADMIN, world.rollout).rollout.desired == "abort"


def test_a_rollout_is_aborted_without_javascript(world, visit):
    page = visit(java_script_enabled=False)
    page.goto(f"/rollouts/{world.rollout}")
    page.get_by_text("Abort…").click()
    page.get_by_role("button", name="all traffic back to 1.0.0").click()
    expect(page.get_by_text("asked to abort")).to_be_visible()


def test_rows_and_tiles_follow_without_a_reload(world, visit):
    page = visit()
    page.evaluate("window.still = true")
    row = page.locator("tbody tr", has_text="churn")
    row.get_by_role("link", name="churn").focus()
    expect(row.locator("td").last).not_to_have_text("0")
    for alert in world.fleet.monitoring.list_alerts(ADMIN, open_only=True):
        world.fleet.monitoring.resolve(ADMIN, alert.id)
    expect(row.locator("td").last).to_have_text("0")
    expect(page.locator("#tiles")).to_contain_text("Open alerts0")
    assert page.evaluate("window.still"), "the page was not loaded again"
    assert page.evaluate("document.activeElement.textContent") == "churn", "the focus stays"


def test_new_rows_come_and_open_details_stay_open(world, visit):
    page = visit()
    page.goto(f"/rollouts/{world.rollout}")
    page.get_by_text("Abort…").click()
    world.fleet.rollouts.pause(ADMIN, world.rollout)
    expect(page.get_by_text("asked to pause")).to_be_visible()
    expect(page.get_by_role("button", name="all traffic back to 1.0.0")).to_be_visible()
    page.goto("/")
    world.fleet.endpoints.create(ADMIN, "brand-new", "upsell")
    expect(page.get_by_role("link", name="brand-new")).to_be_visible()


def test_updates_can_be_paused(world, visit):
    page = visit()
    page.get_by_role("button", name="Pause updates").click()
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4500)
    assert asked == []
    page.get_by_role("button", name="Pause updates").click()
    with page.expect_response(re.compile(r"/$")):
        pass


def test_the_cursor_reads_a_chart(visit):
    page = visit()
    page.goto("/models/churn?span=1h")
    slot = page.locator(".chart .slot").nth(45)
    slot.locator("rect").hover()
    expect(slot.locator("text")).to_be_visible()
    expect(slot.locator("text")).to_contain_text("requests")
