"""Processes are killed, stand still and are replaced under load, and too much is asked.

- repair: each kind of process is killed; how long until it is back, how many requests failed?
- kills: at half of peak load a random worker dies every second, for a minute.
- hang: a worker stands still for 2.5 s, ten times, with a try timeout of 0.3 s.
- restart: everything is restarted by turns, then three versions are deployed by blue-green.
- overload: models that work for 1 ms and for 10, and one that waits for 5, are asked five times as
  often as they can answer, with deadlines.

    make bench-faults                        tables, and one line of JSON at the end
"""

from __future__ import annotations

import argparse
import json
import sys

import wrk
from faults import repair, trials
from faults.fleet import MODEL, Busy, Waits, pids, platform


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="of each kind of process")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the storm of kills")
    given = parser.parse_args()
    wrk.require()
    with platform() as client:
        peak = trials.peak(client, MODEL)
        note(f"peak: {peak:,.0f} requests a second")
        killed, count = trials.kills(client, peak / 2, given.seconds)
        note(f"{count} kills: {killed}")
        hung = trials.hangs(client, peak / 4, 10)
        note(f"10 hangs: {hung}")
        replaced = trials.replacement(client, peak / 4)
        note(f"rolling restart and three versions: {replaced}")
        repairs = [
            repair.measure(part, given.kills, int(client.gateway_url.rpartition(":")[2]))
            for part in repair.PARTS
        ]
        alive = set(pids("worker") + pids("gateway"))
        floods = {}
        for name, model in (("busy", Busy(1)), ("busier", Busy(10)), ("waits", Waits(5))):
            best, flooded = floods[name] = trials.overload(client, name, model, 5.0, 15.0)
            note(f"overload of {name}, peak {best:,.0f}: {flooded}")
        died = len(alive - set(pids("worker") + pids("gateway")))
    print("| trial | requests | failed | good/s | p99 ms |")
    print("|---|---|---|---|---|")
    for name, one in (
        (f"{count} kills at half of peak", killed),
        ("10 hangs of 2.5 s", hung),
        ("rolling restart, three blue-green", replaced),
        *(
            (f"5x overload of {name}, peak {best:,.0f}", flooded)
            for name, (best, flooded) in floods.items()
        ),
    ):
        print(
            f"| {name} | {one.requests:,} | {one.failed:,} | {one.good_per_second:,.0f} "
            f"| {one.p99_ms:.1f} |"
        )
    print()
    print("| killed | times | back after, median s | worst s | longest gap s | requests | failed |")
    print("|---|---|---|---|---|---|---|")
    for r in repairs:
        print(
            f"| {r.part} | {r.kills} | {r.median_s:.2f} | {r.worst_s:.2f} "
            f"| {r.longest_gap_s:.3f} | {r.requests:,} | {r.failed} |"
        )
    print(
        json.dumps(
            {
                "requests": killed.requests + hung.requests + replaced.requests,
                "kills": count,
                "failed_kills": killed.failed,
                "failed_hang": hung.failed,
                "failed_restart": replaced.failed,
                "overload_goodput": _goodput(*floods["busy"]),
                "overload_goodput_10ms": _goodput(*floods["busier"]),
                "overload_goodput_waits": _goodput(*floods["waits"]),
                "overload_died": died,
            }
        )
    )


def _goodput(best: float, flooded: wrk.Outcome) -> float:
    return round(flooded.good_per_second / best, 3)


def note(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
