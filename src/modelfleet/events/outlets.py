"""The ways in which changes are told: what a format checks, says and sends.

* `cloudevents` and `mlflow`: signed webhooks.
* `apprise`: a notification to a chat, a phone or a mailbox, by the URLs of apprise.
* `github`, `gitlab`: the status of the commit that a version was made of, for each of its gates.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from modelfleet.core.errors import InvalidInput, Unavailable
from modelfleet.events import messages, sending
from modelfleet.events.addresses import resolve
from modelfleet.events.sending import Answer

FORMATS = ("cloudevents", "mlflow", "apprise", "github", "gitlab")
ACTION = re.compile(r"[a-z]+(-[a-z]+)*")
NOTIFIED = (
    "move-rollout",
    "end-training",
    "fail-version",
    "quarantine-version",
    "run-drift-window",
    "check-limits",
    "check-overload",
    "ask-approval",
)
"""what a notification tells unless something else is asked for: `default`"""
STATUSES = ("run-gate", "prepare-version", "fail-version")
"""what becomes the status of a commit"""


@dataclass(frozen=True)
class Told:
    """What is known when a delivery is made of an audit event."""

    row: Mapping[str, Any]
    at: str
    watchers: Sequence[str] = ()
    commit: str = ""
    """sha of what the version was made of"""


def check(format_: str, url: str, *, private: bool) -> None:
    """Raises `InvalidInput` for what can't be sent to."""
    if format_ not in FORMATS:
        raise InvalidInput(f"{format_!r} is no format of webhooks: {', '.join(FORMATS)}.")
    if format_ == "apprise":
        _check_notification(url, private=private)
    else:
        resolve(url, private=private)


def check_secret(format_: str, secret: str) -> None:
    """Raises `InvalidInput` for a commit status without a token."""
    if format_ in ("github", "gitlab") and not secret:
        raise InvalidInput(
            f"Statuses of commits need a token of {format_}.", hint="Give it as the secret."
        )


def shown(format_: str, url: str) -> str:
    """The address as anybody may see it: those of notifications hold their secrets."""
    return f"{urlsplit(url).scheme}://..." if format_ == "apprise" else url


def wants(format_: str, events: Sequence[str], action: str) -> bool:
    if format_ in ("github", "gitlab"):
        return action in STATUSES
    if format_ == "apprise" and "default" in events and action in NOTIFIED:
        return True
    return action in events or "*" in events


def body(format_: str, told: Told) -> Mapping[str, Any] | None:
    """What is sent; None if this event is nothing for it."""
    if format_ == "apprise":
        return notification(told.row)
    if format_ in ("github", "gitlab"):
        return commit_status(format_, told)
    return messages.cloud_event(told.row, told.at, told.watchers)


def send(format_: str, url: str, secret: str, delivery: str, text: str, *, private: bool) -> Answer:
    """Raises `FleetError`, `OSError` or `http.client.HTTPException`."""
    if format_ == "apprise":
        return _notify(secret, json.loads(text), private=private)
    if format_ in ("github", "gitlab"):
        said = json.loads(text)
        target = resolve(f"{url.rstrip('/')}/statuses/{said.pop('sha')}", private=private)
        given = {"Content-Type": "application/json", "User-Agent": "modelfleet"}
        if format_ == "github":
            given |= {
                "Authorization": f"Bearer {secret}",
                "Accept": "application/vnd.github+json",
            }
        else:
            given |= {"PRIVATE-TOKEN": secret}
        return sending.post(target, given, json.dumps(said))
    target = resolve(url, private=private)
    return sending.post(target, sending.headers(format_, secret, delivery, text), text)


# Notifications -----------------------------------------------------------------------------------


def notification(row: Mapping[str, Any]) -> dict[str, str] | None:
    """A line and what is to be said about it, for people."""
    details: Mapping[str, Any] = row["details"]
    action = str(row["action"])
    words = action.replace("-", " ")
    if action == "move-rollout":
        words = f"rollout {str(details.get('state', 'moved')).replace('_', ' ')}"
    if action == "end-training":
        words = f"training {details.get('state', 'ended')}"
    if action in ("run-drift-window", "check-limits", "check-overload"):
        if not details.get("opened"):
            return None
        words = "alerts"
    reason = next(
        (str(details[k]) for k in ("reason", "sentence", "summary") if details.get(k)), ""
    )
    told = reason or json.dumps(details, ensure_ascii=False, default=str)[:1500]
    failed = bool(re.search(r"fail|rolled back|frozen|rejected|quarantine|alerts", words))
    return {
        "title": f"{row['resource']}: {words}"[:200],
        "body": f"{told}\nBy {row['principal']}, team {row['team']}.",
        "type": "failure" if failed else "info",
    }


def _apprise() -> Any:
    try:
        return importlib.import_module("apprise")
    except ImportError as error:
        raise InvalidInput(
            "Notifications need the package apprise.", hint='pip install "modelfleet[notify]"'
        ) from error


def _check_notification(url: str, *, private: bool) -> None:
    outlet = _apprise().Apprise.instantiate(url, suppress_exceptions=True)
    if outlet is None:
        raise InvalidInput(
            f"{urlsplit(url).scheme[:40] or 'That'} is no address that apprise knows.",
            hint="Write it as apprise does: mailto://USER:PASSWORD@HOST, slack://TOKENS, "
            "json://HOST/PATH.",
        )
    if private:
        return
    scheme = urlsplit(url).scheme
    for host in _hosts(outlet, url):
        resolve(f"https://{host}", private=False)
    if scheme in ("json", "xml", "form", "apprise"):
        raise InvalidInput(f"Secrets would travel in the open: use {scheme}s://.")


def _hosts(outlet: Any, url: str) -> Iterator[str]:
    """The hosts that an outlet connects to, beside the fixed one of its service."""
    named = urlsplit(url).hostname or ""
    if "host" in outlet.template_tokens or "." in named or ":" in named:
        # What is no address there may be a name at the service: ntfy://TOPIC.
        host = str(getattr(outlet, "host", "") or "")
        if host:
            yield host if ":" not in host or host.startswith("[") else f"[{host}]"
    if server := getattr(outlet, "smtp_host", ""):
        yield str(server)


def _notify(url: str, said: Mapping[str, str], *, private: bool) -> Answer:
    apprise = _apprise()
    _check_notification(url, private=private)
    outlet = apprise.Apprise()
    outlet.add(url)
    with apprise.LogCapture(level=apprise.logging.INFO) as output:
        taken = outlet.notify(title=said["title"], body=said["body"], notify_type=said["type"])
        if not taken:
            raise Unavailable(f"It was not taken: {output.getvalue().strip()[-500:]}")
    return Answer(200, "")


# Commit statuses ---------------------------------------------------------------------------------

_GITHUB = {"pass": "success", "warn": "success", "fail": "failure", "inconclusive": "pending"}
_GITLAB = {**_GITHUB, "fail": "failed"}
_SHA = re.compile(r"[0-9a-f]{7,64}")


def commit_status(format_: str, told: Told) -> dict[str, str] | None:
    """docs.github.com "commit statuses"; docs.gitlab.com "set commit pipeline status"."""
    if not _SHA.fullmatch(told.commit):  # runs say what they like; it becomes part of an address
        return None
    row, details = told.row, told.row["details"]
    if row["action"] == "run-gate":
        gate, verdict = str(details["gate"]), str(details["verdict"])
    else:
        gate, verdict = "ready", "pass" if row["action"] == "prepare-version" else "fail"
    states: Callable[[str], str] = (_GITHUB if format_ == "github" else _GITLAB).__getitem__
    name = "context" if format_ == "github" else "name"
    about = str(details.get("sentence") or details.get("reason") or verdict)
    return {
        "sha": told.commit,
        "state": states(verdict),
        name: f"modelfleet/{row['resource']}/{gate}"[:250],
        "description": about[:140],
    }
