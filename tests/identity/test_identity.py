"""Principals, grants, keys, links and sessions."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import Grant, Principal, Role
from modelfleet.core.database import Database
from modelfleet.core.errors import Conflict, FleetError, InvalidInput, NotAllowed, NotFound
from modelfleet.core.errors import Unauthenticated as Refused
from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.identity import IdentityService, service, store
from people import ADMIN, principal


class Clock:
    """Microseconds since 1970, moved by hand."""

    def __init__(self) -> None:
        import time

        self.now = time.time_ns() // 1000

    def __call__(self) -> int:
        return self.now

    def forward(self, *, seconds: float) -> None:
        self.now += int(seconds * 1e6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(service, "now_us", made)
    return made


@pytest.fixture
def identity(database: Database, layout: Layout) -> IdentityService:
    return IdentityService(database, SigningKey(layout))


@pytest.fixture
def bob(identity: IdentityService) -> Principal:
    """Somebody without grants."""
    made = identity.create_principal(ADMIN, "bob", "person")
    return Principal(made.id, made.name)


@pytest.fixture
def actions(database: Database) -> Callable[[], list[str]]:
    return lambda: [event.action for event in reversed(audit.events(database))]


# First start -----------------------------------------------------------------------------------


def test_the_first_start_makes_one_admin_with_a_key(
    identity: IdentityService, layout: Layout
) -> None:
    assert identity.bootstrap(layout)
    text = layout.admin_key.read_text()
    assert stat.S_IMODE(layout.admin_key.stat().st_mode) == 0o600
    admin = identity.authenticate(text.strip(), "request-1")
    assert (admin.name, admin.grants) == ("admin", (Grant(Role.ADMIN, "*"),))
    assert admin.correlation_id == "request-1"
    assert not identity.bootstrap(layout)
    assert layout.admin_key.read_text() == text
    assert len(identity.list_principals(admin)) == len(identity.list_keys(admin)) == 1


def test_a_start_that_died_halfway_is_made_good(identity: IdentityService, layout: Layout) -> None:
    identity.bootstrap(layout)
    layout.admin_key.unlink()
    assert identity.bootstrap(layout)
    admin = identity.authenticate(layout.admin_key.read_text().strip())
    assert len(identity.list_principals(admin)) == 1


def test_a_key_of_another_database_is_replaced(identity: IdentityService, layout: Layout) -> None:
    layout.admin_key.write_text("left over\n")
    assert identity.bootstrap(layout)
    assert identity.authenticate(layout.admin_key.read_text().strip()).name == "admin"


def test_a_revoked_admin_key_stays_revoked(identity: IdentityService, layout: Layout) -> None:
    identity.bootstrap(layout)
    text = layout.admin_key.read_text()
    identity.revoke_key(ADMIN, identity.list_keys(ADMIN)[0].id)
    assert not identity.bootstrap(layout)
    assert layout.admin_key.read_text() == text
    with pytest.raises(Refused):
        identity.authenticate(text.strip())


# Keys ------------------------------------------------------------------------------------------


def test_a_key_tells_who_holds_it_until_it_is_revoked(
    identity: IdentityService, bob: Principal, actions: Callable[[], list[str]]
) -> None:
    text, info = identity.create_key(ADMIN, "bob", name="laptop", models=("churn",), seconds=60)
    assert (info.principal, info.name, info.models, info.revoked) == (
        "bob",
        "laptop",
        ("churn",),
        False,
    )
    assert identity.authenticate(text).id == bob.id
    assert identity.revoked() == ()
    identity.revoke_key(ADMIN, info.id)
    with pytest.raises(Refused):
        identity.authenticate(text)
    assert identity.revoked() == (info.id,)
    assert identity.list_keys(ADMIN)[0].revoked
    assert actions() == ["create-principal", "create-key", "revoke-key"]


def test_a_revoked_key_leaves_the_deny_list_when_it_would_have_expired(
    identity: IdentityService, bob: Principal, clock: Clock
) -> None:
    _, info = identity.create_key(ADMIN, "bob", seconds=60)
    identity.revoke_key(ADMIN, info.id)
    assert identity.revoked() == (info.id,)
    clock.forward(seconds=62)
    assert identity.revoked() == ()


def test_grants_are_looked_up_not_carried(identity: IdentityService, bob: Principal) -> None:
    text, _ = identity.create_key(ADMIN, "bob", seconds=60)
    assert identity.authenticate(text).grants == ()
    identity.add_grant(ADMIN, "bob", Grant(Role.VIEWER, "growth"))
    assert identity.authenticate(text).grants == (Grant(Role.VIEWER, "growth"),)
    identity.remove_grant(ADMIN, "bob", Grant(Role.VIEWER, "growth"))
    assert identity.authenticate(text).grants == ()


def test_a_key_signed_by_us_but_never_listed_is_refused(
    identity: IdentityService, bob: Principal, layout: Layout
) -> None:
    text, _ = SigningKey(layout).issue(bob.id, "bob", models=("*",), seconds=60)
    with pytest.raises(Refused):
        identity.authenticate(text)


def test_one_may_narrow_ones_own_reach_but_not_widen_it(
    identity: IdentityService, bob: Principal
) -> None:
    identity.create_key(bob, "bob", models=(), seconds=60)
    with pytest.raises(NotAllowed):
        identity.create_key(bob, "bob", models=("churn",), seconds=60)
    identity.create_key(ADMIN, "bob", models=("churn", "fraud"), seconds=60)
    assert identity.create_key(bob, "bob", models=("churn",), seconds=60)[1].models == ("churn",)
    for wider in (("*",), ("churn", "spam")):
        with pytest.raises(NotAllowed):
            identity.create_key(bob, "bob", models=wider, seconds=60)
    identity.create_key(ADMIN, "bob", models=("*",), seconds=60)
    assert identity.create_key(bob, "bob", models=("spam",), seconds=60)[1].models == ("spam",)


def test_a_revoked_or_expired_key_gives_no_reach(
    identity: IdentityService, bob: Principal, clock: Clock
) -> None:
    _, info = identity.create_key(ADMIN, "bob", models=("churn",), seconds=60)
    identity.revoke_key(bob, info.id)
    with pytest.raises(NotAllowed):
        identity.create_key(bob, "bob", models=("churn",), seconds=60)
    identity.create_key(ADMIN, "bob", models=("churn",), seconds=60)
    clock.forward(seconds=62)
    with pytest.raises(NotAllowed):
        identity.create_key(bob, "bob", models=("churn",), seconds=60)


@pytest.mark.parametrize("seconds", [0, -1, 366 * 86_400])
def test_keys_live_between_a_second_and_a_year(
    identity: IdentityService, bob: Principal, seconds: int
) -> None:
    with pytest.raises(InvalidInput):
        identity.create_key(ADMIN, "bob", seconds=seconds)


def test_others_keys_are_the_admins_business(identity: IdentityService, bob: Principal) -> None:
    _, info = identity.create_key(ADMIN, "bob", seconds=60)
    eve = replace(principal(Role.DEPLOYER), id="eve")
    for forbidden in (
        lambda: identity.revoke_key(eve, info.id),
        lambda: identity.list_keys(eve),
        lambda: identity.create_key(eve, "bob", seconds=60),
    ):
        with pytest.raises(NotAllowed):
            forbidden()
    with pytest.raises(NotFound):
        identity.revoke_key(ADMIN, "no-such-key")


# Principals and grants --------------------------------------------------------------------------


def test_names_are_unique_and_kinds_known(identity: IdentityService, bob: Principal) -> None:
    with pytest.raises(Conflict):
        identity.create_principal(ADMIN, "bob", "service")
    for name, kind in (("", "person"), ("x" * 201, "person"), ("eve", "robot")):
        with pytest.raises(InvalidInput):
            identity.create_principal(ADMIN, name, kind)
    with pytest.raises(NotFound):
        identity.add_grant(ADMIN, "eve", Grant(Role.VIEWER))


def test_granting_twice_is_once(
    identity: IdentityService, bob: Principal, actions: Callable[[], list[str]]
) -> None:
    for _ in range(2):
        found = identity.add_grant(ADMIN, bob.id, Grant(Role.VIEWER, "growth"))
        assert found.grants == (Grant(Role.VIEWER, "growth"),)
    assert actions().count("add-grant") == 1
    with pytest.raises(NotFound):
        identity.remove_grant(ADMIN, "bob", Grant(Role.VIEWER, "*"))


@pytest.mark.parametrize("role", [Role.VIEWER, Role.DATA_SCIENTIST, Role.DEPLOYER, Role.APPROVER])
def test_only_an_admin_of_all_teams_manages_access(
    identity: IdentityService, bob: Principal, role: Role
) -> None:
    for who in (principal(role), principal(Role.ADMIN, "growth")):
        for forbidden in (
            lambda who=who: identity.create_principal(who, "eve", "person"),
            lambda who=who: identity.add_grant(who, "bob", Grant(Role.ADMIN, "growth")),
            lambda who=who: identity.remove_grant(who, "bob", Grant(Role.VIEWER)),
            lambda who=who: identity.list_principals(who),
        ):
            with pytest.raises(NotAllowed):
                forbidden()


def test_the_last_admin_stays(
    identity: IdentityService, layout: Layout, bob: Principal, actions: Callable[[], list[str]]
) -> None:
    identity.bootstrap(layout)
    identity.add_grant(ADMIN, "bob", Grant(Role.ADMIN, "growth"))
    with pytest.raises(Conflict):
        identity.remove_grant(ADMIN, "admin", Grant(Role.ADMIN))
    assert Grant(Role.ADMIN) in identity.list_principals(ADMIN)[0].grants
    assert "remove-grant" not in actions()
    identity.add_grant(ADMIN, "bob", Grant(Role.ADMIN))
    identity.remove_grant(ADMIN, "admin", Grant(Role.ADMIN))
    with pytest.raises(Conflict):
        identity.remove_grant(ADMIN, "bob", Grant(Role.ADMIN))


# Login links and sessions ------------------------------------------------------------------------


def test_a_link_opens_one_session(
    identity: IdentityService, bob: Principal, database: Database
) -> None:
    link = identity.create_login_link(bob)
    opened = identity.redeem_login_link(link)
    found = identity.session(opened, "r1")
    assert (found.principal.name, found.principal.correlation_id) == ("bob", "r1")
    assert len(found.csrf) >= 24
    with pytest.raises(Refused):
        identity.redeem_login_link(link)
    with pytest.raises(Refused):
        identity.redeem_login_link("guess")
    with database.read() as connection:
        kept = connection.execute(sa.select(store.session.c.hash)).scalar_one()
    assert opened not in kept


def test_of_many_at_once_one_gets_in(identity: IdentityService, bob: Principal) -> None:
    link, results = identity.create_login_link(bob), []

    def redeem() -> None:
        try:
            results.append(identity.redeem_login_link(link))
        except FleetError:
            results.append("")

    threads = [threading.Thread(target=redeem) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in results if one]) == 1


def test_a_link_is_good_for_ten_minutes(
    identity: IdentityService, bob: Principal, clock: Clock
) -> None:
    early, late = identity.create_login_link(bob), identity.create_login_link(bob)
    clock.forward(seconds=599)
    identity.redeem_login_link(early)
    clock.forward(seconds=2)
    with pytest.raises(Refused):
        identity.redeem_login_link(late)


def test_an_idle_session_ends_after_half_an_hour(
    identity: IdentityService, bob: Principal, clock: Clock
) -> None:
    opened = identity.redeem_login_link(identity.create_login_link(bob))
    for _ in range(3):
        clock.forward(seconds=29 * 60)
        identity.session(opened)
    clock.forward(seconds=31 * 60)
    with pytest.raises(Refused):
        identity.session(opened)


def test_a_busy_session_ends_after_twelve_hours(
    identity: IdentityService, bob: Principal, clock: Clock
) -> None:
    opened = identity.redeem_login_link(identity.create_login_link(bob))
    for _ in range(12 * 3 - 1):
        clock.forward(seconds=20 * 60)
        identity.session(opened)
    clock.forward(seconds=20 * 60 + 1)
    with pytest.raises(Refused):
        identity.session(opened)


def test_logging_in_by_key_and_out(identity: IdentityService, bob: Principal) -> None:
    text, _ = identity.create_key(ADMIN, "bob", seconds=60)
    first, second = identity.log_in(text), identity.log_in(text)
    assert first != second
    identity.end_session(first)
    with pytest.raises(Refused):
        identity.session(first)
    assert identity.session(second).principal.id == bob.id
    with pytest.raises(Refused):
        identity.log_in("rubbish")


def test_a_session_sees_grants_of_now(identity: IdentityService, bob: Principal) -> None:
    opened = identity.redeem_login_link(identity.create_login_link(bob))
    assert identity.session(opened).principal.grants == ()
    identity.add_grant(ADMIN, "bob", Grant(Role.VIEWER))
    assert identity.session(opened).principal.grants == (Grant(Role.VIEWER),)


def test_keys_may_be_for_one_action_and_are_found_by_endpoint(identity: IdentityService) -> None:
    identity.create_principal(ADMIN, "shop", "service")

    def make(*scopes: str, **more: str) -> str:
        _, info = identity.create_key(ADMIN, "shop", models=scopes, **more)  # type: ignore[arg-type]
        return info.id

    infer, everything, other = make("churn:infer"), make("*"), make("fraud", "churns")
    for bad in ("churn:", "churn:predict", "", "a,b", "a b", "churn:infer:x"):
        with pytest.raises(InvalidInput, match="scope"):
            make(bad)
    with pytest.raises(InvalidInput, match="priority"):
        make("churn", priority="urgent")
    assert {one.id for one in identity.keys_for(ADMIN, "churn")} >= {infer, everything}
    assert other not in {one.id for one in identity.keys_for(ADMIN, "churn")}
    identity.revoke_key(ADMIN, infer)
    assert infer not in {one.id for one in identity.keys_for(ADMIN, "churn")}


def test_ones_own_keys_reach_no_further_than_one_has(identity: IdentityService) -> None:
    shop = identity.create_principal(ADMIN, "shop", "service")
    identity.create_key(ADMIN, "shop", models=("churn:infer", "fraud"))
    me = Principal(shop.id, shop.name)
    for good in (("churn:infer",), ("fraud:metadata", "fraud")):
        assert identity.create_key(me, "shop", models=good)
    for bad in (("churn",), ("churn:feedback",), ("*:infer",), ("frauds",)):
        with pytest.raises(NotAllowed):
            identity.create_key(me, "shop", models=bad)
    assert identity.create_key(me, "shop", models=("fraud",), priority="low")
    with pytest.raises(NotAllowed):
        identity.create_key(me, "shop", models=("fraud",), priority="high")
