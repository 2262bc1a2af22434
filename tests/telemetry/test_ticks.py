"""What the judge sees: closed ticks, each request in exactly one of them."""

from __future__ import annotations

import time

import numpy as np
from msgspec import structs


def wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


def test_ticks_close_after_lateness_and_late_records_get_their_own(home):
    home.add_version(1)
    home.watch(versions=[1])
    collector = home.collector()
    evidence = home.evidence()
    at = time.time()
    home.write(*[home.record(1, at=at, score=0.9) for _ in range(10)])
    collector.collect()
    assert [one for one in evidence.ticks(1) if one.requests] == []  # not closed yet
    wait_until(at + 0.2 + 0.3 + 0.05)
    home.write(*[home.record(1, at=at) for _ in range(3)])  # read before the tick closes
    collector.collect()
    (tick,) = evidence.ticks(1)
    assert tick.requests == 13
    assert not tick.is_late
    assert tick.start_us <= at * 1e6 < tick.start_us + 200_000
    home.write(*[home.record(1, at=at, status=500) for _ in range(4)])
    collector.collect()
    assert evidence.ticks(1, after=tick.number) == []
    wait_until(time.time() + 0.25)
    collector.collect()
    (late,) = evidence.ticks(1, after=tick.number)
    assert late.is_late
    assert (late.requests, late.errors, dict(late.codes)) == (4, 4, {500: 4})
    collector.close()


def test_arms_share_the_edges_that_watch_names(home):
    home.add_version(1)
    home.add_version(2)
    home.watch(versions=[1, 2], edges={"2": 1})
    at = time.time()
    scores = np.linspace(0.01, 0.99, 50)
    home.write(
        *[home.record(v, at=at, score=float(score)) for v in (1, 2) for score in scores],
        home.record(2, at=at, rows=4, score=0.5),
    )
    collector = home.collector()
    wait_until(at + 0.55)
    collector.collect()
    batch = home.evidence().tick_batch([1, 2, 3])
    (stable,), (canary,) = batch.ticks[1], batch.ticks[2]
    assert batch.ticks[3] == ()
    assert stable.number == canary.number <= batch.closed
    assert (canary.score - stable.score).sum() == 1  # a batch request counts once
    assert np.abs(canary.score - stable.score).sum() == 1
    assert stable.score_sum == scores.sum()
    assert canary.latency.sum() == canary.scored == 51
    collector.close()


def test_open_ticks_survive_a_restart(home):
    home.add_version(1)
    home.watch(versions=[1])
    at = time.time()
    home.write(home.record(1, at=at))
    first = home.collector()
    first.collect()
    first._connection.close()  # as if killed
    home.write(home.record(1, at=at))
    second = home.collector()
    wait_until(at + 0.55)
    second.collect()
    assert [one.requests for one in home.evidence().ticks(1)] == [2]
    second.close()


def test_unwatched_versions_have_no_ticks(home):
    home.add_version(1)
    home.write(home.record(1))
    collector = home.collector()
    time.sleep(0.55)
    collector.collect()
    assert home.evidence().ticks(1) == []
    collector.close()


def test_pairs_are_joined_by_request(home):
    home.add_version(1)
    home.add_version(2)
    home.watch(pairs=[{"stable": 1, "shadow": 2, "endpoint": "x"}])
    collector = home.collector()
    for k in range(10):
        home.write(home.record(1, request_id=f"p{k}", score=0.6, latency_us=1000))
    collector.collect()
    for k in range(10):
        score = 0.4 if k < 3 else 0.7
        home.write(
            home.record(2, request_id=f"p{k}", score=score, shadow=True, latency_us=3000),
            replica=1,
        )
    home.write(home.record(2, request_id="alone", shadow=True), home.record(2, request_id="p1"))
    collector.collect()
    time.sleep(0.55)
    collector.collect()
    evidence = home.evidence()
    (tick,) = evidence.pair_ticks(1, 2)
    assert (tick.pairs, tick.disagreements) == (10, 3)
    assert abs(tick.absolute - (3 * 0.2 + 7 * 0.1)) < 1e-9
    assert abs(tick.squared - (3 * 0.04 + 7 * 0.01)) < 1e-9
    assert (tick.stable_latency_us, tick.shadow_latency_us) == (10_000, 30_000)
    assert sum(one.requests for one in evidence.ticks(2)) == 12  # watched without being named
    collector.close()


def test_pairs_of_regressions_disagree_by_tolerance(home):
    home.add_version(1, regression=True)
    home.add_version(2, regression=True)
    collector = home.collector()
    for tolerance, expected in ((None, 1), (0.01, 2), (1.0, 0)):
        pair = {"stable": 1, "shadow": 2, "endpoint": "x", "tolerance": tolerance}
        home.watch(pairs=[pair])
        for k, score in enumerate((0.30, 0.35, 0.60)):
            home.write(
                home.record(1, request_id=f"{tolerance}{k}", score=0.30),
                home.record(2, request_id=f"{tolerance}{k}", score=score, shadow=True),
            )
        collector.collect()
        time.sleep(0.55)
        collector.collect()
        assert home.evidence().pair_ticks(1, 2)[-1].disagreements == expected
    collector.close()


def test_another_tick_length_begins_anew(home):
    home.add_version(1)
    home.watch(versions=[1])
    first = home.collector()
    first.collect()
    first.close()
    home.settings = structs.replace(home.settings, tick_seconds=0.5)
    at = time.time()
    home.write(home.record(1, at=at))
    second = home.collector()
    wait_until(at + 0.5 + 0.5 + 0.35)
    second.collect()
    (tick,) = home.evidence().ticks(1)
    assert not tick.is_late
    assert tick.start_us <= at * 1e6 < tick.start_us + 500_000
    second.close()


def test_a_client_that_sticks_counts_once(home):
    """Its failure in the tick of its first visit counts; what it does later does not."""
    home.add_version(1)
    home.watch(versions=[1], keys={"1": "rollout"})
    collector, evidence, at = home.collector(), home.evidence(), time.time()
    again = [home.record(1, at=at, key="a", latency_us=1000.0 + k) for k in range(5)]
    home.write(*again, home.record(1, at=at, key="b"), home.record(1, at=at, key="b", status=503))
    home.write(home.record(1, at=at, key="b", status=503), home.record(1, at=at, key="c"))
    wait_until(at + 0.55)
    collector.collect()
    (tick,) = evidence.ticks(1)
    assert (tick.requests, tick.errors) == (3, 1)
    assert tick.latency.sum() == 3
    later = time.time()
    home.write(home.record(1, at=later, key="a", status=500), home.record(1, at=later, key="d"))
    wait_until(later + 0.55)
    collector.collect()
    (second,) = evidence.ticks(1, after=tick.number)
    assert (second.requests, second.errors) == (1, 0)
    windows = evidence.windows(1, 0, 1 << 62)
    assert sum(one.requests for one in windows) == 11  # monitors count everything
    collector.close()


def test_keys_survive_a_restart_and_go_with_their_rollout(home):
    home.add_version(1)
    home.watch(versions=[1], keys={"1": "rollout"})
    at = time.time()
    home.write(home.record(1, at=at, key="a", status=500))
    first = home.collector()
    first.collect()
    first._connection.close()  # as if killed
    home.write(home.record(1, at=at, key="a"), home.record(1, at=at, key="b"))
    second = home.collector()
    wait_until(at + 0.55)
    second.collect()
    (tick,) = home.evidence().ticks(1)
    assert (tick.requests, tick.errors) == (2, 1)
    home.watch(versions=[1])
    second._tidy()
    assert second._connection.execute("SELECT count(*) FROM sticky_key").fetchone() == (0,)
    second.close()


def test_a_retry_mends_the_failure_of_a_client(home):
    home.add_version(1)
    home.watch(versions=[1], keys={"1": "rollout"})
    at = time.time()
    home.write(home.record(1, at=at, key="a", status=503, request_id="r"))
    home.write(home.record(1, at=at, key="a", request_id="r", attempt=2), replica=1)
    collector = home.collector()
    wait_until(at + 0.55)
    collector.collect()
    (tick,) = home.evidence().ticks(1)
    assert (tick.requests, tick.errors) == (1, 0)
    collector.close()


def test_a_retry_that_comes_later_mends_the_failure_of_a_client(home):
    home.add_version(1)
    home.watch(versions=[1], keys={"1": "rollout"})
    collector, at = home.collector(), time.time()
    home.write(home.record(1, at=at, key="a", status=503, request_id="r"))
    collector.collect()
    home.write(home.record(1, at=at, key="a", request_id="r", attempt=2), replica=1)
    collector.collect()
    wait_until(at + 0.55)
    collector.collect()
    (tick,) = home.evidence().ticks(1)
    assert (tick.requests, tick.errors) == (1, 0)
    collector.close()


def test_who_has_no_key_sticks_to_nothing(home):
    home.add_version(1)
    home.watch(versions=[1], keys={"1": "rollout"})
    at = time.time()
    home.write(*[home.record(1, at=at) for _ in range(6)])
    collector = home.collector()
    wait_until(at + 0.55)
    collector.collect()
    assert [one.requests for one in home.evidence().ticks(1)] == [6]
    collector.close()


def test_a_retry_without_a_key_counts_once(home):
    """Where clients stick, those that name themselves: the others' retries replace each other."""
    home.add_version(1)
    home.watch(versions=[1], keys={"1": "rollout"})
    collector, at = home.collector(), time.time()
    home.write(home.record(1, at=at, status=503, request_id="r"))
    collector.collect()
    home.write(home.record(1, at=at, request_id="r", attempt=2))
    collector.collect()
    wait_until(at + 0.55)
    collector.collect()
    (tick,) = home.evidence().ticks(1)
    assert (tick.requests, tick.errors) == (1, 0)
    collector.close()


def test_keys_of_a_rollout_that_ended_are_not_written(home):
    home.add_version(1)
    home.watch(versions=[1], keys={"1": "rollout"})
    collector = home.collector()
    keys = collector._counting.ticks.keys
    keys.visit("rollout", "a", 1, 2, failed=False)
    keys.visit("other", "b", 1, 2, failed=False)
    keys.forget(collector._connection, ["other"])
    keys.save(collector._connection)
    found = collector._connection.execute("SELECT scope FROM sticky_key").fetchall()
    assert found == [("other",)]
    collector.close()
