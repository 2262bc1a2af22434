"""What the judge gets of evidence: sums of scores, pairs, and labels at an equal age."""

from __future__ import annotations

import time

from modelfleet.rollouts.ticks import EvidenceTicks
from modelfleet_worker.wire.ids import format_id


def wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


def test_labels_come_when_their_predictions_have_the_age(home):
    """Each cohort once, whatever comes later; wrong ones of both versions at the same age."""
    home.add_version(1)
    home.add_version(2)
    home.watch(versions=[1, 2])
    collector, evidence, at = home.collector(), home.evidence(), time.time()
    records = home.write(*[home.record(v, at=at, score=0.9) for v in (1, 2) for _ in range(10)])
    home.drop_outcomes(
        *[
            {"prediction_id": format_id(one.prediction_id), "value": float(k % 10 < 8)}
            for k, one in enumerate(records)
        ]
    )
    wait_until(at + 0.6)
    collector.collect()
    collector._inbox.collect()
    source = EvidenceTicks(evidence, 0.2)
    soon = source.ticks(1, 2, -1, loss="error_rate", delay_seconds=1)
    assert [one.stable.outcomes for one in soon if one.stable.outcomes] == []
    wait_until(at + 2.8)
    collector.collect()
    due = source.ticks(1, 2, -1, loss="error_rate", delay_seconds=1)
    (cohort,) = [one for one in due if one.stable.outcomes]
    assert (cohort.stable.outcomes, cohort.stable.outcome_sum) == (10, 8)
    assert (cohort.canary.outcomes, cohort.canary.outcome_sum) == (10, 8)
    assert cohort.stable.requests == 0  # a second later nobody asked any more
    after = source.ticks(1, 2, cohort.number, loss="error_rate", delay_seconds=1)
    assert not any(one.stable.outcomes for one in after)
    precise = source.ticks(1, 2, -1, loss="precision", delay_seconds=1)
    (said,) = [one.canary for one in precise if one.canary.outcomes]
    assert (said.outcomes, said.outcome_sum) == (10, 8)
    (found,) = [
        one.canary
        for one in source.ticks(1, 2, -1, loss="recall", delay_seconds=1)
        if one.canary.outcomes
    ]
    assert (found.outcomes, found.outcome_sum) == (8, 8)
    assert not any(
        one.stable.outcomes
        for one in source.ticks(
            1, 2, -1, loss="error_rate", delay_seconds=1, since_us=int((at + 5) * 1e6)
        )
    )
    collector.close()


def test_a_number_that_was_predicted_is_neither_right_nor_wrong(home):
    """Labels of a regression prove no error rate; its absolute errors count."""
    home.add_version(1, regression=True)
    home.add_version(2, regression=True)
    collector, at = home.collector(), time.time()
    records = home.write(*[home.record(v, at=at) for v in (1, 2) for _ in range(5)])
    home.drop_outcomes(
        *[{"prediction_id": format_id(one.prediction_id), "value": 1.0} for one in records]
    )
    collector.collect()
    collector._inbox.collect()
    wait_until(at + 1.8)
    collector.collect()
    source = EvidenceTicks(home.evidence(), 0.2)
    for loss, labels in (("error_rate", 0), ("absolute_error", 5)):
        found = source.ticks(1, 2, -1, loss=loss)
        assert sum(one.canary.outcomes for one in found) == labels
    collector.close()


def test_answers_without_a_number_prove_no_small_difference(home):
    home.add_version(1)
    home.add_version(2)
    home.watch(pairs=[{"stable": 1, "shadow": 2}])
    at, odd = time.time(), float("nan")
    for k in range(10):
        score = odd if k < 6 else 0.8
        home.write(home.record(1, at=at, score=0.7, request_id=f"r{k}"))
        home.write(home.record(2, at=at, score=score, request_id=f"r{k}", shadow=True))
    collector = home.collector()
    collector.collect()
    wait_until(time.time() + 0.9)
    collector.collect()
    ticks = EvidenceTicks(home.evidence(), 0.2).ticks(1, 2, -1)
    (pair,) = [one for one in ticks if one.pairs]
    assert (pair.pairs, pair.differences.rows) == (10, 4)
    assert abs(pair.differences.mean - 0.1) < 1e-9
    collector.close()


def test_pairs_tell_differences_and_latencies(home):
    home.add_version(1)
    home.add_version(2)
    home.watch(pairs=[{"stable": 1, "shadow": 2}])
    at = time.time()
    home.write(*[home.record(1, at=at, score=0.7, request_id=f"r{k}") for k in range(10)])
    home.write(
        *[
            home.record(2, at=at, score=0.8, request_id=f"r{k}", shadow=True, latency_us=3000.0)
            for k in range(10)
        ]
    )
    collector = home.collector()
    collector.collect()
    wait_until(time.time() + 0.9)
    collector.collect()
    ticks = EvidenceTicks(home.evidence(), 0.2).ticks(1, 2, -1)
    (pair,) = [one for one in ticks if one.pairs]
    assert pair.differences.rows == pair.pairs == 10
    assert abs(pair.differences.mean - 0.1) < 1e-9
    assert (pair.stable_us, pair.shadow_us) == (10_000, 30_000)
    scored = [one.stable.score_sums for one in ticks if one.stable.requests]
    assert scored[0].rows == 10
    assert abs(scored[0].mean - 0.7) < 1e-9
    collector.close()
