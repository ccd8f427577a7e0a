"""Submit a job, watch it, stop it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.commands import writes
from api.database import ENDED, STATES, Job, JobStore, SpecConflict, TooManyJobs
from api.deps import CallerDep, JobDep, Service, ServiceDep
from api.requests import KINDS, EstimateRequest, JobRequest, checked
from api.roots import OutsideRoots
from api.streams import Streams
from curation.clips.errors import WrongCall

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
PING_SECONDS = 15.0
LOOK_SECONDS = 0.2


class JobView(BaseModel):
    """A job as it stands."""

    id: str
    kind: str
    request: dict[str, Any]
    owner: str
    priority: int
    state: str
    cancel_requested: bool
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    executor: str | None
    pid: int | None
    heartbeat_at: datetime | None = Field(description="the last sign of the service that supervises it")
    retry_at: datetime | None = Field(description="when a job that failed through no fault of its own is tried again")
    progress: dict[str, Any]
    counters: dict[str, dict[str, Any]] = Field(
        description="by stage: in, out, rejected by reason, bytes, seconds, cpu_seconds, gpu_seconds, cost; what is known"
    )
    error: str | None
    error_class: str | None = Field(description="user, infrastructure (tried again) or failure")
    snapshot: int | None
    result: dict[str, Any] | None


def view(job: Job) -> JobView:
    def moment(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    waits = job.state == "queued" and job.not_before > 0
    return JobView(
        id=job.id, kind=job.kind, request=job.asked, owner=job.owner, priority=job.priority, state=job.state,
        cancel_requested=job.cancel_requested is not None, attempts=job.attempts,
        created_at=datetime.fromtimestamp(job.created_at, UTC), started_at=moment(job.started_at),
        finished_at=moment(job.finished_at), executor=job.executor, pid=job.pid, heartbeat_at=moment(job.heartbeat_at),
        retry_at=moment(job.not_before) if waits else None, progress=json.loads(job.progress),
        counters=json.loads(job.counters), error=job.error, error_class=job.error_class, snapshot=job.snapshot,
        result=None if job.result is None else json.loads(job.result),
    )  # fmt: skip


Key = Annotated[str | None, Header(alias="idempotency-key", min_length=1, max_length=200)]


SUBMITTED: dict[int | str, dict[str, Any]] = {200: {"model": JobView}, 403: {}, 409: {}, 429: {}}


@router.post("", status_code=201, responses=SUBMITTED)
def submit_job(
    asked: JobRequest, here: ServiceDep, response: Response, caller: CallerDep, idempotency_key: Key = None
) -> JobView:
    """201 with a new job; 200 with the one that this Idempotency-Key made before, 409 if it asked for something else."""
    return submit(asked, here, response, caller.owner, idempotency_key)


@router.post("/estimate", status_code=201, responses=SUBMITTED)
def estimate_job(
    asked: EstimateRequest, here: ServiceDep, response: Response, caller: CallerDep, idempotency_key: Key = None
) -> JobView:
    """What curating this would take: a job of its own, whose result has CPU-hours, hours and cost with 95 % intervals."""
    return submit(asked, here, response, caller.owner, idempotency_key)


def submit(asked: Any, here: Service, response: Response, owner: str, key: str | None) -> JobView:
    """Check, submit, wake the runner; problems become HTTP errors."""
    try:
        request = checked(asked, here.settings, here.lake)
    except OutsideRoots as error:
        raise HTTPException(403, str(error)) from None
    except (WrongCall, ValueError) as error:
        raise HTTPException(422, str(error)) from None
    try:
        job, is_new = here.store.submit(
            request.kind, request.model_dump(exclude={"kind"}), key, owner=owner, priority=request.priority,
            writes=writes(request, here.settings), max_waiting=here.settings.max_waiting_per_owner,
        )  # fmt: skip
    except SpecConflict as error:
        raise HTTPException(409, str(error)) from None
    except TooManyJobs as error:
        raise HTTPException(429, str(error), {"retry-after": "60"}) from None
    here.runner.wake()
    response.status_code = 201 if is_new else 200
    response.headers["location"] = f"/v1/jobs/{job.id}"
    return view(job)


@router.get("")
def list_jobs(
    here: ServiceDep,
    state: Annotated[list[str] | None, Query(max_length=len(STATES))] = None,
    kind: Annotated[list[str] | None, Query(max_length=20)] = None,
    owner: Annotated[str, Query(max_length=200, description="whose; everybody's by default")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[JobView]:
    """The newest first."""
    wrong = set(state or ()) - set(STATES)
    if wrong:
        raise HTTPException(422, f"state={min(wrong)!r}: there are {', '.join(STATES)}")
    if strange := set(kind or ()) - set(KINDS):
        raise HTTPException(422, f"kind={min(strange)!r}: there are {', '.join(KINDS)}")
    return [view(job) for job in here.store.jobs(state or STATES, limit, owner=[owner] if owner else None, kind=kind)]


@router.get("/{job_id}")
def read_job(job: JobDep) -> JobView:
    return view(job)


@router.post("/{job_id}/cancel", status_code=202)
def cancel_job(job: JobDep, here: ServiceDep, caller: CallerDep) -> JobView:
    """Stops at once what waits; asks what runs to stop, and insists later. 409 if it is over already, 403 if it is another's."""
    if not caller.may_change(job.owner):
        raise HTTPException(403, f"job {job.id} is {job.owner}'s; its owner or an admin may cancel it")
    if job.state in ENDED:
        raise HTTPException(409, f"job {job.id} is over: it {'was ' * (job.state == 'cancelled')}{job.state}")
    here.runner.cancel(job)
    return view(here.store.get(job.id) or job)


@router.get(
    "/{job_id}/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}}
)
async def follow_job(
    job: JobDep,
    here: ServiceDep,
    caller: CallerDep,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**62)] = None,
) -> StreamingResponse:
    """Server-sent events from the beginning, or after Last-Event-ID; ends when the job has ended and all was sent."""
    if not here.streams.take(caller.owner):
        most, own = here.settings.max_streams, here.settings.max_streams_per_owner
        detail = f"{own} streams of {caller.owner}, or {most} of all, are open; close one, or try again"
        raise HTTPException(503, detail, {"retry-after": "5"})
    return EventStream(here.streams, caller.owner, _events(job.id, here, last_event_id or 0))


class EventStream(StreamingResponse):
    """Server-sent events that give their place back however the connection ends, even before the first byte."""

    def __init__(self, streams: Streams, owner: str, events: AsyncIterator[bytes]):
        super().__init__(events, media_type="text/event-stream")
        self.streams, self.owner = streams, owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.streams.give_back(self.owner)


async def _events(job_id: str, here: Service, after: int) -> AsyncIterator[bytes]:
    spoke_at = time.monotonic()
    while not here.streams.are_ending:
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


def _look(store: JobStore, job_id: str, after: int) -> tuple[bool, list[tuple[int, str, str]]]:
    """Whether it is over, asked before the events are read: the last event is then among them, now or before."""
    job = store.get(job_id)
    is_over = job is None or job.state in ENDED
    return is_over, [
        (event.id, event.kind, json.dumps({"time": round(event.time, 3), **json.loads(event.data)}))
        for event in store.events(job_id, after)
    ]
