"""Is the service there, can it work, and what does it serve."""

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from api.deps import ServiceDep
from api.settings import VERSION
from curation.recipes import RECIPES

router = APIRouter(tags=["service"])


class Alive(BaseModel):
    """That something answers."""

    status: str


class Health(BaseModel):
    """What answers here, and what a job may name."""

    status: str
    version: str
    data: str
    executor: str
    roots: list[str]
    recipes: dict[str, str]


@router.get("/healthz")
async def read_alive() -> Alive:
    """That the process answers at all: restart it where this fails."""
    return Alive(status="ok")


@router.get("/readyz", responses={503: {"description": "It answers, but its database or its lake does not."}})
def read_ready(here: ServiceDep) -> Alive:
    """That database and lake answer: send no requests here while this fails."""
    try:
        with here.store.engine.connect() as connection:
            connection.execute(select(1))
        here.lake.commits()  # empty while nothing was curated
    except (SQLAlchemyError, OSError):
        raise HTTPException(503, "the database or the catalog does not answer", {"retry-after": "5"}) from None
    return Alive(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def read_metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/health")
def read_health(here: ServiceDep) -> Health:
    """Cheap, and right as soon as the service answers."""
    return Health(
        status="ok",
        version=VERSION,
        data=here.settings.data,
        executor=here.runner.executor.name,
        roots=list(here.settings.allowed_roots),
        recipes={name: make().description for name, make in RECIPES.items()},
    )
