"""Getting in and out, with forms alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from modelfleet.api.base import COOKIE as API_COOKIE
from modelfleet.core.authorization import Principal
from modelfleet.web.base import COOKIE, local_path

if TYPE_CHECKING:
    from modelfleet.wiring import Fleet


def admin(fleet: Fleet) -> Principal:
    return fleet.identity.authenticate(fleet.layout.admin_key.read_text().strip())


def test_the_pages_and_the_api_share_a_session():
    assert COOKIE == API_COOKIE


def test_looking_at_a_link_does_not_use_it_up(bare, visitor):
    place = f"/login/{bare.identity.create_login_link(admin(bare))}"
    for _ in range(3):
        assert visitor.get(place).status_code == 200
    answer = visitor.fill(place, place)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert visitor.get("/").status_code == 200


def test_a_link_logs_in_once(bare, visitor):
    place = f"/login/{bare.identity.create_login_link(admin(bare))}"
    token = visitor.form_token(place)
    assert visitor.post(place, data={"csrf": token}).status_code == 303
    visitor.cookies.clear()
    again = visitor.fill(place, place)
    assert again.status_code == 401
    assert "used already" in again.text
    assert visitor.get("/").status_code == 303


def test_a_link_cannot_be_redeemed_from_elsewhere(bare, visitor):
    place = f"/login/{bare.identity.create_login_link(admin(bare))}"
    assert visitor.post(place).status_code == 403
    assert visitor.post(place, data={"csrf": "a.b"}).status_code == 403
    assert visitor.fill(place, place).status_code == 303, "it is still good"


def test_a_key_logs_in_and_leads_back(bare, visitor):
    asked = visitor.get("/alerts?state=all")
    assert asked.status_code == 303
    assert asked.headers["location"] == "/login?next=/alerts%3Fstate%3Dall"
    page = visitor.get(asked.headers["location"])
    assert re.search(r'name="next" value="/alerts\?state=all"', page.text)
    key = bare.layout.admin_key.read_text()
    answer = visitor.fill("/login", "/login", key=key, next="/alerts?state=all")
    assert answer.headers["location"] == "/alerts?state=all"


def test_a_wrong_key_is_told_so(visitor):
    answer = visitor.fill("/login", "/login", key="<script>")
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert "<script>" not in answer.text.replace('<script type="module"', "")


@pytest.mark.parametrize(
    "place", ["//evil.example", "https://evil.example", "/\\evil", "/a\nb", ""]
)
def test_nobody_is_sent_elsewhere(place, bare, visitor):
    assert local_path(place) == "/"
    key = bare.layout.admin_key.read_text()
    answer = visitor.fill("/login", "/login", key=key, next=place)
    assert answer.headers["location"] == "/"


def test_the_cookie_is_guarded(bare, visitor):
    answer = visitor.fill("/login", "/login", key=bare.layout.admin_key.read_text())
    cookie = next(v for v in answer.headers.get_list("set-cookie") if v.startswith(f"{COOKIE}="))
    words = {word.strip().lower() for word in cookie.split(";")}
    assert {"httponly", "samesite=lax", "path=/"} <= words
    assert "secure" not in words, "plain http"


def test_the_cookie_is_secure_over_https(bare, visitor):
    visitor.base_url = "https://testserver"
    answer = visitor.fill("/login", "/login", key=bare.layout.admin_key.read_text())
    cookies = answer.headers.get_list("set-cookie")
    assert any(v.startswith(f"{COOKIE}=") and "; Secure" in v for v in cookies)


def test_logging_out_ends_the_session(enter):
    visitor = enter()
    session = visitor.cookies[COOKIE]
    assert visitor.post("/logout").status_code == 403, "without a token"
    assert visitor.fill("/logout", "/").headers["location"] == "/login"
    visitor.cookies.clear()
    visitor.cookies.set(COOKIE, session)
    assert visitor.get("/").status_code == 303


def test_a_polling_page_learns_that_the_session_has_ended(visitor):
    answer = visitor.get("/", headers={"x-modelfleet-have": "0"})
    assert answer.status_code == 401
