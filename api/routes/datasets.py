"""Data sets, their snapshots, their rows, and the files a snapshot is made of."""

from datetime import datetime
from typing import Annotated, Any

import pyarrow.parquet as pq
from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.answers import DESCRIBED, Form, accepted, table_answer
from api.deps import NAME, CallerDep, LakeDep, Service, ServiceDep, SnapshotDep
from api.filters import BadFilter, Filter, equals
from api.pages import Asked, BadPage, plain, read_page
from api.requests import CurateRequest
from api.routes.jobs import JobView, Key, submit
from api.tables import TableName
from curation.clips import Commit, Snapshot
from curation.clips.schema import TABLES
from curation.clips.storage import filesystem
from curation.recipes import load_recipe

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])


def find_form(accept: Annotated[str | None, Header(include_in_schema=False)] = None) -> Form:
    return accepted(accept)


FormDep = Annotated[Form, Depends(find_form)]


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
    """One page of a table. `next` is the cursor of the page after it; null on the last. matching: how many rows all pages
    have, if that was asked; else null."""

    dataset: str
    snapshot: int
    table: str
    matching: int | None
    rows: list[dict[str, Any]]
    next: str | None


class FilterRequest(BaseModel):
    """A question to a table, for example
    `{"table": "clips", "where": {"all": [{"column": "fate", "is": "=", "value": "kept"}, {"not": {"column": "sharpness", "is": "<", "value": 20}}]}}`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    table: TableName = "clips"
    where: Filter | None = None
    columns: list[Annotated[str, Field(max_length=100)]] | None = Field(None, min_length=1, max_length=500)
    order: str | None = Field(None, max_length=100, description="a number column; - before it reverses")
    after: str | None = Field(None, max_length=8000, description="`next` of the page before")
    limit: int = Field(100, ge=1, le=1000)
    count: bool = Field(False, description="also count all matching rows")


class RetryRequest(BaseModel):
    """Which quarantined videos to try again; null for all (the first 1,000)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    uris: list[Annotated[str, Field(min_length=1, max_length=4096)]] | None = Field(None, min_length=1, max_length=1000)


class ParquetFile(BaseModel):
    """One file of a snapshot."""

    table: str
    uri: str
    rows: int
    bytes: int


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
    for commit in here.lake.commits():
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


def _page(
    found: Snapshot, here: Service, table: TableName, asked: Asked, after: str | None, limit: int, count: bool, form: Form,
    headers: dict[str, str],
) -> Any:  # fmt: skip
    try:
        page = read_page(here.views, here.views.open(found, table), asked, after, limit, count)
    except (BadPage, BadFilter) as error:
        raise HTTPException(422, str(error)) from None
    if form != "application/json":
        return table_answer(page, form, headers)
    return Rows(
        dataset=found.dataset,
        snapshot=found.number,
        table=table,
        matching=page.matching,
        rows=page.rows,
        next=page.next,
    )


@router.get("/{name}/rows", response_model=Rows, responses=DESCRIBED)
def read_rows(
    found: SnapshotDep,
    here: ServiceDep,
    form: FormDep,
    response: Response,
    table: TableName = "ledger",
    kind: Annotated[str | None, Query(max_length=20)] = None,
    fate: Annotated[str | None, Query(max_length=20)] = None,
    stage: Annotated[str | None, Query(max_length=100)] = None,
    rule: Annotated[str | None, Query(max_length=200)] = None,
    video_id: Annotated[str | None, Query(max_length=64)] = None,
    order: Annotated[str | None, Query(max_length=100, description="a number column; - before it reverses")] = None,
    after: Annotated[str | None, Query(max_length=8000, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    count: Annotated[bool, Query(description="also count all matching rows")] = False,
) -> Any:
    """Rows in a fixed order, a page at a time; the cursor in `next` stays right for ever, because snapshots never change."""
    asked = {"kind": kind, "fate": fate, "stage": stage, "rule": rule, "video_id": video_id}
    where = equals({column: value for column, value in asked.items() if value is not None})
    return _page(found, here, table, Asked(where=where, order=order), after, limit, count, form, dict(response.headers))


@router.post("/{name}/filter", response_model=Rows, responses=DESCRIBED)
def filter_rows(found: SnapshotDep, here: ServiceDep, form: FormDep, response: Response, asked: FilterRequest) -> Any:
    """Rows by a filter, and only the columns asked for."""
    question = Asked(
        where=asked.where, order=asked.order, columns=None if asked.columns is None else tuple(asked.columns)
    )
    return _page(
        found, here, asked.table, question, asked.after, asked.limit, asked.count, form, dict(response.headers)
    )


@router.get("/{name}/files")
def list_files(found: SnapshotDep) -> Files:
    """The paths alone, by table."""
    return Files(dataset=found.dataset, snapshot=found.number, files={table: found.files(table) for table in TABLES})


@router.get("/{name}/parquet")
def list_parquet(found: SnapshotDep) -> list[ParquetFile]:
    """Every Parquet file of the snapshot: the way for Spark, pandas and `datasets`, past this service."""
    told = []
    for table in TABLES:
        for uri in found.files(table):
            system, path = filesystem(uri)
            with system.open_input_file(path) as file:
                metadata = pq.read_metadata(file)
                told.append(ParquetFile(table=table, uri=uri, rows=metadata.num_rows, bytes=file.size()))
    return told


@router.get("/{name}/quarantine", response_model=Rows, responses=DESCRIBED)
def list_quarantine(
    found: SnapshotDep,
    here: ServiceDep,
    form: FormDep,
    response: Response,
    after: Annotated[str | None, Query(max_length=8000)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Any:
    """Videos that could not be read, each with its reason; `POST .../quarantine/retry` tries them again."""
    asked = Asked(where=equals({"fate": "quarantined"}))
    return _page(found, here, "videos", asked, after, limit, True, form, dict(response.headers))


@router.post("/{name}/quarantine/retry", status_code=201, responses={200: {"model": JobView}})
def retry_quarantine(
    lake: LakeDep,
    here: ServiceDep,
    name: Annotated[str, Path(pattern=NAME)],
    asked: RetryRequest,
    response: Response,
    caller: CallerDep,
    idempotency_key: Key = None,
) -> JobView:
    """A job that reads quarantined videos of the newest snapshot again, all or those named, under the recipe they had."""
    if name not in lake.datasets():
        raise HTTPException(404, f"no data set {name!r}; GET /v1/datasets lists them")
    found = lake.snapshot(name)
    quarantined = Asked(where=equals({"fate": "quarantined"}), columns=("uri",))
    page = read_page(here.views, here.views.open(found, "videos"), quarantined, None, 1000)
    uris = [row["uri"] for row in page.rows]
    if asked.uris is not None:
        if strange := sorted(set(asked.uris) - set(uris)):
            raise HTTPException(422, f"{strange[0][:300]!r} is not among the quarantined videos of {name}")
        uris = asked.uris
    if not uris:
        raise HTTPException(409, f"no video of {name} is quarantined")
    recipe = found.commit.recipe["name"]
    if load_recipe(recipe).hash != found.commit.recipe_hash:
        raise HTTPException(
            422, f"recipe {recipe!r} is not the one that {name} was made with; submit a job with its file"
        )
    again = CurateRequest.model_validate(
        {"sources": uris, "recipe": recipe, "dataset": name, "retry_quarantined": True}
    )
    return submit(again, here, response, caller.owner, idempotency_key)


@router.get("/{name}/recipe")
def read_recipe(found: SnapshotDep) -> dict[str, Any]:
    """The recipe this snapshot was made with, as it was then."""
    return plain(found.commit.recipe)
