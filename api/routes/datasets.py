"""Data sets, their snapshots, their rows, and the files a snapshot is made of."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel

from api.deps import NAME, LakeDep, ServiceDep, SnapshotDep
from api.pages import BadPage, plain, read_page
from api.tables import TableName
from curation.clips import Commit, Lake
from curation.clips.schema import TABLES

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])


class SnapshotView(BaseModel):
    """One commit of a data set."""

    number: int
    dataset: str
    created_at: datetime
    recipe_hash: str
    code_version: str
    counts: dict[str, Any]


class DatasetView(BaseModel):
    """A data set by its newest snapshot."""

    name: str
    snapshots: int
    newest: SnapshotView


class Rows(BaseModel):
    """One page of a table. `next` is the cursor of the page after it; null on the last."""

    dataset: str
    snapshot: int
    table: str
    matching: int
    rows: list[dict[str, Any]]
    next: str | None


class Files(BaseModel):
    """Exactly the Parquet files of a snapshot, by table: the way for pandas, DuckDB, Spark and Ray Data."""

    dataset: str
    snapshot: int
    files: dict[str, list[str]]


def view(commit: Commit) -> SnapshotView:
    return SnapshotView(
        number=commit.number, dataset=commit.dataset, created_at=commit.created_at, recipe_hash=commit.recipe_hash,
        code_version=commit.code_version, counts=commit.counts,
    )  # fmt: skip


@router.get("")
def list_datasets(here: ServiceDep) -> list[DatasetView]:
    """An empty list while nothing was curated."""
    by_name: dict[str, list[Commit]] = {}
    for commit in here.lake.commits() if Lake.exists(here.settings.data) else []:
        by_name.setdefault(commit.dataset, []).append(commit)
    return [
        DatasetView(name=name, snapshots=len(commits), newest=view(commits[-1]))
        for name, commits in sorted(by_name.items())
    ]


@router.get("/{name}/snapshots")
def list_snapshots(lake: LakeDep, name: Annotated[str, Path(pattern=NAME)]) -> list[SnapshotView]:
    """The newest first."""
    commits = lake.commits(name)
    if not commits:
        raise HTTPException(404, f"no data set {name!r}; GET /v1/datasets lists them")
    return [view(commit) for commit in reversed(commits)]


@router.get("/{name}/rows")
def read_rows(
    found: SnapshotDep,
    here: ServiceDep,
    table: TableName = "ledger",
    kind: Annotated[str | None, Query(max_length=20)] = None,
    fate: Annotated[str | None, Query(max_length=20)] = None,
    stage: Annotated[str | None, Query(max_length=100)] = None,
    rule: Annotated[str | None, Query(max_length=200)] = None,
    video_id: Annotated[str | None, Query(max_length=64)] = None,
    order: Annotated[str | None, Query(max_length=100, description="a number column; - before it reverses")] = None,
    after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Rows:
    """Rows in a fixed order, a page at a time; the cursor in `next` stays right for ever, because snapshots never change."""
    asked = {"kind": kind, "fate": fate, "stage": stage, "rule": rule, "video_id": video_id}
    where = {column: value for column, value in asked.items() if value is not None}
    try:
        page = read_page(here.tables.get(found, table), f"{found.name}/{table}", where, order, after, limit)
    except BadPage as error:
        raise HTTPException(422, str(error)) from None
    return Rows(
        dataset=found.dataset,
        snapshot=found.number,
        table=table,
        matching=page.matching,
        rows=page.rows,
        next=page.next,
    )


@router.get("/{name}/files")
def list_files(found: SnapshotDep) -> Files:
    return Files(dataset=found.dataset, snapshot=found.number, files={table: found.files(table) for table in TABLES})


@router.get("/{name}/recipe")
def read_recipe(found: SnapshotDep) -> dict[str, Any]:
    """The recipe this snapshot was made with, as it was then."""
    return plain(found.commit.recipe)
