"""Recipes: what there is, what one may say, and whether one is right."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel, ConfigDict

from api.deps import NAME
from api.pages import plain
from curation.clips import WrongCall
from curation.recipes import RECIPES, Recipe, parse_recipe

router = APIRouter(prefix="/v1/recipes", tags=["recipes"])


class RecipeView(BaseModel):
    """A recipe that comes with this version, by its name."""

    name: str
    description: str
    hash: str


class RecipeDraft(BaseModel):
    """A recipe as JSON; `GET /v1/recipes/schema` says what may be in it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    recipe: dict[str, Any]


class Verdict(BaseModel):
    """Whether a recipe is right. problem: what to change; hash and recipe: its name for ever and all its values, if it is right."""

    valid: bool
    problem: str | None
    hash: str | None
    recipe: dict[str, Any] | None


@router.get("")
def list_recipes() -> list[RecipeView]:
    """What comes with this version; files of your own lie in a folder that jobs may read."""
    made = {name: make() for name, make in RECIPES.items()}
    return [RecipeView(name=name, description=each.description, hash=each.hash) for name, each in made.items()]


@router.get("/schema")
def read_recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    return Recipe.model_json_schema()


@router.get("/{recipe}")
def show_recipe(recipe: Annotated[str, Path(pattern=NAME)]) -> dict[str, Any]:
    """All values of a recipe, with the source of each threshold."""
    if recipe not in RECIPES:
        raise HTTPException(404, f"no recipe {recipe!r}; GET /v1/recipes lists them")
    return plain(RECIPES[recipe]().model_dump(mode="json"))


@router.post("/validate")
def validate_recipe(asked: RecipeDraft) -> Verdict:
    """200 whether it is right or not; `problem` says what to change."""
    try:
        found = parse_recipe(asked.recipe, "this recipe")
    except (WrongCall, ValueError) as error:
        return Verdict(valid=False, problem=str(error), hash=None, recipe=None)
    return Verdict(valid=True, problem=None, hash=found.hash, recipe=plain(found.model_dump(mode="json")))
