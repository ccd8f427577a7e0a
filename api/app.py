"""The application: the list of routers is the list of features."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

from api import problems
from api.audit import AuditLog
from api.auth import TokenStore
from api.auth_gate import COOKIE, Access
from api.auth_scopes import needs
from api.database import JobStore
from api.deps import NotModified, Service, not_modified
from api.gate import Bodies, Gate
from api.iceberg import NoSuch, no_such
from api.jobs import choose_executor
from api.metrics import Metrics
from api.previews import PreviewMaker
from api.query import QueryEngine
from api.routes import (
    clips,
    clusters,
    dashboard,
    datasets,
    diff,
    health,
    iceberg,
    jobs,
    recipes,
    runs,
    search,
    statistics,
    tags,
    tokens,
)  # fmt: skip
from api.runner import Runner
from api.settings import VERSION, Settings
from api.streams import Streams
from api.tables import TableCache, Views
from api.texts import TextDoors
from api.tracing import Tracing
from api.vectors import VectorSearch
from curation.clips import Lake

ROUTERS = (
    health.router, tokens.router, jobs.router, recipes.router, datasets.router, diff.router, tags.router,
    statistics.router, clips.router, search.router, clusters.router, runs.router, iceberg.router, dashboard.router,
)  # fmt: skip


class Gzip(GZipMiddleware):
    """Not for pictures and video: they are compressed, and a range of them is a range of the file."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith((".mp4", ".webp", ".png")):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> FastAPI:
    """The service over one lake. Jobs are supervised while the application runs. Raises WrongCall for a lake it cannot open."""
    lake = Lake(settings.data, settings.catalog)
    metrics = Metrics()
    streams = Streams(settings.max_streams, settings.max_streams_per_owner)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = JobStore(settings.database)
        runner = Runner(store, choose_executor(settings), settings)
        previews = PreviewMaker(settings)
        engine = QueryEngine(settings)
        views = Views(engine)
        metrics.watch(store.engine)
        app.state.service = Service(
            settings=settings, store=store, runner=runner, lake=lake, tokens=TokenStore(store.engine),
            audit=AuditLog(store.engine), views=views, tables=TableCache(settings.table_cache_bytes),
            vectors=VectorSearch(views, settings), texts=TextDoors(), previews=previews,
            streams=streams,
        )  # fmt: skip
        runner.start()
        yield
        runner.stop()
        previews.close()
        engine.close()
        store.close()

    app = FastAPI(
        title="Cinemill", version=VERSION, lifespan=lifespan, openapi_url="/v1/openapi.json", docs_url=None,
        redoc_url=None, responses={"4XX": {"model": problems.Problem}}, generate_unique_id_function=_operation_id,
    )  # fmt: skip
    app.state.metrics = metrics
    app.state.streams = streams
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]  # FastAPI's own way to change the document
    app.add_middleware(Bodies)  # the last one added is the outermost
    app.add_middleware(Access, settings=settings)
    # of numbers level 9 saves an eighth and costs 13 times as much
    app.add_middleware(Gzip, minimum_size=1000, compresslevel=1)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Tracing, metrics=metrics)
    problems.install(app)
    app.add_exception_handler(NotModified, not_modified)
    app.add_exception_handler(NoSuch, no_such)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/dashboard", StaticFiles(directory=dashboard.FOLDER))
    return app


def _operation_id(route: APIRoute) -> str:
    """The name of the function: stable while it keeps its name, and what a generated client calls it."""
    return route.name


def _document(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 with problems as errors, and the scope that each operation asks for. The version is not the package's,
    so that the document changes only when the interface does."""
    if app.openapi_schema is None:
        document = problems.describe(get_openapi(title=app.title, version="1", routes=app.routes))
        document["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
        }
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                need = needs(method.upper(), path)
                operation["security"] = [] if need == "public" else [{"token": [need]}, {"session": [need]}]
        app.openapi_schema = document
    return app.openapi_schema
