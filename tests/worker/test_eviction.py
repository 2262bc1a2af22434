"""GreedyDual-Size-Frequency."""

from __future__ import annotations

import numpy as np

from modelfleet_worker.eviction import Cache


def test_cheap_large_and_rare_ones_go_first() -> None:
    cache = Cache(100)
    cache.add(1, 40, 1.0, pinned=False)
    cache.add(2, 40, 0.1, pinned=False)  # quick to bring back
    assert cache.victim(()) is None
    cache.add(3, 40, 1.0, pinned=False)
    assert cache.victim(()) == 2
    cache.remove(2)
    assert (cache.used, cache.full, cache.victim(())) == (80, False, None)
    often = cache.add(4, 40, 0.5, pinned=False)
    for _ in range(10):
        often.use()
    assert cache.victim((1,)) == 3


def test_pinned_and_busy_ones_stay() -> None:
    cache = Cache(10)
    cache.add(1, 20, 1.0, pinned=True)
    assert cache.victim(()) is None
    cache.add(2, 20, 1.0, pinned=False)
    assert cache.victim((2,)) is None
    assert cache.victim(()) == 2


def test_what_was_popular_long_ago_goes_at_last() -> None:
    cache = Cache(3)
    old = cache.add(0, 1, 1.0, pinned=False)
    for _ in range(1000):
        old.use()
    for key in range(1, 5000):
        cache.add(key, 1, 1.0, pinned=False)
        victim = cache.victim((key,))
        if victim is not None:
            cache.remove(victim)
            if victim == 0:
                break
    assert victim == 0


def test_no_limit() -> None:
    cache = Cache()
    for key in range(100):
        cache.add(key, 1 << 30, 1.0, pinned=False)
    assert cache.victim(()) is None
    assert not cache.full


def test_fewer_loads_than_least_recently_used() -> None:
    """A Zipf stream over models of different sizes."""
    random = np.random.default_rng(7)
    sizes = random.lognormal(2, 1, 200).astype(int) + 1
    stream = random.zipf(1.3, 20_000) % 200
    budget = int(sizes.sum() // 5)
    cache, entries, loads = Cache(budget), {}, 0
    recent: dict[int, None] = {}
    lru_loads = 0
    for key in stream.tolist():
        if key in entries:
            entries[key].use()
        else:
            loads += 1
            entries[key] = cache.add(key, int(sizes[key]), 0.1, pinned=False)
            while (victim := cache.victim((key,))) is not None:
                cache.remove(victim)
                del entries[victim]
        if key in recent:
            del recent[key]
        else:
            lru_loads += 1
        recent[key] = None
        while sum(int(sizes[k]) for k in recent) > budget and len(recent) > 1:
            del recent[next(iter(recent))]
    assert loads < 0.9 * lru_loads
