"""Whether those who call the model can go on calling it.

Pipelines are checked by their own rules, with the candidate in the champion's place. Applications
and models that only said that they use it are taken to rely on all of the champion's signature.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelfleet.fleetfile.gates import Signature as Spec
from modelfleet.gates.kinds.base import Case, Kind, nothing_beside, run
from modelfleet.gates.store import GateRun, Verdict
from modelfleet.registry.signature import Signature, Tensor


def check(spec: Spec, case: Case) -> GateRun:
    new = case.candidate.info.signature
    old = case.champion_signature()
    consumers = case.around.consumers() if spec.compatible_with == "consumers" else ()
    differences = list(differences_of(old, new)) if old is not None else []
    breaking = [text for text, breaks in differences if breaks]
    evidence: dict[str, object] = {
        "facts": {
            "champion": case.champion.name if case.champion else "none",
            "consumers": len(consumers),
            "inputs": ", ".join(map(described, new.inputs)),
            "outputs": ", ".join(map(described, new.outputs)),
        },
        "notes": [text for text, breaks in differences if not breaks],
    }
    if spec.compatible_with == "champion":
        if old is None:
            return nothing_beside("signature", case)
        evidence["rows"] = [{"difference": text, "breaks": "yes"} for text in breaking]
        if breaking:
            sentence = f"Clients of {_champion(case)} can't call it: {breaking[0]}."
            return run("signature", Verdict.FAIL, sentence, evidence)
        sentence = f"Whoever calls {_champion(case)} can call it."
        return run("signature", Verdict.PASS, sentence, evidence)
    rows, broken, unknown = [], [], []
    for one in consumers:
        problem = one.problem
        if not one.checked:
            if old is None:
                unknown.append(one.name)
                problem = f"what it relies on is not known: {case.no_champion}"
            else:
                problem = "; ".join(breaking)
        if problem and one.name not in unknown:
            broken.append(f"{one.kind} {one.name}: {problem}")
        verdict = "inconclusive" if one.name in unknown else "fail" if problem else "pass"
        rows.append(
            {"consumer": f"{one.kind} {one.name}", "verdict": verdict, "why": problem or "it fits"}
        )
    evidence["rows"] = rows
    if broken:
        more = f" ({len(broken)} of {len(consumers)} consumers)" if len(broken) > 1 else ""
        return run("signature", Verdict.FAIL, f"It breaks {broken[0]}{more}.", evidence)
    if unknown:
        sentence = f"Whether {', '.join(unknown[:5])} can call it is not known."
        return run("signature", Verdict.INCONCLUSIVE, sentence, evidence)
    if not consumers:
        if breaking:
            sentence = f"No consumer is declared, but clients of {_champion(case)} would break: "
            return run("signature", Verdict.WARN, f"{sentence}{breaking[0]}.", evidence)
        return run("signature", Verdict.PASS, "No consumer is declared: nobody breaks.", evidence)
    sentence = f"All {len(consumers)} consumers can go on calling it."
    return run("signature", Verdict.PASS, sentence, evidence)


def _champion(case: Case) -> str:
    return case.champion.name if case.champion else "the champion"


def differences_of(old: Signature, new: Signature) -> Iterator[tuple[str, bool]]:
    """What is different, and whether that breaks those who call it as before."""
    before, after = ({t.name: t for t in side.inputs} for side in (old, new))
    for name, tensor in before.items():
        if name not in after:
            yield f"it takes no input {name!r} any more", True
        elif complaint := _changed(tensor, after[name]):
            yield f"input {name!r} {complaint}", True
    for name in after.keys() - before.keys():
        yield f"it needs the input {name!r}, which nobody sends", True
    before, after = ({t.name: t for t in side.outputs} for side in (old, new))
    for name, tensor in before.items():
        if name not in after:
            yield f"the output {name!r} is gone", True
        elif complaint := _changed(tensor, after[name]):
            yield f"output {name!r} {complaint}", True
    for name in after.keys() - before.keys():
        yield f"there is a new output {name!r}", False


def _changed(old: Tensor, new: Tensor) -> str:
    if old.datatype != new.datatype:
        return f"is {new.datatype}, was {old.datatype}"
    same = len(old.shape) == len(new.shape) and all(
        b in (-1, a) for a, b in zip(old.shape[1:], new.shape[1:], strict=True)
    )
    if (old.features or []) == (new.features or []) and same:
        return ""
    if old.features and new.features:
        gone = [one for one in old.features if one not in new.features]
        come = [one for one in new.features if one not in old.features]
        said = [f"lacks {', '.join(gone[:5])}"] if gone else []
        said += [f"has {', '.join(come[:5])} beside"] if come else []
        return " and ".join(said) or "has its features in another order"
    if not same:
        return f"has the shape {new.shape}, was {old.shape}"
    return "names its features otherwise"


def described(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.datatype} {list(tensor.shape)}"


KIND = Kind("signature", Spec, check, frozenset({"champion", "consumers"}), title="Signature")
