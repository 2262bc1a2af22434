"""A home with bundles, pools and workers' segments, made by the real writers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from modelfleet.core.layout import Layout
from modelfleet.core.settings import EvidenceSettings
from modelfleet.telemetry.collector import Collector
from modelfleet.telemetry.evidence import EvidenceReader
from modelfleet_worker.wire import desired, profile, segment
from modelfleet_worker.wire.control import ControlBlock
from modelfleet_worker.wire.ids import uuid7_at
from modelfleet_worker.wire.segment import Record, SegmentWriter

FEATURES = 3


@dataclass
class Home:
    """Builds what the collector reads. Rows of model m are normal, shifted by what a test says."""

    layout: Layout
    settings: EvidenceSettings
    writers: dict[tuple[str, int, int], SegmentWriter] = field(default_factory=dict)
    blocks: list[ControlBlock] = field(default_factory=list)
    versions: list[desired.VersionSpec] = field(default_factory=list)
    requests: int = 0

    def add_version(self, index: int, *, regression: bool = False, model: str = "") -> None:
        """A classifier (label, probability) or a regressor (prediction) in pool `main`."""
        folder = self.layout.bundle(f"{index:064x}")
        (folder / "files").mkdir(parents=True)
        outputs: list[dict[str, object]] = [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probability", "datatype": "FP64", "shape": [-1, 2]},
        ]
        score: dict[str, object] | None = {"output": "probability", "column": 1}
        if regression:
            outputs = [{"name": "prediction", "datatype": "FP64", "shape": [-1]}]
            score = None
        names = [f"f{k}" for k in range(FEATURES)]
        x = {"name": "x", "datatype": "FP64", "shape": [-1, FEATURES], "features": names}
        spec = {
            "format": 1,
            "runtime": "sklearn",
            "artifact": "model.joblib",
            "method": "predict" if regression else "predict_proba",
            "signature": {"inputs": [x], "outputs": outputs},
            "score": score,
            "options": {},
        }
        (folder / "files" / "bundle.json").write_text(json.dumps(spec))
        rng = np.random.default_rng(index)
        reference = profile.build_profile(
            names, rng.normal(size=(2000, FEATURES)), rng.uniform(size=2000)
        )
        (folder / "files" / "reference.json").write_bytes(profile.encode(reference))
        self.versions.append(
            desired.VersionSpec(
                index=index,
                model=model or f"model-{index}",
                version="1.0.0",
                sequence=1,
                digest=folder.name,
                path=str(folder),
            )
        )
        pool = desired.PoolSpec(
            pool="main",
            revision=len(self.versions),
            python="python",
            versions=tuple(self.versions),
        )
        desired.dump(pool, self.layout.pool("main"))

    def writer(self, replica: int = 0, incarnation: int = 1, megabytes: int = 1) -> SegmentWriter:
        key = ("main", replica, incarnation)
        if key not in self.writers:
            block = ControlBlock.create(
                self.layout.home / "blocks" / f"{replica}-{incarnation}.ctl"
            )
            self.blocks.append(block)
            self.writers[key] = SegmentWriter(
                self.layout.segments, "main", replica, incarnation, megabytes, block
            )
        return self.writers[key]

    def record(
        self,
        version: int,
        *,
        score: float = 0.7,
        rows: int = 1,
        status: int = 200,
        attempt: int = 1,
        shadow: bool = False,
        request_id: str = "",
        at: float | None = None,
        latency_us: float = 1000.0,
        shift: float = 0.0,
        inputs: list[bytes] | None = None,
        key: str = "",
    ) -> Record:
        """A record as a worker writes it. at: Unix seconds."""
        self.requests += 1
        time_ns = time.time_ns() if at is None else int(at * 1e9)
        x = np.random.default_rng(self.requests).normal(size=(rows, FEATURES)) + shift
        layout = next((v for v in self.versions if v.index == version), None)
        is_regression = layout is not None and "prediction" in (
            Path(layout.path) / "files" / "bundle.json"
        ).read_text("utf-8")
        scores = np.full(rows, score)
        outputs = [
            (scores >= 0.5).astype("<i8").tobytes(),
            np.stack([1 - scores, scores], axis=1).astype("<f8").tobytes(),
        ]
        if is_regression:
            outputs = [scores.astype("<f8").tobytes()]
        return Record(
            version=version,
            prediction_id=uuid7_at(time_ns),
            request_id=request_id or f"request-{self.requests}",
            trace_id=b"",
            time_ns=time_ns,
            latency_ns=int(latency_us * 1000),
            status=status,
            attempt=attempt,
            flags=segment.SHADOW if shadow else 0,
            rows=rows,
            inputs=(inputs or [x.astype("<f8").tobytes()]) if status == 200 else [],
            outputs=outputs if status == 200 else [],
            caller="tests",
            client_request_id="",
            endpoint=f"endpoint-{version}",
            error="" if status == 200 else "refused",
            key=key,
        )

    def write(self, *records: Record, replica: int = 0, incarnation: int = 1) -> list[Record]:
        writer = self.writer(replica, incarnation)
        for record in records:
            writer.append(segment.encode(record))
        return list(records)

    def watch(self, **content: object) -> None:
        self.layout.run.mkdir(parents=True, exist_ok=True)
        temporary = self.layout.watch.with_suffix(".new")
        temporary.write_text(json.dumps(content))
        temporary.replace(self.layout.watch)

    def collector(self) -> Collector:
        return Collector(self.layout, self.settings)

    def evidence(self) -> EvidenceReader:
        return EvidenceReader(self.layout.evidence_database)

    def drop_outcomes(self, *lines: dict[str, object], name: str = "a") -> Path:
        self.layout.outcome_inbox.mkdir(parents=True, exist_ok=True)
        path = self.layout.outcome_inbox / f"{name}.ndjson"
        temporary = path.with_suffix(".new")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        temporary.replace(path)
        return path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    settings = EvidenceSettings(tick_seconds=0.2, window_seconds=1, outcome_retry_seconds=0.05)
    made = Home(Layout(tmp_path), settings)
    yield made
    for writer in made.writers.values():
        writer.close()
    for block in made.blocks:
        block.close()


@pytest.fixture
def collect(home: Home) -> Iterator[Callable[[], EvidenceReader]]:
    """Run one collector over what was written so far; the reader sees the result."""
    collector = home.collector()
    reader = home.evidence()

    def step() -> EvidenceReader:
        collector.collect()
        collector._inbox.collect()
        return reader

    yield step
    reader.close()
    collector.close()
