"""A warm process that converts bundle after bundle: JSON lines in, JSON lines out.

Importing the frameworks costs seconds, converting a small model tens of milliseconds: so they
are imported once, and every conversion runs in a fork. A model that crashes, hangs or eats memory
takes its fork with it and nothing else, and in its sandbox it reaches nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Optional, Union

import msgspec

from modelfleet_worker import log, runtimes
from modelfleet_worker.compile import graphs, trial
from modelfleet_worker.compile.trial import Parity, Side, SourceSpeed, Speed
from modelfleet_worker.runtimes.base import LoadError
from modelfleet_worker.sandbox import Policy, begin, import_all, imports_of, memory_of
from modelfleet_worker.wire import bundle as bundles
from modelfleet_worker.wire.bundle import FILES, BundleCorrupt
from modelfleet_worker.wire.signature import Array
from modelfleet_worker.wire.spec import (
    BUNDLE_FILE,
    EXAMPLE_FILE,
    REFERENCE_FILE,
    BundleSpec,
    read_example,
    read_spec,
)
from modelfleet_worker.wire.vocabulary import RUNTIMES

ARTIFACT = "model.onnx"
TIMEOUT_SECONDS = 300.0
_REASON = 400


class Order(msgspec.Struct, frozen=True):
    """One line of stdin: convert that bundle into the (new) folder `out`, the only thing in a
    folder that may be written. sandboxed: the model reaches nothing else."""

    bundle: str
    digest: str
    out: str
    timeout_s: float = TIMEOUT_SECONDS
    sandboxed: bool = True


class Converted(msgspec.Struct, frozen=True):
    """`digest` names the new bundle in `out`; `chosen`: `compiled` or `source`, and why."""

    digest: str
    parity: Parity
    speed: Speed
    chosen: str
    reason: str
    converted: bool = True


class Unconverted(msgspec.Struct, frozen=True):
    """The version serves from its source, if that `loads` and `answers` its example."""

    reason: str
    converted: bool = False
    loads: bool = True
    answers: bool = True
    speed: Optional[SourceSpeed] = None


Answer = Union[Converted, Unconverted]
_encode = msgspec.json.encode
_LOADED, _ANSWERED = b"L", b"A"
"""What a fork says on its way, so that a crash can be told where it was."""


def serve() -> None:
    """Answer each line of stdin until it ends."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    answers = os.dup(1)
    os.dup2(2, 1)  # what frameworks print must not come between our lines
    for line in sys.stdin.buffer:
        if line.strip():
            os.write(answers, _answer(line, lambda said: _tell(answers, said)) + b"\n")


def _import(runtime: str) -> None:
    """What its models may need, once for all forks."""
    try:
        import_all(imports_of(runtime, RUNTIMES[runtime].module))
    except Exception as error:  # noqa: BLE001  # packages raise anything; the fork will say so
        log.failure("an import failed", error, runtime=runtime)


def _tell(answers: int, said: bytes) -> None:
    """A line in between, once the source has proven itself: what takes time now."""
    if said == _ANSWERED:
        os.write(answers, b'{"phase": "compiling"}\n')


def _answer(line: bytes, tell: Callable[[bytes], None] = lambda said: None) -> bytes:
    """The JSON of a `Converted` or an `Unconverted`. tell: hears what the fork says meanwhile."""
    try:
        order = msgspec.json.decode(line, type=Order)
        runtime = read_spec(Path(order.bundle)).runtime
    except (msgspec.DecodeError, BundleCorrupt) as error:
        return _encode(Unconverted(str(error), loads=False))
    with contextlib.suppress(graphs.NotConvertible):  # the fork will say so
        graphs.warm(runtime)
    _import(runtime)
    reader, writer = os.pipe()
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(order, runtime, writer, telling)
    os.close(writer)
    os.close(telling)
    try:
        converts = runtime in graphs.NEEDS
        content = _read(reader, order.timeout_s, tell if converts else lambda said: None)
    finally:
        os.close(reader)
    if content is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    report = _rest(told)
    said, brace, answer = (content or b"").partition(b"{")
    if brace:
        return brace + answer[:-1] + b', "sandbox": ' + (report or b"null") + b"}"
    shutil.rmtree(_partial(Path(order.out), child), ignore_errors=True)
    took = f"took longer than {order.timeout_s:g} s"
    how = took if content is None else f"crashed ({_ending(status)})"
    loads, answers = _LOADED in said, _ANSWERED in said
    what = "converting it" if answers else "answering its example" if loads else "loading it"
    return _encode(Unconverted(f"{what} {how}", loads=loads, answers=answers))


def _work(order: Order, runtime: str, writer: int, telling: int) -> None:
    """The fork: never returns."""
    try:
        try:
            if order.sandboxed:
                _enter(order, runtime, writer, telling)
            os.close(telling)
        except OSError as error:
            refusal = Unconverted(f"its sandbox can't be entered: {error}", False, False, False)
            os.write(writer, _encode(refusal))
            return
        os.write(writer, _encode(_result(order, writer)))
    finally:
        os._exit(0)


def _enter(order: Order, runtime: str, writer: int, telling: int) -> None:
    """Into the sandbox; the report is told before the model is there, so it is no model's word."""
    bundle = Path(order.bundle)
    size = sum(path.stat().st_size for path in (bundle / FILES).rglob("*") if path.is_file())
    box = begin(
        Policy(
            read=(order.bundle,),
            write=(str(Path(order.out).parent),),
            memory_bytes=memory_of(runtime, size),
            cpu_seconds=int(order.timeout_s) + 1,
            keep=(writer, telling),
        )
    )
    import_all(imports_of(runtime, RUNTIMES[runtime].module))
    os.write(telling, _encode(box.seal()))


def _rest(reader: int) -> bytes:
    """What a pipe holds whose writers are gone."""
    with os.fdopen(reader, "rb") as stream:
        return stream.read()


def _result(order: Order, writer: int) -> Answer:
    loads = answers = False
    pace: Optional[SourceSpeed] = None
    try:
        bundle = Path(order.bundle)
        bundles.verify(bundle, order.digest)
        spec = read_spec(bundle)
        source = Side(spec, runtimes.load(bundle, spec))
        os.write(writer, _LOADED)
        loads = True
        inputs, _ = read_example(bundle).arrays(spec.signature)
        source.answer(inputs)
        os.write(writer, _ANSWERED)
        answers = True
        pace = trial.source_speed(source, inputs)
        graphs.warm(spec.runtime)
        return convert(bundle, spec, source, inputs, Path(order.out))
    except (BundleCorrupt, LoadError, graphs.NotConvertible) as error:
        reason = str(error)
    except BaseException as error:  # noqa: BLE001  # models and converters raise anything
        log.failure("a conversion failed", error, bundle=order.digest)
        reason = log.describe(error)
    return Unconverted(_short(reason, order.out), loads=loads, answers=answers, speed=pace)


def _short(reason: str, out: str) -> str:
    """What people read: no colours, no temporary paths, not the whole graph."""
    unknown = re.search(r"No Op registered for (\w+)", reason)
    if unknown:
        return f"ONNX has no operator for its {unknown[1]}"
    foreign = re.search(r"(?:shape calculator|converter) for type '(?:<class ')?([\w.]+)", reason)
    if foreign:
        return f"skl2onnx has no converter for {foreign[1].rpartition('.')[2]}"
    text = re.sub(r"\x1b\[[0-9;]*m", "", reason)
    text = re.sub(re.escape(str(Path(out).parent)) + r"\S*/", "", text)
    text = " ".join(text.split())
    return text if len(text) <= _REASON else text[:_REASON].rstrip() + " ..."


def convert(
    bundle: Path, spec: BundleSpec, source: Side, inputs: dict[str, Array], out: Path
) -> Converted:
    """Convert, prove, measure. Raises LoadError, NotConvertible or whatever the converter
    raises; then nothing is left in `out`."""
    partial = _partial(out, os.getpid())
    try:
        compiled_spec = _write(bundle, spec, partial)
        compiled = Side(compiled_spec, runtimes.load(partial, compiled_spec))
        proof = trial.parity(spec.signature, source, compiled, inputs)
        if proof.passed and spec.runtime in graphs.TREES:
            missing = not spec.refuse_missing
            proof = trial.probed(spec.signature, source, compiled, inputs, proof, missing)
        pace = trial.speed(source, compiled, inputs)
        new = bundles.write_manifest(partial)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    chosen, reason = _choose(proof, pace)
    return Converted(new, proof, pace, chosen, reason)


def _partial(out: Path, process: int) -> Path:
    """Where a fork builds the new bundle before it takes its name."""
    return out.with_name(f".{out.name}.{process}")


def _write(bundle: Path, spec: BundleSpec, folder: Path) -> BundleSpec:
    """The files of the compiled bundle, all but its manifest."""
    graph, options = graphs.convert(bundle, spec)
    files = folder / FILES
    files.mkdir(parents=True)
    compiled = msgspec.structs.replace(spec, runtime="onnx", artifact=ARTIFACT, options=options)
    (files / ARTIFACT).write_bytes(graph)
    (files / BUNDLE_FILE).write_bytes(msgspec.json.encode(compiled))
    for name in (EXAMPLE_FILE, REFERENCE_FILE):
        if (bundle / FILES / name).exists():
            shutil.copyfile(bundle / FILES / name, files / name)
    return compiled


def _choose(proof: Parity, pace: Speed) -> tuple[str, str]:
    if not proof.passed:
        where = f" where {proof.where}" if proof.where else ""
        if where and not proof.label_flips and not proof.max_abs_diff:
            return "source", f"only one of both answers{where}"
        return "source", (
            f"outputs differ{where}: {proof.label_flips} of {proof.rows} labels flip, "
            f"the largest difference is {proof.max_abs_diff:.3g}"
        )
    ratio = pace.source_1_us / max(pace.compiled_1_us, 0.01)
    if ratio <= 1:
        return "source", f"compiled is not faster: {ratio:.2g}x at one row"
    return "compiled", f"equal on {proof.rows} rows and {ratio:.2g}x as fast at one row"


def _read(reader: int, timeout: float, tell: Callable[[bytes], None]) -> Optional[bytes]:
    """What the fork wrote before it ended; None after the timeout."""
    end = time.monotonic() + timeout
    parts: list[bytes] = []
    while True:
        left = end - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            return None
        part = os.read(reader, 65536)
        if not part:
            return b"".join(parts)
        if part[:1] != b"{":
            tell(part[-1:] if len(part) < 3 else b"")
        parts.append(part)


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.WEXITSTATUS(status)}"
