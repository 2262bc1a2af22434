"""Requests per second, latency, CPU and memory of the whole path, beside five model servers.

The whole path has everything on: gateway, key check, prediction log, window states, metrics. Each
peer (see `peers`) runs in an environment of its own, serves the same trained object, and is
measured twice: naked, and behind the same gateway with the same key check. A peer is up only while
it is measured, and in the same minutes, round by round, so are we. Needs `wrk`.

    make bench-serving                           a table, and one line of JSON at the end
    make bench-serving ARGS='--models logistic --peers BentoML'
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import wrk
from serving import costs, density, ours, peers
from serving import models as subjects
from serving.load import Result, Target, measure, merge
from serving.models import Subject

ROOT = Path(".bench").resolve()
OURS, GATED = "modelfleet", "behind our gateway"
SOURCE = "-source"
SMALL = "small_ratio"
LITSERVE = next(p.requires for p in peers.PEERS if p.environment == "litserve")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="*", help="of: logistic forest100 xgboost lightgbm torch")
    parser.add_argument("--peers", nargs="*", help="parts of their names")
    given = parser.parse_args()
    wrk.require()
    chosen = [s for s in subjects.SUBJECTS if not given.models or s.name in given.models]
    rivals = [p for p in peers.PEERS if not given.peers or any(w in p.name for w in given.peers)]
    print("| model | c | side | requests/s | ours / its | p50 ms | p99 ms | CPU us | MB | failed |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    extra: dict[str, object] = {}
    results = list(run(chosen, rivals, given.seconds, given.rounds, extra))
    note("a thousand models")
    dense = density.measure(ROOT)
    print()
    print(
        f"One worker with {dense.models} models: {dense.memory_mb:.0f} MB, "
        f"{dense.answered} answered; ready after {dense.start_all_s:.1f} s; "
        f"with one model after {dense.start_s:.2f} s."
    )
    found = figures(chosen, results) | extra | {"memory_1000_mb": round(dense.memory_mb)}
    print(json.dumps(found | {"cold_start_s": round(dense.start_s, 2)}))


def run(
    chosen: Sequence[Subject],
    rivals: Sequence[peers.Peer],
    seconds: float,
    rounds: int,
    extra: dict[str, object],
) -> Iterator[tuple[str, Result]]:
    """(peer in whose minutes it was measured, result). extra: takes figures of ours alone."""
    ROOT.mkdir(exist_ok=True)
    trained = subjects.train(ROOT / "models")
    if any(one.train is None for one in chosen):
        subjects.torch_mlp(ROOT / "models", peers.isolated("litserve", LITSERVE, ROOT) / "python")
        trained["torch"] = ROOT / "models" / "torch.pt2"
    with ours.platform(ROOT / "home", peers.wheels(ROOT)) as fleet:
        for one in chosen:
            note(f"deploying {one.name}")
            ours.deploy(fleet, one.name, trained[one.name])
        if any(one.ratio == SMALL for one in chosen):
            ours.deploy(fleet, f"logistic{SOURCE}", trained["logistic"], compile=False)
            spent = costs.in_the_worker(ROOT), costs.in_the_collector(fleet, "logistic")
            extra["log_us"] = round(sum(spent), 1)
            note(f"logging, counting, metrics: {spent[0]:.1f} us in a worker, {spent[1]:.1f} after")
        for subject in chosen:
            for peer in rivals:
                note(f"{subject.name}: {peer.name}")
                file = ROOT / "models" / f"{subject.name}.joblib"
                with (
                    peers.serving(peer, subject.name, file, ROOT) as url,
                    ours.gate(fleet, ROOT, url) as gated,
                ):
                    marks = (str(ROOT / "envs" / peer.environment), str(ROOT / "peers"))
                    gate_marks = (*marks, str(ROOT / "gate"))
                    plain = tuple(peers.headers().items())
                    sides = [
                        Target(
                            OURS,
                            fleet.url(subject.name),
                            fleet.body(subject.name),
                            fleet.headers,
                            (str(fleet.home),),
                        ),
                        Target(peer.name, url, peer.body, plain, marks),
                        Target(
                            f"{peer.name}, {GATED}", gated, peer.body, fleet.headers, gate_marks
                        ),
                    ]
                    if subject.ratio == SMALL:
                        name = f"{subject.name}{SOURCE}"
                        url, body = fleet.url(name), fleet.body(name)
                        home = (str(fleet.home),)
                        sides.append(Target(OURS + SOURCE, url, body, fleet.headers, home))
                    yield from measured(peer.name, sides, subject, seconds, rounds)


def measured(
    phase: str, sides: Sequence[Target], subject: Subject, seconds: float, rounds: int
) -> Iterator[tuple[str, Result]]:
    for side in sides:
        measure(side, subject.name, subject.connections, 1.0)
    found: dict[str, list[Result]] = {}
    for _ in range(rounds):
        for side in sides:
            one = measure(side, subject.name, subject.connections, seconds)
            found.setdefault(side.side, []).append(one)
    merged = [merge(results) for results in found.values()]
    for one in merged:
        print_row(phase, merged[0], one)
        yield phase, one


def figures(chosen: Sequence[Subject], results: Sequence[tuple[str, Result]]) -> dict[str, object]:
    """The closing line. Ratios: the smallest over all peers, each within its own minutes."""
    line: dict[str, object] = {}
    for subject in chosen:
        ratios: dict[str, dict[str, float]] = {}
        sides: dict[str, dict[str, Result]] = {}
        for phase in {phase for phase, r in results if r.model == subject.name}:
            here = {r.side: r for p, r in results if p == phase and r.model == subject.name}
            sides[phase] = here
            own, naked = here[OURS], here[phase]
            gated = here[f"{phase}, {GATED}"]
            ratios[phase] = {
                "gated": own.requests_per_second / gated.requests_per_second,
                "naked": own.requests_per_second / naked.requests_per_second,
                "p99": own.p99_ms / gated.p99_ms,
            }
        best = min(ratios, key=lambda name: ratios[name]["gated"])
        line[subject.ratio] = round(ratios[best]["gated"], 2)
        if subject.ratio == SMALL:
            line["small_naked_ratio"] = round(min(r["naked"] for r in ratios.values()), 2)
            line["small_p99_ratio"] = round(ratios[best]["p99"], 3)
            line["best_peer"] = best
            line["small_source_ratio"] = round(
                min(
                    sides[phase][OURS + SOURCE].requests_per_second
                    / sides[phase][f"{phase}, {GATED}"].requests_per_second
                    for phase in ratios
                ),
                2,
            )
            cpu = [r.cpu_us for _, r in results if r.model == subject.name and r.side == OURS]
            line["cpu_us"] = round(statistics.median(cpu), 1)
    return line


def print_row(phase: str, own: Result, r: Result) -> None:
    ratio = own.requests_per_second / max(r.requests_per_second, 1e-9)
    side = f"{r.side} (beside {phase})" if r.side.startswith(OURS) else r.side
    print(
        f"| {r.model} | {r.connections} | {side} | {r.requests_per_second:,.0f} | {ratio:.1f} "
        f"| {r.p50_ms:.2f} | {r.p99_ms:.2f} | {r.cpu_us:,.0f} | {r.memory_mb:,.0f} | {r.failed} |",
        flush=True,
    )


def note(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
