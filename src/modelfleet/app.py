"""The control plane: all faces in one application, the reconciler and the jobs beside it."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # what is imported is no garbage; looking for it is a fifth of the start

from fastapi import FastAPI

from modelfleet import __version__, web
from modelfleet.api import (
    approvals,
    base,
    batches,
    collaboration,
    datasets,
    evidence,
    gates,
    health,
    identity,
    lineage,
    pipelines,
    quarantine,
    registry,
    rollouts,
    serving,
    standing,
    tracking,
    training,
    tuning,
    webhooks,
)
from modelfleet.api import fleet as fleet_files
from modelfleet.client.transport import ports_of
from modelfleet.compat import mlflow
from modelfleet.core.errors import Conflict, FleetError
from modelfleet.core.files import hold
from modelfleet.core.logs import configure as configure_logs
from modelfleet.core.settings import Settings, load_settings
from modelfleet.wiring import Fleet, build


def create_app(fleet: Fleet) -> FastAPI:
    """The application over a built fleet. Its lifespan starts and stops the fleet's threads."""
    app = FastAPI(
        title="modelfleet",
        version=__version__,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    app.state.fleet = fleet
    base.install(app)
    for module in (
        registry,
        standing,
        collaboration,
        lineage,
        gates,
        datasets,
        webhooks,
        tracking,
        serving,
        rollouts,
        approvals,
        tuning,
        batches,
        training,
        pipelines,
        quarantine,
        evidence,
        fleet_files,
        identity,
        health,
    ):
        app.include_router(module.router)
    web.install(app)
    app.add_middleware(mlflow.wrap, fleet=fleet)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    fleet: Fleet = app.state.fleet
    fleet.jobs.start()
    fleet.reconciler.start()
    fleet.dispatcher.start()
    yield
    fleet.dispatcher.stop()
    fleet.reconciler.stop()
    fleet.training.close()
    fleet.jobs.stop()
    fleet.converters.close()
    fleet.batches.close()
    fleet.database.close()


def main() -> None:
    import uvicorn

    gc.freeze()
    gc.enable()
    parser = argparse.ArgumentParser(prog="modelfleet.app")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, help="another one than that of `modelfleet up`")
    given = parser.parse_args()
    configure_logs()
    try:
        settings = load_settings(given.home)
        with _alone(settings):
            fleet = build(settings)
            fleet.identity.bootstrap(fleet.layout)
            port = given.port or ports_of(settings.home)["api"]
            fleet.membership.address = f"http://{settings.host}:{port}"
            uvicorn.run(
                create_app(fleet),
                host=settings.host,
                port=port,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=5,
            )
    except FleetError as error:
        sys.stderr.write(f"modelfleet: {error.message} {error.hint}\n")
        sys.exit(error.exit_code)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """SQLite has one control plane: with two of them, each would take the other for dead."""
    if settings.database.url:
        yield
        return
    held = hold(settings.layout.control_plane_lock)
    if held is None:
        raise Conflict(
            f"A control plane of {settings.home} runs already.",
            hint="For several of them, use PostgreSQL (database.url).",
        )
    try:
        yield
    finally:
        os.close(held)


if __name__ == "__main__":
    main()
