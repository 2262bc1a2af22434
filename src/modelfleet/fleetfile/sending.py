"""Sending a fleet: plans from the platform, uploads, applying in parts.

Applying is safe to repeat: what was done is not done again, so whoever was interrupted runs the
same command once more.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelfleet.client import Client
from modelfleet.client.errors import ClientError
from modelfleet.client.uploads import digest_of
from modelfleet.fleetfile.files import Local, settle
from modelfleet.fleetfile.load import Loaded
from modelfleet.fleetfile.problems import Problem, Refused

FORMAT = 1
"""of plan files"""
CHUNK = 20
"""objects of one call: progress is shown after each"""
SOURCE_TAG = "modelfleet.source"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Draft:
    """A plan with all that carrying it out takes."""

    plan: Mapping[str, Any]
    """as the platform answered"""
    documents: Mapping[tuple[str, str], Any]
    folders: Mapping[tuple[str, str], str]
    """of the files of documents, below `root`"""
    uploads: Mapping[str, Local]
    root: Path
    commit: str = ""
    prune: bool = False
    retry: bool = False

    @property
    def objects(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.plan["objects"]
        return found

    @property
    def changing(self) -> list[Mapping[str, Any]]:
        return [one for one in self.objects if one["action"] in ("create", "update", "delete")]

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "plan": self.plan,
            "documents": list(self.documents.values()),
            "folders": [[*key, folder] for key, folder in self.folders.items()],
            "uploads": [[one.digest, str(one.path), one.size] for one in self.uploads.values()],
            "root": str(self.root),
            "commit": self.commit,
            "prune": self.prune,
            "retry": self.retry,
        }


def from_json(body: Any) -> Draft:
    """Raises `ClientError` for what is no plan."""
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ClientError(f"This is no plan of this release (format {FORMAT}).")
    try:
        return Draft(
            plan=body["plan"],
            documents={_key(one): one for one in body["documents"]},
            folders={(kind, name): folder for kind, name, folder in body["folders"]},
            uploads={d: Local(Path(path), d, size) for d, path, size in body["uploads"]},
            root=Path(body["root"]),
            commit=str(body["commit"]),
            prune=bool(body["prune"]),
            retry=bool(body["retry"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClientError(f"This is no plan: {error!r}.") from error


def _key(document: Mapping[str, Any]) -> tuple[str, str]:
    return str(document["kind"]), str(document["metadata"]["name"])


def draft(client: Client, loaded: Loaded, *, prune: bool = False, retry: bool = False) -> Draft:
    """Ask for a plan. Raises `Refused` with what only the platform knows to be wrong."""
    settled, uploads = settle(loaded)
    documents = {(one.kind, one.name): one.plain for one in settled.objects}
    body = {
        "fleet": loaded.fleet,
        "stage": loaded.stage,
        "documents": list(documents.values()),
        "prune": prune,
        "retry": retry,
    }
    plan: Any = client.api.post("/v1/fleet/plan", body)
    if plan["troubles"]:
        raise Refused([_placed(loaded, one) for one in plan["troubles"]])
    folders = {
        (one.kind, one.name): one.folder.resolve().relative_to(loaded.root).as_posix()
        for one in loaded.objects
    }
    return Draft(
        plan=plan,
        documents=documents,
        folders=folders,
        uploads=uploads,
        root=loaded.root,
        commit=commit_of(loaded.root),
        prune=prune,
        retry=retry,
    )


def _placed(loaded: Loaded, trouble: Mapping[str, Any]) -> Problem:
    """With the line in the file."""
    key = (trouble["kind"], trouble["name"])
    one = next(x for x in loaded.objects if (x.kind, x.name) == key)
    path: list[str | int] = []
    for part in str(trouble["path"]).replace("]", "").replace("[", ".").split("."):
        if part:
            path.append(int(part) if part.isdigit() else part)
    return Problem(
        one.node.place_of(tuple(path)), trouble["path"], trouble["message"], trouble["hint"]
    )


def commit_of(folder: Path) -> str:
    """Sha of the files' repository, `-dirty` behind it if they differ; empty without git."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    if not commit:
        return ""
    return f"{commit}-dirty" if git("status", "--porcelain", "--", ".") else commit


@dataclass
class Applying:
    """One run of `apply`. `results` grows as objects are done."""

    client: Client
    draft: Draft
    rollouts: bool = True
    results: list[Mapping[str, Any]] = field(default_factory=list)

    def run(self, tell: Tell) -> None:
        """Upload, apply, register sources, remove. Raises `ClientError`, `ApiError`."""
        self._upload(tell)
        wanted = [
            (self.draft.documents[_of(one)], one["fingerprint"])
            for one in self.draft.objects
            if one["action"] in ("create", "update", "record")
        ]
        self._apply(wanted, tell)
        self._sources(tell)
        self._remove(tell)

    def again(self, keys: Sequence[tuple[str, str]], tell: Tell) -> None:
        """Apply these once more, as things are now: their results are replaced."""
        self.results = [one for one in self.results if _of(one) not in set(keys)]
        self._apply([(self.draft.documents[key], "") for key in keys], tell)

    def _upload(self, tell: Tell) -> None:
        for number, one in enumerate(self.draft.uploads.values(), 1):
            if not one.path.exists() or digest_of(one.path)[0] != one.digest:
                raise ClientError(f"{one.path} changed since the plan was made: plan again.")
            tell(f"{number} of {len(self.draft.uploads)} files uploaded")
            self.client.upload(one.digest, one.path)

    def _signed(self) -> dict[str, object]:
        plan = self.draft.plan
        signed = {"fleet": plan["fleet"], "stage": plan["stage"], "plan": plan["id"]}
        return {**signed, "commit": self.draft.commit}

    def _apply(self, wanted: Sequence[tuple[Any, str]], tell: Tell) -> None:
        for some in _chunks(wanted):
            body = {
                **self._signed(),
                "objects": [{"document": d, "fingerprint": print_} for d, print_ in some],
                "rollouts": self.rollouts,
                "retry": self.draft.retry,
            }
            found: Any = self.client.api.post("/v1/fleet/apply", body)
            self.results += found
            tell(f"{len(self.results)} of {len(wanted)} objects")

    def _sources(self, tell: Tell) -> None:
        """Register what documents name by path, then let these be rolled out."""
        made = []
        fine = {_of(one) for one in self.results if one["outcome"] not in ("refused", "conflict")}
        for one in self.draft.objects:
            version, key = one["version"], _of(one)
            source = self.draft.documents.get(key, {}).get("source", {})
            missing = version is not None and version["state"] == "unmade"
            settled = key in fine or one["action"] == "none"
            if missing and settled and source.get("path") is not None:
                tell(f"registers {source['path']} as {one['name']}")
                self._register(one["name"], self.draft.folders[key], source)
                made.append(key)
        if made:
            self.again(made, tell)

    def _register(self, name: str, folder: str, source: Mapping[str, Any]) -> None:
        from modelfleet.client.saving import detect, own_python, read_rows

        here = self.draft.root / folder
        path = here / source["path"]
        tags = {SOURCE_TAG: source["digest"]}
        requirements = source.get("requirements")
        if source.get("kind") is None and detect(path) == "bundle":
            self.client.register_folder(
                name,
                path,
                requirements=requirements or (),
                python=source.get("python") or own_python(),
                tags=tags,
            )
            return
        rows = {
            key: read_rows(here / source[key]) if key in source else None
            for key in ("example", "reference")
        }
        self.client.register(
            path,
            rows["example"],
            reference=rows["reference"],
            name=name,
            kind=source.get("kind"),
            requirements=requirements,
            python=source.get("python"),
            tags=tags,
        )

    def _remove(self, tell: Tell) -> None:
        gone = [one for one in self.draft.objects if one["action"] == "delete"]
        if gone:
            tell(f"{len(gone)} objects are removed")
            self.results += remove(self.client, gone, self._signed())


def _of(one: Mapping[str, Any]) -> tuple[str, str]:
    return one["kind"], one["name"]


def remove(
    client: Client, gone: Sequence[Mapping[str, Any]], signed: Mapping[str, object]
) -> list[Mapping[str, Any]]:
    """Remove objects (kind, name, generation each), in one call: the platform finds the order."""
    objects = [{k: one[k] for k in ("kind", "name", "generation")} for one in gone]
    found: Any = client.api.post("/v1/fleet/remove", {**signed, "objects": objects})
    return list(found)


def _chunks(wanted: Sequence[tuple[Any, str]]) -> Iterator[Sequence[tuple[Any, str]]]:
    return (wanted[start : start + CHUNK] for start in range(0, len(wanted), CHUNK))
