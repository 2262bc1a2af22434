"""Taking secrets out of text: those that this home has, and all that look like one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from modelfleet.core.settings import Settings

GONE = "[removed]"
_SHORTEST = 12
"""A shorter line of a key file is no secret of its own, and may stand in any text."""
_SHORTEST_PASSWORD = 4
_NAMES = r"passw(?:or)?d|passphrase|secret|token|api[-_]?key|access[-_]?key|credential"
_PATTERNS = tuple(
    (re.compile(pattern, flags), replacement)
    for pattern, flags, replacement in (
        (
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            re.S,
            GONE,
        ),
        (r"\beyJ[\w-]{4,}(?:\.[\w-]*){0,4}", 0, GONE),
        (r"\b(bearer|basic|token)(\s+)[\w.~+/=-]{8,}", re.I, rf"\1\2{GONE}"),
        (r"(/login/)[\w-]{16,}", 0, rf"\1{GONE}"),
        (r"(\b(?:set-)?cookie\\?[\"']?\s*[:=]\s*)[^\n\"']+", re.I, rf"\1{GONE}"),
        (
            rf"((?:{_NAMES})[\w-]*\\?[\"']?\s*[:=]\s*\\?[\"']?)(?!\[removed\])[^\s\"',;&}}\\]+",
            re.I,
            rf"\1{GONE}",
        ),
        (r"(\b[a-z][a-z0-9+.-]*://)[^/\s:@\"']+:[^/\s@\"']+@", re.I, rf"\1{GONE}@"),
        (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", 0, "[address]"),
    )
)
_CUT = re.compile(
    r"(exit code -?\d+|killed by SIG\w+|\bended|"
    r"\b[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning|Corrupt|Input|Found)): .*",
    re.S,
)
_LITERAL = re.compile(
    r"""(?<!File )(["'])(?:(?!\1).){1,}\1|\[[^\[\]]*\d[^\[\]]*\]|-?\d+\.\d+(?:e[+-]?\d+)?"""
)


class Redactor:
    """Knows the secrets of one home."""

    def __init__(self, settings: Settings) -> None:
        self._secrets = sorted(set(_secrets_of(settings)), key=len, reverse=True)

    def clean(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, GONE)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def holds(self, text: str) -> bool:
        """Whether a known secret is (still) in it."""
        return any(secret in text for secret in self._secrets)


def quiet(text: str) -> str:
    """Only what happened: what model code said about it may hold what it was asked."""
    return _CUT.sub(r"\1: ...", text)


def without_literals(text: str) -> str:
    """An error's text without the values that it quotes."""
    return _LITERAL.sub("...", text)


def public_settings(settings: dict[str, object]) -> dict[str, object]:
    """Settings without what is secret by its name, or part of an address."""
    shown: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            shown[name] = public_settings(value)
        elif re.search(_NAMES, name, re.I) and value:
            shown[name] = GONE
        elif isinstance(value, str) and "://" in value:
            shown[name] = _public_address(value)
        else:
            shown[name] = value
    return shown


def _public_address(url: str) -> str:
    """Paths of hooks are as good as passwords."""
    found = urlsplit(url)
    return f"{found.scheme}://{found.hostname or ''}/{GONE}"


def _secrets_of(settings: Settings) -> Iterator[str]:
    layout = settings.layout
    files = [layout.admin_key, *layout.keys.glob("*"), *layout.gateway.glob("sds-*.json")]
    if settings.serving.tls_key:
        files.append(settings.home / settings.serving.tls_key)
    if settings.database.password_file:
        files.append(settings.home / settings.database.password_file)
    yield from _passwords(settings)
    for path in files:
        if path != layout.jwks and path.is_file():
            yield from _lines(path)
    for url in _addresses(settings):
        yield from (part for part in urlsplit(url).path.split("/") if len(part) >= _SHORTEST)


def _passwords(settings: Settings) -> Iterator[str]:
    """Of the database: short ones, too, may not be shown."""
    found = {settings.database.password, urlsplit(settings.database.url).password or ""}
    for one in found | {unquote(one) for one in found}:
        if len(one) >= _SHORTEST_PASSWORD:
            yield one


def _lines(path: Path) -> Iterator[str]:
    text = path.read_text("utf-8", errors="replace")
    if path.suffix == ".json":
        text = "\n".join(_strings(json.loads(text)))
    for line in text.splitlines():
        line = line.strip()
        if (
            len(line) >= _SHORTEST
            and not line.startswith("-----")
            and "type.googleapis" not in line
        ):
            yield line


def _strings(found: object) -> Iterator[str]:
    if isinstance(found, str):
        yield found
    elif isinstance(found, (dict, list)):
        for one in found.values() if isinstance(found, dict) else found:
            yield from _strings(one)


def _addresses(settings: Settings) -> Iterator[str]:
    import msgspec

    plain = msgspec.to_builtins(settings, enc_hook=str)
    yield from (text for text in _strings(plain) if "://" in text)
