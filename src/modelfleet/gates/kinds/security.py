"""What is known today of how safe the files are: never more than inconclusive."""

from __future__ import annotations

from modelfleet.core.scan import Verdict as Scan
from modelfleet.core.scan import scan
from modelfleet.fleetfile.gates import Security
from modelfleet.gates.kinds.base import Case, Kind, run
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.serving.environments import pins

_PICKLED = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".skops")


def check(spec: Security, case: Case) -> GateRun:
    files = case.registered / "files"
    rows: list[dict[str, object]] = []
    harmful: list[str] = []
    for path in sorted(files.rglob("*")):
        name = path.relative_to(files).as_posix()
        pickled = path.suffix in _PICKLED or name == case.candidate.info.artifact
        if not path.is_file() or not pickled:
            continue
        case.say(f"looking into {name}")
        found = scan(path)
        rows.append({"file": name, "verdict": found.verdict.value, "why": found.reason})
        if found.harmful:
            harmful.append(f"{name} ({', '.join(found.harmful[:3])})")
    evidence: dict[str, object] = {
        "facts": {"files": len(rows), "packages": len(pins(case.candidate.lock))},
        "rows": rows,
        "notes": [
            "Pickles were run in a machine of stubs: nothing of them was executed.",
            "Model code runs as another user, confined, whenever it is checked or served.",
            "Known vulnerabilities, licences and secrets are not looked for yet.",
        ],
    }
    if harmful:
        sentence = f"Nothing is proven, but these name what no model needs: {'; '.join(harmful)}."
    else:
        known = sum(row["verdict"] == Scan.CLEAN.value for row in rows)
        sentence = (
            f"{known} of {len(rows)} model files name nothing but parts of known models; "
            "vulnerabilities, licences and secrets are not looked for yet."
        )
    return run("security", Verdict.INCONCLUSIVE, sentence, evidence)


KIND = Kind("security", Security, check, title="Security")
