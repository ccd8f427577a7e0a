"""Is the service there, and what does it serve."""

from fastapi import APIRouter
from pydantic import BaseModel

from api.deps import ServiceDep
from api.settings import VERSION
from curation.recipes import RECIPES

router = APIRouter(tags=["service"])


class Health(BaseModel):
    """What answers here, and what a job may name."""

    status: str
    version: str
    data: str
    executor: str
    roots: list[str]
    recipes: dict[str, str]


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
