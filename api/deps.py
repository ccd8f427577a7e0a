"""What routes ask for by name: found, or answered with where to look."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Path, Query, Request, Response

from api.audit import AuditLog
from api.auth import Caller, TokenStore
from api.database import Job, JobStore
from api.previews import PreviewMaker
from api.runner import Runner
from api.settings import VERSION, Settings
from api.streams import Streams
from api.tables import TableCache, Views
from api.texts import TextDoors
from api.vectors import VectorSearch
from curation.clips import Lake, Snapshot, UnknownSnapshot
from curation.clips.commits import TAG_NAME

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""Names of data sets and recipes: nothing that could be read as a path or an option."""
TAG = rf"^{TAG_NAME.pattern}$"
Number = Annotated[int | None, Query(ge=0, lt=2**31)]
TagQuery = Annotated[str | None, Query(pattern=TAG, description="the snapshot that has this tag")]


@dataclass(frozen=True, kw_only=True)
class Service:
    """Everything that lives as long as the service."""

    settings: Settings
    store: JobStore
    runner: Runner
    lake: Lake
    tokens: TokenStore
    audit: AuditLog
    views: Views
    tables: TableCache
    vectors: VectorSearch
    texts: TextDoors
    previews: PreviewMaker
    streams: Streams


def service(request: Request) -> Service:
    return request.app.state.service


ServiceDep = Annotated[Service, Depends(service)]


def caller(request: Request) -> Caller:
    """Whom the request was let in as."""
    found: Caller = request.state.caller
    return found


CallerDep = Annotated[Caller, Depends(caller)]


def find_lake(here: ServiceDep) -> Lake:
    """The lake, or 404 while nothing was curated into it yet."""
    if not Lake.exists(here.settings.data, here.settings.catalog):
        raise HTTPException(404, f"nothing was curated into {here.settings.data} yet; POST /v1/jobs starts a job")
    return here.lake


LakeDep = Annotated[Lake, Depends(find_lake)]


def find_snapshot(
    lake: LakeDep,
    request: Request,
    response: Response,
    name: Annotated[str, Path(pattern=NAME)],
    snapshot: Number = None,
    tag: TagQuery = None,
) -> Snapshot:
    """The snapshot asked for, the newest by default. Its number is the entity tag: what it answers never changes."""
    found = choose_snapshot(lake, name, snapshot, tag)
    tell_snapshot(found, request, response)
    return found


def tell_snapshot(found: Snapshot, request: Request, response: Response) -> None:
    """Set the entity tag of an answer that follows from a snapshot; raises NotModified for who has it already."""
    tag = f'"{found.dataset}@{found.number}-{VERSION}"'
    caching = {"etag": tag, "cache-control": "private, no-cache", "vary": "accept, accept-encoding"}
    if request.method in ("GET", "HEAD") and tag in re.split(r"\s*,\s*", request.headers.get("if-none-match", "")):
        raise NotModified(caching)
    response.headers.update(caching)


def choose_snapshot(lake: Lake, name: str, number: int | None, tag: str | None) -> Snapshot:
    """A snapshot by its number, its tag, or both where they agree; else the newest. Raises 404 and 422."""
    if name not in lake.datasets():
        raise HTTPException(404, f"no data set {name!r}; GET /v1/datasets lists them")
    try:
        found = lake.snapshot(name, number)
    except UnknownSnapshot as error:
        raise HTTPException(404, f"{error}; GET /v1/datasets/{name}/snapshots lists them") from None
    if tag is None:
        return found
    try:
        tagged = lake.snapshot(name, tag)
    except UnknownSnapshot as error:
        raise HTTPException(404, f"{error}; GET /v1/datasets/{name}/tags lists them") from None
    if number not in (None, tagged.number):
        raise HTTPException(422, f"tag={tag} is snapshot {tagged.number}, not {number}; ask for one of them")
    return tagged


class NotModified(Exception):
    """The caller already has this answer."""

    def __init__(self, headers: dict[str, str]):
        super().__init__(headers)
        self.headers = headers


def not_modified(_request: Request, error: Exception) -> Response:
    assert isinstance(error, NotModified)
    return Response(status_code=304, headers=error.headers)


SnapshotDep = Annotated[Snapshot, Depends(find_snapshot)]


def find_job(here: ServiceDep, job_id: str) -> Job:
    if job := here.store.get(job_id):
        return job
    raise HTTPException(404, f"no job {job_id[:40]!r}; GET /v1/jobs lists them")


JobDep = Annotated[Job, Depends(find_job)]
