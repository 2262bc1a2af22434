"""The place of checks of language models: nothing is known of those yet."""

from __future__ import annotations

from modelfleet.fleetfile.gates import LlmSafety
from modelfleet.gates.kinds.base import Case, Kind, run
from modelfleet.gates.store import GateRun, Verdict

_TAGS = ("kind", "task", "mlflow.task")


def check(spec: LlmSafety, case: Case) -> GateRun:
    tags = case.candidate.tags
    told = [tags.get(name, "").lower() for name in _TAGS]
    options = str(case.candidate.info.options.get("task", "")).lower()
    is_language = any(
        one.startswith(("llm", "text-generation", "chat")) for one in (*told, options)
    )
    facts = {"language model": "yes" if is_language else "no"}
    if not is_language:
        sentence = "Not applicable: it is no language model (tag kind=llm says otherwise)."
        return run("llm_safety", Verdict.PASS, sentence, {"facts": facts, "applicable": False})
    sentence = "Answers of language models are not judged yet."
    return run("llm_safety", Verdict.INCONCLUSIVE, sentence, {"facts": facts})


KIND = Kind("llm_safety", LlmSafety, check, title="LLM safety")
