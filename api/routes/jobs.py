"""Submit a job, watch it, stop it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, HTTPException, Query, Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api.database import ENDED, STATES, Job, JobStore, SpecConflict
from api.deps import NAME, JobDep, Service, ServiceDep
from api.roots import OutsideRoots, allowed_source
from curation.clips.errors import WrongCall
from curation.recipes import load_recipe

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
PING_SECONDS = 15.0
LOOK_SECONDS = 0.2


class JobRequest(BaseModel):
    """Footage to curate into a data set of this service's lake."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["curate"] = "curate"
    sources: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(min_length=1, max_length=1000)
    recipe: str = Field("demo", min_length=1, max_length=4096, description="a recipe's name, or its YAML or TOML file")
    dataset: str | None = Field(None, pattern=NAME, description="default: the recipe's name")
    limit: int | None = Field(None, ge=1, le=10**9, description="at most so many new videos")


class JobView(BaseModel):
    """A job as it stands."""

    id: str
    kind: str
    request: dict[str, Any]
    state: str
    cancel_requested: bool
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    executor: str | None
    pid: int | None
    progress: dict[str, Any]
    error: str | None
    snapshot: int | None


def view(job: Job) -> JobView:
    def moment(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    return JobView(
        id=job.id, kind=job.kind, request=job.asked, state=job.state, cancel_requested=job.cancel_requested is not None,
        attempts=job.attempts, created_at=datetime.fromtimestamp(job.created_at, UTC), started_at=moment(job.started_at),
        finished_at=moment(job.finished_at), executor=job.executor, pid=job.pid, progress=json.loads(job.progress),
        error=job.error, snapshot=job.snapshot,
    )  # fmt: skip


@router.post("", status_code=201, responses={200: {"model": JobView}, 403: {}, 409: {}})
def submit_job(
    asked: JobRequest,
    here: ServiceDep,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> JobView:
    """201 with a new job; 200 with the one that this Idempotency-Key made before, 409 if it asked for something else."""
    roots = here.settings.allowed_roots
    try:
        sources = [allowed_source(source, roots) for source in asked.sources]
        recipe = asked.recipe
        if "/" in recipe or Path(recipe).suffix in (".yaml", ".yml", ".toml"):
            recipe = allowed_source(recipe, roots)
        load_recipe(recipe)
    except OutsideRoots as error:
        raise HTTPException(403, str(error)) from None
    except (WrongCall, ValueError) as error:
        raise HTTPException(422, str(error)) from None
    request = {**asked.model_dump(exclude={"kind"}), "sources": sources, "recipe": recipe}
    try:
        job, is_new = here.store.submit(asked.kind, request, idempotency_key)
    except SpecConflict as error:
        raise HTTPException(409, str(error)) from None
    here.runner.wake()
    response.status_code = 201 if is_new else 200
    response.headers["location"] = f"/v1/jobs/{job.id}"
    return view(job)


@router.get("")
def list_jobs(
    here: ServiceDep,
    state: Annotated[list[str] | None, Query(max_length=len(STATES))] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[JobView]:
    """The newest first."""
    wrong = set(state or ()) - set(STATES)
    if wrong:
        raise HTTPException(422, f"state={min(wrong)!r}: there are {', '.join(STATES)}")
    return [view(job) for job in here.store.jobs(state or STATES, limit)]


@router.get("/{job_id}")
def read_job(job: JobDep) -> JobView:
    return view(job)


@router.post("/{job_id}/cancel", status_code=202)
def cancel_job(job: JobDep, here: ServiceDep) -> JobView:
    """Stops at once what waits; asks what runs to stop, and insists later. 409 if it is over already."""
    if job.state in ENDED:
        raise HTTPException(409, f"job {job.id} is over: it {'was ' * (job.state == 'cancelled')}{job.state}")
    here.runner.cancel(job)
    return view(here.store.get(job.id) or job)


@router.get(
    "/{job_id}/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}}
)
async def follow_job(
    job: JobDep, here: ServiceDep, last_event_id: Annotated[int | None, Header(ge=0, lt=2**62)] = None
) -> StreamingResponse:
    """Server-sent events from the beginning, or after Last-Event-ID; ends when the job has ended and all was sent."""
    if not here.streams.acquire(blocking=False):
        raise HTTPException(503, f"{here.settings.max_streams} streams are open; try again", {"retry-after": "5"})
    return StreamingResponse(_events(job.id, here, last_event_id or 0), media_type="text/event-stream")


async def _events(job_id: str, here: Service, after: int) -> AsyncIterator[bytes]:
    spoke_at = time.monotonic()
    try:
        while True:
            is_over, found = await run_in_threadpool(_look, here.store, job_id, after)
            for event_id, kind, data in found:
                after = event_id
                yield format_sse_event(data_str=data, event=kind, id=str(event_id))
            if found:
                spoke_at = time.monotonic()
            elif is_over:
                return
            elif time.monotonic() - spoke_at > PING_SECONDS:
                spoke_at = time.monotonic()
                yield format_sse_event(comment="still here")
            else:
                await asyncio.sleep(LOOK_SECONDS)
    finally:
        here.streams.release()


def _look(store: JobStore, job_id: str, after: int) -> tuple[bool, list[tuple[int, str, str]]]:
    """Whether it is over, asked before the events are read: the last event is then among them, now or before."""
    job = store.get(job_id)
    is_over = job is None or job.state in ENDED
    return is_over, [
        (event.id, event.kind, json.dumps({"time": round(event.time, 3), **json.loads(event.data)}))
        for event in store.events(job_id, after)
    ]
