"""Only what changed is sent again."""

from __future__ import annotations

import re

from modelfleet.web.live import LiveCache


def page(*pieces: tuple[str, str], extra: str = "") -> str:
    framed = "".join(f'<!--[{k}]--><p id="{k}">{text}</p><!--[/]-->' for k, text in pieces)
    return f"<main>{extra}<!--live-->{framed}<!--/live--></main>"


def test_nothing_changed():
    cache = LiveCache()
    tag = cache.remember(page(("a", "1"), ("b", "2")))
    update = cache.update(page(("a", "1"), ("b", "2"), extra="elsewhere"), tag)
    assert (update.tag, update.html, update.whole) == (tag, "", False)


def test_only_the_changed_piece_is_sent_in_its_frame():
    cache = LiveCache()
    tag = cache.remember(page(("a", "1"), ("b", "2")))
    update = cache.update(page(("a", "1"), ("b", "3")), tag)
    assert update.html == '<!--[b]--><p id="b">3</p><!--[/]-->'
    assert not update.whole
    assert cache.update(page(("a", "1"), ("b", "3")), update.tag).html == ""


def test_pieces_that_come_go_or_move_draw_the_region_anew():
    cache = LiveCache()
    tag = cache.remember(page(("a", "1"), ("b", "2")))
    for now in (page(("a", "1")), page(("b", "2"), ("a", "1")), page(("a", "1"), ("c", "2"))):
        update = cache.update(now, tag)
        assert update.whole
        assert update.html == re.search("<!--live-->(.*)<!--/live-->", now)[1]
        assert update.tag != tag


def test_an_unknown_tag_gets_everything():
    update = LiveCache().update(page(("a", "1")), "of another process")
    assert update.whole


def test_a_form_token_is_no_change():
    def form(token: str) -> str:
        return page(("a", f'<input name="csrf" value="{token}">'))

    cache = LiveCache()
    tag = cache.remember(form("one"))
    assert cache.update(form("two"), tag).tag == tag


def test_old_tags_are_forgotten():
    cache = LiveCache()
    first = cache.remember(page(("a", "first")))
    for k in range(200):
        cache.remember(page(("a", str(k))))
    assert len(cache._known) <= 128
    assert cache.update(page(("a", "x")), first).whole
