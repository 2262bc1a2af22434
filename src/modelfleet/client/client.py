"""The client: the nouns and verbs of the API."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from modelfleet.client.code import snapshot_of
from modelfleet.client.errors import ApiError, ClientError, Unreachable
from modelfleet.client.transport import Json, Transport, home_folder, key_of, ports_of
from modelfleet.client.types import (
    Alert,
    Endpoint,
    Model,
    Pipeline,
    Rollout,
    Version,
    VersionState,
)
from modelfleet.client.uploads import PART, digest_of, upload_file
from modelfleet.client.waiting import Line

_T = TypeVar("_T")


def _as(kind: type[_T], found: object) -> _T:
    return msgspec.convert(found, kind)


class Client:
    """Talks to one modelfleet.

    Without arguments it finds the one that runs on this machine (MODELFLEET_HOME, else
    ~/.modelfleet) and uses its admin key; MODELFLEET_URL, MODELFLEET_GATEWAY_URL and
    MODELFLEET_KEY name another one. MODELFLEET_CA is a file with certificates (PEM) to trust, if
    the gateway's is not signed by a public authority.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        gateway_url: str | None = None,
        home: Path | None = None,
        timeout: float = 30.0,
    ) -> None:
        import os

        folder = home_folder(home)
        given = url or os.environ.get("MODELFLEET_URL")
        secret = key or key_of(folder)
        if given is None:
            ports = ports_of(folder)
            given = f"http://127.0.0.1:{ports['api']}"
            scheme = "https" if ports.get("gateway_tls") else "http"
            gateway_url = gateway_url or f"{scheme}://127.0.0.1:{ports['gateway']}"
        self.gateway_url = gateway_url or os.environ.get("MODELFLEET_GATEWAY_URL")
        self.api = Transport(given, secret, timeout)
        self._gateway = Transport(self.gateway_url, secret, timeout) if self.gateway_url else None

    def close(self) -> None:
        self.api.close()
        if self._gateway is not None:
            self._gateway.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Models and versions -----------------------------------------------------------------------

    def create_model(
        self,
        name: str,
        *,
        team: str,
        business_function: str | None = None,
        criticality: str | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        template: str = "",
    ) -> Model:
        """What is not given is as the team's `template` says, if one is named."""
        body = {
            "name": name,
            "owner_team": team,
            "business_function": business_function,
            "criticality": criticality,
            "description": description,
            "tags": dict(tags or {}),
            "template": template,
        }
        return _as(Model, self.api.post("/v1/models", body))

    def models(self, *, team: str | None = None, text: str | None = None) -> list[Model]:
        """All models, page by page."""
        found: list[Model] = []
        while True:
            page = self.api.get("/v1/models", team=team, text=text, limit=1000, offset=len(found))
            models = _as(list[Model], page)
            found += models
            if len(models) < 1000:
                return found

    def model(self, name: str) -> Model:
        return _as(Model, self.api.get(f"/v1/models/{name}"))

    def versions(self, model: str) -> list[Version]:
        """Newest first."""
        return _as(list[Version], self.api.get(f"/v1/models/{model}/versions"))

    def version(self, model: str, version: str = "latest") -> Version:
        found = self.api.get(f"/v1/models/{model}/versions/{version}")
        return _as(Version, _as(dict[str, object], found)["version"])

    def register(
        self,
        model: object,
        example: object = None,
        *,
        name: str,
        team: str | None = None,
        version: str | None = None,
        features: Sequence[str] | None = None,
        reference: object | None = None,
        requirements: Sequence[str] | None = None,
        refuse_missing: bool | None = None,
        compile: bool = True,  # noqa: A002
        python: str | None = None,
        kind: str | None = None,
        source: Path | str | None = None,
        class_name: str | None = None,
        arguments: Mapping[str, object] | None = None,
        sandboxed: bool = True,
        metrics: Mapping[str, float] | None = None,
        parameters: Mapping[str, str] | None = None,
        dataset: str = "",
        uses: Sequence[str] = (),
        experiment: str = "Default",
        business_function: str | None = None,
        criticality: str | None = None,
        description: str = "",
        template: str = "",
        code: Sequence[Path | str] = (),
        tags: Mapping[str, str] | None = None,
        wait: bool = False,
    ) -> Version:
        """Save a trained model and register it as a new version.

        model: an estimator or network of a known framework, any object with
        `predict(dict of arrays) -> dict of arrays`, or the path of a saved model (see
        docs/frameworks.md). example, reference, requirements, refuse_missing, kind, source,
        class_name, arguments, sandboxed: see `saving.save`. team: creates the model if it is
        new, with `business_function`, `criticality`, `description` and the team's `template`.
        code: source files and folders that are kept beside the version, with the commit of their
        repository. compile: may it serve as ONNX, where that is proven equal and faster? wait:
        until it was checked and compiled; on a terminal, what is being done is shown meanwhile.
        """
        from modelfleet.client.saving import save

        with tempfile.TemporaryDirectory(prefix="modelfleet-save-") as work:
            with Line(name) as line:
                saved = save(
                    model,
                    example,
                    features=features,
                    reference=reference,
                    requirements=requirements,
                    python=python,
                    refuse_missing=refuse_missing,
                    kind=kind,
                    source=source,
                    class_name=class_name,
                    arguments=arguments,
                    sandboxed=sandboxed,
                    tell=line.say,
                    work=Path(work),
                )
            if team is not None:
                self.ensure_model(
                    name,
                    team=team,
                    business_function=business_function,
                    criticality=criticality,
                    description=description,
                    template=template,
                )
            return self.register_files(
                name,
                saved.files,
                requirements=saved.requirements,
                python=saved.python,
                compile=compile,
                version=version,
                metrics=metrics,
                parameters=parameters,
                dataset=dataset,
                uses=uses,
                experiment=experiment,
                code=code,
                tags=tags,
                wait=wait,
            )

    def register_folder(
        self,
        name: str,
        folder: Path,
        *,
        requirements: Sequence[str],
        python: str,
        compile: bool = True,  # noqa: A002
        version: str | None = None,
        code: Sequence[Path | str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Register a folder that holds a `bundle.json` and what it names."""
        files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        if "bundle.json" not in files:
            raise ClientError(f"{folder} has no bundle.json.")
        return self.register_files(
            name,
            files,
            requirements=requirements,
            python=python,
            compile=compile,
            version=version,
            code=code,
            tags=tags,
        )

    def register_files(
        self,
        name: str,
        files: Mapping[str, bytes | Path],
        *,
        requirements: Sequence[str],
        python: str,
        compile: bool = True,  # noqa: A002
        version: str | None = None,
        metrics: Mapping[str, float] | None = None,
        parameters: Mapping[str, str] | None = None,
        dataset: str = "",
        uses: Sequence[str] = (),
        experiment: str = "Default",
        code: Sequence[Path | str] = (),
        sequence: int | None = None,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        source_uri: str = "",
        wait: bool = False,
    ) -> Version:
        """Upload the files that the server lacks, then register them as one version.

        Without a `bundle.json` they are registered as they are, if there is an `MLmodel` or a
        `source_uri`; with no files at all it names where they stay. sequence: a version number to
        keep, above all that the model has given. run_id: of the run that made it, if it is known.
        """
        snapshot, sources = snapshot_of(code)
        entries = []
        for path, content in files.items():
            sha256, size = digest_of(content)
            self.upload(sha256, content)
            entries.append({"path": path, "sha256": sha256, "size": size})
        for sha256, file in sources.items():
            self.upload(sha256, file)
        body = {
            "entries": entries,
            "requirements": list(requirements),
            "python": python,
            "compile": compile,
            "version": version,
            "experiment": experiment,
            "parameters": {k: str(v) for k, v in (parameters or {}).items()},
            "metrics": dict(metrics or {}),
            "dataset": dataset,
            "git_commit": snapshot.get("commit", ""),
            "code": snapshot or None,
            "uses": list(uses),
            "tags": dict(tags or {}),
            "description": description,
            "source_uri": source_uri,
        }
        asked = {"sequence": sequence, "run_id": run_id}
        body |= {key: value for key, value in asked.items() if value is not None}
        made = _as(Version, self.api.post(f"/v1/models/{name}/versions", body))
        return self.wait_until_ready(name, made.version) if wait else made

    def ensure_model(
        self,
        name: str,
        *,
        team: str,
        business_function: str | None = None,
        criticality: str | None = None,
        description: str = "",
        template: str = "",
    ) -> Model:
        """Create the model unless it is there already."""
        try:
            return self.create_model(
                name,
                team=team,
                business_function=business_function,
                criticality=criticality,
                description=description,
                template=template,
            )
        except ApiError as error:
            if error.status != 409:
                raise
        return self.model(name)

    def upload(self, sha256: str, content: bytes | Path) -> None:
        """Unless the server has it. Large files go in parts; a broken upload goes on."""
        try:
            self.api.call("HEAD", f"/v1/blobs/{sha256}")
        except ApiError as error:
            if error.status != 404:
                raise
            if isinstance(content, Path) and content.stat().st_size > PART:
                upload_file(self.api, sha256, content)
                return
            whole = content.read_bytes() if isinstance(content, Path) else content
            self.api.call("PUT", f"/v1/blobs/{sha256}", content=whole)

    def wait_until_ready(self, model: str, version: str, timeout: float = 1800.0) -> Version:
        """Raises `ClientError` with the reason if the version turns out unfit to serve."""
        end = time.monotonic() + timeout
        with Line(f"{model}@{version}") as line:
            while True:
                said = _as(VersionState, self.api.get(f"/v1/models/{model}/versions/{version}"))
                found = said.version
                if found.status == "ready":
                    return found
                if found.status == "failed":
                    raise ClientError(f"{model}@{found.version} can't be served: {found.reason}")
                if time.monotonic() > end:
                    raise ClientError(
                        f"{model}@{found.version} is not ready after {timeout:g} s. It goes on: "
                        f"modelfleet versions show {model} {found.version}"
                    )
                line.say(str(said.progress or "waiting for its turn"))
                time.sleep(0.25)

    def prepare(self, model: str, version: str, *, again: bool = False) -> Version:
        """Make a version ready that was only registered (by an MLflow client), and wait.

        again: also one that failed. Others are left as they are.
        """
        found = _as(VersionState, self.api.get(f"/v1/models/{model}/versions/{version}")).version
        if found.status != "registered" and not (again and found.status == "failed"):
            return found
        self.api.post(f"/v1/models/{model}/versions/{found.version}/prepare")
        return self.wait_until_ready(model, found.version)

    # Serving -----------------------------------------------------------------------------------

    def deploy(
        self,
        model: str,
        version: str = "latest",
        *,
        endpoint: str | None = None,
        strategy: str = "immediate",
        wait: bool = False,
        **spec: object,
    ) -> Rollout:
        """Roll a version out to the endpoint (by default named as the model; made if new)."""
        self.prepare(model, version)
        body = {"model": model, "version": version, "endpoint": endpoint or model}
        found = self.api.post("/v1/rollouts", {**body, "spec": {"strategy": strategy, **spec}})
        made = _as(Rollout, found)
        return self.wait_for_rollout(made.id) if wait else made

    def endpoints(self) -> list[Endpoint]:
        return _as(list[Endpoint], self.api.get("/v1/endpoints"))

    def rollouts(self, *, endpoint: str | None = None, limit: int = 100) -> list[Rollout]:
        """Newest first."""
        return _as(list[Rollout], self.api.get("/v1/rollouts", endpoint=endpoint, limit=limit))

    def rollout(self, rollout_id: str) -> Rollout:
        found = _as(dict[str, object], self.api.get(f"/v1/rollouts/{rollout_id}"))
        return _as(Rollout, found["rollout"])

    def wait_for_rollout(self, rollout_id: str, timeout: float = 3600.0) -> Rollout:
        end = time.monotonic() + timeout
        while True:
            found = self.rollout(rollout_id)
            if found.ended or found.state == "frozen":
                return found
            if time.monotonic() > end:
                raise ClientError(f"The rollout is still {found.state} after {timeout:g} s.")
            time.sleep(0.25)

    def steer(self, rollout_id: str, verb: str) -> Rollout:
        """`verb`: pause, resume or abort."""
        return _as(Rollout, self.api.post(f"/v1/rollouts/{rollout_id}/{verb}"))

    def predict(
        self,
        endpoint: str,
        inputs: object,
        *,
        version: str | None = None,
        datatypes: Mapping[str, str] | None = None,
    ) -> dict[str, object]:
        """Call an endpoint; `inputs` as the example of `register`. The protocol's answer.

        datatypes: of tensors, where the values alone don't tell (whole numbers for an FP64).
        """
        from modelfleet.client.tensors import encode

        if self._gateway is None:
            raise Unreachable("The gateway's address is not known: set MODELFLEET_GATEWAY_URL.")
        pin = f"/versions/{version}" if version else ""
        body = json.dumps(encode(inputs, datatypes)).encode()
        response = self._gateway.call(
            "POST",
            f"/v2/models/{endpoint}{pin}/infer",
            content=body,
            headers={"content-type": "application/json"},
        )
        return _as(dict[str, object], response.json())

    # Pipelines ---------------------------------------------------------------------------------

    def define_pipeline(
        self, definition: Mapping[str, object], *, wait: bool = False, timeout: float = 60.0
    ) -> Pipeline:
        """Make a pipeline or its next revision. wait: until it can be called (`predict`)."""
        found = _as(Pipeline, self.api.post("/v1/pipelines", definition))
        end = time.monotonic() + timeout
        while wait and not found.is_live:
            if time.monotonic() > end:
                raise ClientError(f"The pipeline {found.name} is not live after {timeout:g} s.")
            time.sleep(0.1)
            found = self.pipeline(found.name)
        return found

    def pipelines(self) -> list[Pipeline]:
        return _as(list[Pipeline], self.api.get("/v1/pipelines"))

    def pipeline(self, name: str) -> Pipeline:
        return _as(Pipeline, self.api.get(f"/v1/pipelines/{name}"))

    def delete_pipeline(self, name: str) -> None:
        self.api.delete(f"/v1/pipelines/{name}")

    # Evidence ----------------------------------------------------------------------------------

    def report_outcomes(self, outcomes: Iterable[Mapping[str, object]]) -> int:
        """Late labels: `{"prediction_id", "value", "event_time"?}` each. How many were taken."""
        lines = b"\n".join(msgspec.json.encode(dict(one)) for one in outcomes)
        response = self.api.call(
            "POST",
            "/v1/outcomes:batch",
            content=lines,
            headers={"content-type": "application/x-ndjson"},
        )
        return _as(dict[str, int], response.json())["accepted"]

    def alerts(self, *, state: str | None = None) -> list[Alert]:
        return _as(list[Alert], self.api.get("/v1/alerts", state=state))

    def fleet(self) -> Json:
        """The whole fleet in one answer: what the fleet page shows."""
        return _as(dict[str, object], self.api.get("/v1/fleet"))
