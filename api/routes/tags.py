"""Tags: names that people give to snapshots, which reads and commands take and expiry keeps."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from api.deps import NAME, TAG, LakeDep, choose_snapshot
from curation.clips import Lake, UnknownSnapshot
from curation.clips.commits import Tag

router = APIRouter(prefix="/v1/datasets/{name}/tags", tags=["data sets"])
Dataset = Annotated[str, Path(pattern=NAME)]


class TagView(BaseModel):
    """A name of a snapshot. snapshot: its number, which `snapshot=` takes as well."""

    dataset: str
    name: str
    snapshot: int
    created_at: datetime


class TagRequest(BaseModel):
    """The name to give, and the number of the snapshot to give it to."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(pattern=TAG)
    snapshot: int = Field(ge=0, lt=2**31)


def _view(tag: Tag) -> TagView:
    return TagView(dataset=tag.dataset, name=tag.name, snapshot=tag.number, created_at=tag.created_at)


def _tags(lake: Lake, name: str) -> list[Tag]:
    return [tag for tag in lake.log.tags() if tag.dataset == name]


@router.get("")
def list_tags(lake: LakeDep, name: Dataset) -> list[TagView]:
    """By name."""
    if name not in lake.datasets():
        raise HTTPException(404, f"no data set {name!r}; GET /v1/datasets lists them")
    return [_view(tag) for tag in _tags(lake, name)]


@router.post("", status_code=201, responses={200: {"model": TagView}})
def create_tag(lake: LakeDep, name: Dataset, asked: TagRequest, response: Response) -> TagView:
    """Name a snapshot. Saying it again is answered 200; a tag never moves, so a name that another snapshot has is 409."""
    found = choose_snapshot(lake, name, asked.snapshot, None)
    if any(tag.name == asked.name for tag in _tags(lake, name)):
        response.status_code = 200  # unless it is another snapshot's, which the lake refuses
    return _view(lake.tag(found, asked.name))


@router.delete("/{tag}", status_code=204)
def delete_tag(lake: LakeDep, name: Dataset, tag: Annotated[str, Path(pattern=TAG)]) -> None:
    """Take a name away; its snapshot stays, until expiry takes it."""
    try:
        lake.log.untag(name, tag)
    except UnknownSnapshot as error:
        raise HTTPException(404, f"{error}; GET /v1/datasets/{name}/tags lists them") from None
