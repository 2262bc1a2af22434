"""Names of models: others allow more letters than we do."""

from __future__ import annotations

import re

_BAD = re.compile(r"[^A-Za-z0-9._-]+")


def model_name(text: str) -> str:
    """The nearest name that a model may have here; `model` if nothing is left."""
    found = _BAD.sub("-", text.strip())[:120].strip("._-")
    return found or "model"


def semver(text: str) -> str | None:
    """`3` and `1.0` as 3.0.0 and 1.0.0, what is semantic as it is; None for anything else."""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,2}", text):
        parts = [*text.split("."), "0", "0"][:3]
        return ".".join(str(int(part)) for part in parts)
    core, _, rest = text.partition("-")
    if rest and re.fullmatch(r"\d+\.\d+\.\d+", core) and re.fullmatch(r"[0-9A-Za-z.-]+", rest):
        return text
    return None
