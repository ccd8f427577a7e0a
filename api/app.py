"""The application: the list of routers is the list of features."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import BoundedSemaphore

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from api import problems
from api.database import JobStore
from api.deps import NotModified, Service, not_modified
from api.gate import Gate
from api.jobs import choose_executor
from api.previews import PreviewMaker
from api.routes import clips, dashboard, datasets, health, jobs, statistics
from api.runner import Runner
from api.settings import VERSION, Settings
from api.tables import TableCache
from curation.clips import Lake

log = logging.getLogger(__name__)
ROUTERS = (health.router, jobs.router, datasets.router, statistics.router, clips.router, dashboard.router)


def create_app(settings: Settings) -> FastAPI:
    """The service over one lake. Jobs are supervised while the application runs. Raises WrongCall for a lake it cannot open."""
    lake = Lake(settings.data, settings.catalog)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = JobStore(settings.database)
        runner = Runner(store, choose_executor(settings), settings)
        previews = PreviewMaker(settings)
        app.state.service = Service(
            settings=settings, store=store, runner=runner, lake=lake,
            tables=TableCache(settings.table_cache_bytes), previews=previews,
            streams=BoundedSemaphore(settings.max_streams),
        )  # fmt: skip
        runner.start()
        yield
        runner.stop()
        previews.close()
        store.close()

    app = FastAPI(
        title="Cinemill", version=VERSION, lifespan=lifespan, openapi_url="/v1/openapi.json", docs_url=None,
        redoc_url=None, responses={"4XX": {"model": problems.Problem}, "5XX": {"model": problems.Problem}},
    )  # fmt: skip
    app.add_middleware(Gate, settings=settings)
    problems.install(app)
    app.add_exception_handler(NotModified, not_modified)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/dashboard", StaticFiles(directory=dashboard.FOLDER))
    return app
