"""From a model that was fetched to a version of ours. The one place that knows our register API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from modelfleet.client import Client
from modelfleet.client.errors import ApiError, ClientError
from modelfleet.client.saving import Saved, own_python, save
from modelfleet.client.types import Version
from modelfleet.client.uploads import digest_of
from modelfleet.core.scan import Findings
from modelfleet.importing import pickled
from modelfleet.importing.runs import DONE_TAG, KEY_TAG
from modelfleet.importing.types import ATTENTION, IMPORTED, Attention, Found, Item, Outcome

PROVENANCE = "import.json"
SOURCE_TAG = "modelfleet.import.source"
_ESTIMATORS = ("sklearn", "lightgbm", "xgboost", "catboost", "imblearn")


class Registrar:
    """team: owns models that are new. unlisted: pickles that no list knows run in the sandbox.
    strict: refuse to run models where the sandbox is not complete."""

    def __init__(
        self,
        client: Client,
        *,
        team: str,
        unlisted: bool,
        strict: bool,
        tell: Callable[[str], None],
        run_id: Callable[[str, str], str | None] = lambda key, experiment: None,
    ) -> None:
        """run_id: of a run that was imported, by its key and experiment."""
        self._client = client
        self._run_id = run_id
        self._team = team
        self._unlisted = unlisted
        self._strict = strict
        self._tell = tell
        self._known: dict[str, dict[str, Version]] = {}

    def check(self, found: Found) -> list[Findings]:
        """Look through it; nothing is run or registered. Raises `Attention` or `Refused`."""
        return pickled.check(found.path, unlisted=self._unlisted)

    def register(
        self, source: str, item: Item, found: Found, facts: Mapping[str, object], work: Path
    ) -> Outcome:
        """Describe it in the sandbox, then register it. Raises `Attention` or `Refused`.

        What comes from a server that numbers versions is registered also if it can't be served:
        as it is, needing attention.
        """
        before = self._at(item)
        if before is not None and before.status not in ("registered", "external"):
            return self._done(item, found, before)
        try:
            said = self.check(found)
            if found.unserved:
                raise Attention(found.unserved)
            saved = self._described(item, found, said, work)
        except Attention as error:
            if not found.source_uri:
                raise
            kept = before or self._as_it_is(item, found, facts)
            outcome = self._done(item, found, kept)
            reason = " ".join(str(error).split())
            return msgspec.structs.replace(outcome, state=ATTENTION, reason=reason)
        if before is not None:  # as it is, because of what is permitted now
            self._client.api.post(f"/v1/models/{item.model}/versions/{before.version}/prepare")
            return self._done(item, found, before)
        files: dict[str, bytes | Path] = dict(saved.files)
        made_up = _made_up(saved.content("bundle.json"))
        example = "made up" if made_up or found.made_up else "recorded"
        files[PROVENANCE] = _provenance(source, item, found, said, saved, example)
        digest = _digest(files)
        version = self._known_versions(item.model).get(digest)
        if version is None:
            self._ensure_model(item, found, facts)
            version = self._send(
                item, found, files, requirements=saved.requirements, python=saved.python
            )
            self._known_versions(item.model)[digest] = version
        lacks = saved.sandbox.missing if saved.sandbox is not None else ("it ran without",)
        return msgspec.structs.replace(
            self._done(item, found, version),
            example=example,
            sandbox="; ".join(lacks),
            digest=digest,
        )

    def _at(self, item: Item) -> Version | None:
        """What an earlier import registered under the item's number."""
        if item.sequence is None:
            return None
        try:
            found = self._client.version(item.model, str(item.sequence))
        except ApiError as error:
            if error.status != 404:
                raise
            return None
        if found.sequence != item.sequence or found.tags.get(KEY_TAG) != item.key:
            raise Attention(
                f"{item.model} has a version {item.sequence} already ({found.version}), which does "
                "not come from there: delete or rename that model, or import this version by hand."
            )
        return found

    def _as_it_is(self, item: Item, found: Found, facts: Mapping[str, object]) -> Version:
        files: dict[str, bytes | Path] = {
            path.relative_to(found.path).as_posix(): path
            for path in sorted(found.path.rglob("*"))
            if path.is_file()
        }
        self._ensure_model(item, found, facts)
        return self._send(item, found, files, requirements=(), python=own_python())

    def _done(self, item: Item, found: Found, version: Version) -> Outcome:
        """Registered: what points at it follows, once, so that nobody's later change is undone."""
        if DONE_TAG not in version.tags:
            self._set_aliases(item.model, version, found)
            self._set_stage(item.model, version, found)
        if found.source_uri and DONE_TAG not in version.tags:
            place = f"/v1/models/{item.model}/versions/{version.version}"
            self._client.api.patch(place, {"tags": {DONE_TAG: "true"}})
        return Outcome(
            item.key,
            item.what,
            item.model,
            version.version,
            IMPORTED,
            notes=list(found.notes),
            digest=version.bundle_digest or "",
            sequence=version.sequence,
        )

    def _described(self, item: Item, found: Found, said: list[Findings], work: Path) -> Saved:
        requirements = found.requirements
        if requirements is None and said and found.kind in (None, "sklearn", "python"):
            requirements = list(said[0].requirements) or None
        kind = found.kind
        if kind is None and said and found.path.is_file():
            kind = "sklearn" if said[0].root.split(".")[0] in _ESTIMATORS else "python"
        folder = work / "save"
        folder.mkdir()
        try:
            saved = save(
                found.path,
                found.example,
                requirements=requirements,
                python=found.python,
                kind=kind,
                source=found.code,
                class_name=found.class_name,
                tell=self._tell,
                work=folder,
            )
        except (ClientError, TypeError) as error:
            raise Attention(str(error)) from error
        if self._strict and (saved.sandbox is None or not saved.sandbox.complete):
            raise Attention("The sandbox is not complete on this kernel (see --require-sandbox).")
        return saved

    def _ensure_model(self, item: Item, found: Found, facts: Mapping[str, object]) -> None:
        with contextlib.suppress(ApiError):
            self._client.model(item.model)
            return
        tags = facts.get("tags")
        self._client.create_model(
            item.model,
            team=str(facts.get("team") or self._team),
            description=str(facts.get("description") or ""),
            tags={
                **{str(k): str(v) for k, v in (tags if isinstance(tags, Mapping) else {}).items()},
                **({} if found.source_uri else found.tags),
            },
        )

    def _send(
        self,
        item: Item,
        found: Found,
        files: Mapping[str, bytes | Path],
        *,
        requirements: Sequence[str],
        python: str,
    ) -> Version:
        marks = {KEY_TAG: item.key, SOURCE_TAG: str(found.origin.get("source") or "")}
        address = found.elsewhere if _is_remote(found.elsewhere) else found.source_uri
        try:
            return self._client.register_files(
                item.model,
                files,
                requirements=requirements,
                python=python,
                version=item.version,
                sequence=item.sequence,
                run_id=self._run_id(found.run_key, found.experiment) if found.run_key else None,
                tags={**found.tags, **marks} if found.source_uri else None,
                description=found.description if found.source_uri else "",
                source_uri=address,
                metrics={k: v for k, v in found.metrics.items() if v - v == 0},
                parameters=found.parameters,
                experiment=found.experiment,
            )
        except ApiError as error:
            if error.status in (400, 409, 413, 422):
                raise Attention(str(error)) from error
            raise

    def _set_aliases(self, model: str, version: Version, found: Found) -> None:
        if not found.aliases:
            return
        said: Any = self._client.api.get(f"/v1/models/{model}")
        for alias in found.aliases:
            if alias in said["aliases"] and found.source_uri:
                if said["aliases"][alias] != version.version:
                    held = said["aliases"][alias]
                    found.notes.append(f"the alias {alias} stays at {held}, where it is here")
                continue
            try:
                self._client.api.put(
                    f"/v1/models/{model}/aliases/{alias}", {"version": version.version}
                )
            except ApiError as error:
                found.notes.append(f"the alias {alias} could not be set: {error.detail}")

    def _set_stage(self, model: str, version: Version, found: Found) -> None:
        if not found.stage or version.stage:
            return
        place = f"/v1/models/{model}/versions/{version.version}/stage"
        try:
            self._client.api.put(place, {"stage": found.stage})
        except ApiError as error:
            if error.status not in (400, 403, 409):
                raise
            found.notes.append(f"it is not in the stage {found.stage} here: {error.detail}")

    def _known_versions(self, model: str) -> dict[str, Version]:
        """Versions that are registered already, by the digest of their bundle."""
        if model not in self._known:
            try:
                listed = self._client.versions(model)
            except ApiError as error:
                if error.status != 404:
                    raise
                listed = []
            self._known[model] = {one.bundle_digest: one for one in listed}
        return self._known[model]

    def wait(self, outcome: Outcome) -> Outcome:
        """Until the server has checked the version; `attention` if it can't serve it."""
        if outcome.version is None:
            return outcome
        try:
            self._client.wait_until_ready(outcome.model, outcome.version)
        except ApiError:
            raise
        except ClientError as error:
            return msgspec.structs.replace(outcome, state=ATTENTION, reason=str(error))
        return outcome


def _made_up(bundle: bytes) -> bool:
    """The example rows were drawn at random when the model was described."""
    said = msgspec.json.decode(bundle, type=dict[str, Any])
    return bool((said.get("options") or {}).get("example") == "made up")


def _provenance(
    source: str,
    item: Item,
    found: Found,
    said: list[Findings],
    saved: Saved,
    example: str,
) -> bytes:
    """Where the version comes from; the same bytes for the same model, so that digests agree."""
    box = saved.sandbox
    content = {
        "source": source,
        "key": item.key,
        "origin": found.origin,
        "example": example,
        "example_from": found.example_from or "drawn from the signature",
        "pickles": [
            {"verdict": str(one.verdict), "root": one.root, "unlisted": list(one.unknown)}
            for one in said
        ],
        "sandbox": None
        if box is None
        else {"landlock_abi": box.landlock_abi, "seccomp": box.seccomp, "missing": box.missing},
        "notes": found.notes,
    }
    return msgspec.json.encode(content, order="deterministic", enc_hook=str)


def _is_remote(uri: str) -> bool:
    """An address that says the same to everybody."""
    return "://" in uri and urlsplit(uri).scheme not in ("file", "mlflow-artifacts")


def _digest(files: Mapping[str, bytes | Path]) -> str:
    """What the registry will call the bundle."""
    from modelfleet_worker.wire.bundle import Entry, Manifest, digest

    entries = [Entry(0o644, path, *digest_of(content)) for path, content in files.items()]
    return digest(Manifest(tuple(sorted(entries, key=lambda entry: entry.path))))
