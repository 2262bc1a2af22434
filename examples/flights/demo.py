"""`make demo`: a fleet of over 120 models, half a year of traffic in two and a half minutes.

Trains on the first half of 2013, starts modelfleet, registers and deploys everything, replays the
second half as live requests, and meanwhile rolls out a better version, a broken one and a shadow.
One model's document says how it is trained when its input drifts: nobody starts that by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flights import loop, models
from flights.data import FEATURES, Flights, load
from flights.models import Trained
from modelfleet.client import Client
from modelfleet.client.saving import save
from modelfleet.client.types import Rollout

CANARY, BROKEN, SHADOW = "late-JFK-B6", "late-EWR-UA", "late-EWR-EV"
"""the three busiest pairs: 140, 155 and 143 requests a second"""
RETRAINED = "late-LGA-DL"
"""what it is asked drifts, and its document says what to do then"""
ROLLOUTS_AT = 8.0
console = Console(stderr=True)


@dataclass(frozen=True)
class Arguments:
    home: Path
    seconds: float
    exit: bool


@contextmanager
def progress(title: str, total: float) -> Iterator[Callable[[float], None]]:
    columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as shown:
        task = shown.add_task(title, total=total, note=f"0/{total:g}")

        def at(done: float) -> None:
            shown.update(task, completed=done, note=f"{done:g}/{total:g}")

        yield at


def settings_text() -> str:
    """Windows and ticks, shrunk as the half year is: about 0.8 s stand for a day."""
    return """# Written by the flights demo.
[serving]
segment_mb = 16
memory_mb = 1500

[evidence]
tick_seconds = 1.0
window_seconds = 5
rotate_seconds = 10

[monitoring]
drift_window_seconds = 25
"""


@contextmanager
def platform(home: Path) -> Iterator[Client]:
    """A running modelfleet with an empty home; stopped at the end, whatever happens."""
    _stop_earlier(home)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / "settings.toml").write_text(settings_text())
    command = [sys.executable, "-m", "modelfleet.cli.main"]
    with (home / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [*command, "up", "--home", str(home), "--port", "0", "--gateway-port", "0"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with _connected(home, up) as client:
            yield client
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(timeout=60)


def _stop_earlier(home: Path) -> None:
    if (home / "run").exists():
        command = [sys.executable, "-m", "modelfleet.cli.main", "down", "--home", str(home)]
        subprocess.run(command, check=False, capture_output=True)


def _connected(home: Path, up: subprocess.Popen[bytes]) -> Client:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if up.poll() is not None:
            break
        if "Metrics" in (home / "up.log").read_text():
            return Client(home=home)
        time.sleep(0.1)
    raise SystemExit(f"modelfleet did not start:\n{(home / 'up.log').read_text()}")


def register(client: Client, one: Trained, work: Path) -> str:
    """Register a trained model as a version; its number."""
    client.ensure_model(
        one.name,
        team=one.team,
        business_function="punctuality",
        criticality=one.criticality,
        description=f"{one.question} by {one.estimator}",
    )
    saved = save(
        one.model,
        one.example,
        features=one.features or None,
        reference=one.reference,
        work=work,
    )
    made = client.register_files(
        one.name,
        saved.files,
        requirements=saved.requirements,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        metrics=one.metrics,
        parameters=one.parameters,
        dataset=one.dataset,
        uses=one.uses,
        experiment=one.question,
    )
    return made.version


def close_loop(client: Client, flights: Flights, home: Path, one: Trained) -> None:
    """Let drift of one model start its training, in the environment that it serves in."""
    with tempfile.TemporaryDirectory() as work:
        saved = save(one.model, one.example, features=one.features or None, work=Path(work))
    requirements = [*saved.requirements, f"joblib=={version('joblib')}"]
    requirements += [] if "lightgbm" in one.framework else [f"lightgbm=={version('lightgbm')}"]
    loop.close(home, home / "work" / "files", flights, one.name, requirements, one.team)


def build_fleet(client: Client, flights: Flights, work: Path) -> list[Trained]:
    """Train and register all first versions; registering goes on beside the training."""
    fleet: list[Trained] = []
    total = len(models.pairs(flights)) * 3 + 16 + 3
    with progress("Training and registering", total) as at, ThreadPoolExecutor(1) as registering:
        done = []
        for one in models.train_fleet(flights, FEATURES):
            fleet.append(one)
            done.append(registering.submit(register, client, one, work))
            at(sum(future.done() for future in done))
        for future in done:
            future.result()
        at(len(done))
    return fleet


def wait_ready(client: Client, count: int) -> None:
    """All versions checked and compiled, or a clear end."""
    with progress("Checking and compiling", count) as at:
        while True:
            found = client.api.get("/v1/versions", limit=10_000)
            assert isinstance(found, list)
            failed = [one for one in found if one["status"] == "failed"]
            if failed:
                raise SystemExit(f"{failed[0]['model']} can't be served: {failed[0]['reason']}")
            ready = sum(one["status"] == "ready" for one in found)
            at(ready)
            if ready >= count:
                return
            time.sleep(0.5)


def deploy_all(client: Client, names: list[str]) -> None:
    with progress("Deploying", len(names)) as at:
        started = [client.deploy(name, "1.0.0").id for name in names]
        while True:
            states = {one.id: one.state for one in client.rollouts(limit=1000)}
            ended = sum(states[one] == "succeeded" for one in started)
            if any(states[one] == "rolled_back" for one in started):
                raise SystemExit(
                    "A first deployment was rolled back: see `modelfleet rollouts list`."
                )
            at(ended)
            if ended == len(started):
                return
            time.sleep(0.5)


def start_rollouts(client: Client, second: dict[str, str]) -> dict[str, Rollout]:
    """The three rollouts, at once, on different endpoints."""
    judged = {"analysis": {"predictions_max_distance": 0.2, "disagreements_max": 0.1}}
    canary = {"weights": [5000], "step_seconds": 10, "bake_seconds": 10, **judged}
    return {
        "better": client.deploy(CANARY, second[CANARY], strategy="canary", **canary),
        "broken": client.deploy(BROKEN, second[BROKEN], strategy="canary", **canary),
        "shadow": client.deploy(
            SHADOW, second[SHADOW], strategy="shadow", step_seconds=20, **judged
        ),
    }


def note_replay(arguments: Arguments) -> None:
    """Tell the pages which second stands for which day."""
    note = {
        "start": datetime.now(UTC).isoformat(),
        "from": "2013-07-01",
        "until": "2013-12-31",
        "seconds_per_day": arguments.seconds / (365 - models.FIRST_HALF),
    }
    (arguments.home / "run" / "replay.json").write_text(json.dumps(note))


def replay(
    client: Client, arguments: Arguments, second: dict[str, str]
) -> tuple[dict[str, object], dict[str, Rollout]]:
    """Traffic from a process of its own, the rollouts meanwhile."""
    plan = {
        "url": client.api.url,
        "gateway_url": client.gateway_url,
        "key_file": str(arguments.home / "admin.key"),
        "seconds": arguments.seconds,
        "outcome_seconds": 2.0,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "flights.replay", json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    rollouts: dict[str, Rollout] = {}
    process.stdin.write("go\n")
    process.stdin.flush()
    note_replay(arguments)
    with progress("Replaying July to December", told["requests"]) as at:
        for line in process.stdout:
            told = json.loads(line)
            at(told["answered"])
            if told["second"] >= ROLLOUTS_AT and not rollouts:
                rollouts = start_rollouts(client, second)
    process.wait()
    for failure in told["failures"]:
        console.print(f"[red]failed:[/red] {failure}")
    return told, {name: client.wait_for_rollout(one.id, 60) for name, one in rollouts.items()}


def settle(client: Client, outcomes: int) -> dict[str, object]:
    """Let the last outcomes be joined and the last windows be judged."""
    end = time.monotonic() + 30
    while True:
        fleet = client.fleet()
        if int(str(fleet["outcomes_joined"])) >= outcomes or time.monotonic() > end:
            return fleet
        time.sleep(0.5)


def summary(
    result: dict[str, object], rollouts: dict[str, Rollout], retrained: tuple[str, str]
) -> Table:
    table = Table(title="Half a year of flights", show_header=False)
    for name, value in result.items():
        table.add_row(name.replace("_", " "), str(value))
    for name, one in rollouts.items():
        table.add_row(f"{name} ({one.endpoint})", f"{one.state}: {one.sentence}")
    table.add_row(f"after drift ({RETRAINED})", f"{retrained[0]}: {retrained[1]}")
    return table


def run(arguments: Arguments) -> int:
    began = time.monotonic()
    flights = load()
    with platform(arguments.home) as client:
        work = arguments.home / "work"
        work.mkdir()
        fleet = build_fleet(client, flights, work)
        first = {one.name: one for one in fleet}
        better = [models.retuned(first[name], flights, FEATURES) for name in (CANARY, SHADOW)]
        seconds = [*better, models.broken(first[BROKEN], flights, FEATURES)]
        second = {one.name: register(client, one, work) for one in seconds}
        wait_ready(client, len(fleet) + len(second))
        deploy_all(client, [one.name for one in fleet])
        close_loop(client, flights, arguments.home, first[RETRAINED])
        told, rollouts = replay(client, arguments, second)
        retrained = loop.outcome(client, RETRAINED, 45)
        seen = settle(client, int(str(told["outcomes"])))
        drift = [a for a in client.alerts() if a.kind == "drift" and a.state != "pending"]
        result: dict[str, object] = {
            "models": len(client.models()),
            "frameworks": sorted({one.framework for one in fleet}),
            "predictions": told["answered"],
            "failed_requests": told["failed"],
            "promoted": sum(r.state == "succeeded" for r in _of(rollouts, "better")),
            "rolled_back": sum(r.state == "rolled_back" for r in _of(rollouts, "broken")),
            "shadowed": sum(r.state == "succeeded" for r in _of(rollouts, "shadow")),
            "retrained": int(retrained[0] == "promoted"),
            "drift_alerts": len(drift),
            "outcomes_joined": seen["outcomes_joined"],
            "seconds": round(time.monotonic() - began, 1),
        }
        console.print(summary(result, rollouts, retrained))
        link = client.api.post("/v1/login-links")
        assert isinstance(link, dict)
        console.print(f"Pages: {client.api.url}{link['path']}  (logs you in, once)", soft_wrap=True)
        if not arguments.exit:
            console.print("Stays up until Ctrl-C.")
            _wait_for_interrupt()
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if _all_happened(result) else 1


def _of(rollouts: dict[str, Rollout], name: str) -> list[Rollout]:
    return [rollouts[name]] if name in rollouts else []


def _all_happened(result: dict[str, object]) -> bool:
    numbers = {name: value for name, value in result.items() if isinstance(value, (int, float))}
    wanted = ("promoted", "rolled_back", "shadowed", "retrained", "drift_alerts")
    return (
        numbers["models"] >= 120
        and len(list(np.atleast_1d(result["frameworks"]))) >= 3  # type: ignore[call-overload]
        and numbers["failed_requests"] == 0
        and all(numbers[name] > 0 for name in (*wanted, "outcomes_joined"))
    )


def _wait_for_interrupt() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("Stopping.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="made anew at each run")
    parser.add_argument("--seconds", type=float, default=150.0, help="length of the replay")
    parser.add_argument("--exit", action="store_true", help="stop everything at the end")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it, ends the platform
    try:
        sys.exit(run(Arguments(given.home.resolve(), given.seconds, given.exit)))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
