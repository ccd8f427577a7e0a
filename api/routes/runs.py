"""Training runs: how far they are, what they learned, and what they make of the same captions while they learn."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel

from api import runs
from api.answers import DESCRIBED, table_answer
from api.deps import ServiceDep
from api.pages import Page, plain
from api.routes.datasets import FormDep
from api.runs import FoundRun, State

router = APIRouter(prefix="/v1/runs", tags=["runs"])
RUN_ID = r"^[0-9a-f]{16}$"
SAMPLE_ID = r"^[0-9a-f]{16}\.(png|mp4)$"
MEDIA = {".png": "image/png", ".mp4": "video/mp4"}
UNTOLD = ("event", "time", "pid", "excluded")  # of a start; `excluded` is told by its number


class RunView(BaseModel):
    """A training run. path: below the outputs folder. state: running while a process holds the folder; interrupted: stopped
    or killed before its last step. step: the last one logged. last_at: when its log was written last."""

    id: str
    path: str
    kind: str
    recipe_name: str
    snapshot: str
    state: State
    step: int | None
    steps: int | None
    created_at: datetime
    last_at: datetime | None


class Runs(BaseModel):
    """The newest first. `next` is `after` of the page after it; null on the last."""

    runs: list[RunView]
    next: str | None


class Start(BaseModel):
    """One start or restart: after which step, and with what data, workers and devices. excluded_clips: without a bucket."""

    event: str
    at: datetime | None
    at_step: int
    facts: dict[str, Any]
    excluded_clips: int


class CheckpointView(BaseModel):
    """A checkpoint that is still there. seconds: from the order to the commit; blocked_seconds: how long training stood
    still for it. is_there: null where it lies in a bucket, which is not asked."""

    step: int
    bytes: float | None
    seconds: float | None
    blocked_seconds: float | None
    written_at: datetime | None
    is_there: bool | None


class RunDetail(RunView):
    """Everything about a run but its curves. described: run.json but the recipe; why: of a run that stopped by itself;
    validation, evaluation: numbers of the last one."""

    recipe: dict[str, Any]
    described: dict[str, Any]
    why: str | None
    starts: list[Start]
    checkpoints: list[CheckpointView]
    validation: dict[str, float] | None
    evaluation: dict[str, float] | None


class Metrics(BaseModel):
    """Numbers by step, after the last resume of each. names: all that were logged. next: `after` of the page after it."""

    run: str
    event: str
    names: list[str]
    rows: list[dict[str, float | None]]
    next: int | None


class SampleView(BaseModel):
    """A picture or video. path: inside the run's folder; url: where it is served, in ranges if asked."""

    id: str
    path: str
    step: int | None
    bytes: int
    url: str


class Samples(BaseModel):
    """By folder and step."""

    run: str
    samples: list[SampleView]
    next: str | None


def find_run(here: ServiceDep, run: Annotated[str, Path(pattern=RUN_ID)]) -> FoundRun:
    """The run with this id, or 404."""
    for found in runs.find_runs(here.settings.output_roots):
        if found.id == run:
            return found
    raise HTTPException(404, f"no run {run}; GET /v1/runs lists them")


RunDep = Annotated[FoundRun, Depends(find_run)]
Limit = Annotated[int, Query(ge=1, le=1000)]


def _view(run: FoundRun, lines: list[dict[str, Any]]) -> RunView:
    recipe = run.described["recipe"]
    return RunView(
        id=run.id, path=run.path, kind=str(run.described.get("kind")), recipe_name=str(recipe.get("name")),
        snapshot=str(run.described.get("snapshot")), state=runs.state_of(run, lines), step=runs.step_of(lines),
        steps=recipe["steps"] if type(recipe.get("steps")) is int else None, created_at=run.created_at,
        last_at=runs.moment(lines[-1]) if lines else None,
    )  # fmt: skip


def _place(ids: list[str], after: str | None) -> int:
    try:
        return runs.place_after(ids, after)
    except runs.BadPlace as error:
        raise HTTPException(422, str(error)) from None


@router.get("")
def list_runs(
    here: ServiceDep,
    limit: Limit = 100,
    after: Annotated[str | None, Query(pattern=RUN_ID, description="`next` of the page before")] = None,
) -> Runs:
    """Runs below the outputs folders (CINEMILL_OUTPUTS), up to four folders deep."""
    found = runs.find_runs(here.settings.output_roots)
    begin = _place([run.id for run in found], after)
    shown = found[begin : begin + limit]
    more = begin + limit < len(found)
    return Runs(runs=[_view(run, run.last_lines()) for run in shown], next=shown[-1].id if more else None)


@router.get("/{run}")
def read_run(found: RunDep) -> RunDetail:
    """Recipe, snapshot, state, starts and checkpoints."""
    lines = found.lines()
    ends = [line for line in lines if line["event"] in ("not_finite", "stopped", "finished")]
    end = ends[-1] if ends and ends[-1] is lines[-1] else None
    why = {"stopped": "it was asked to stop", "not_finite": str(end.get("why", "")) if end else ""}
    return RunDetail(
        **_view(found, lines).model_dump(), recipe=found.described["recipe"],
        described={name: value for name, value in found.described.items() if name != "recipe"},
        why=runs.clean(why.get(end["event"])) if end else None,
        starts=[_start(line) for line in lines if line["event"] in ("start", "resume")],
        checkpoints=[CheckpointView(**asdict(kept)) for kept in runs.checkpoints(found, lines)],
        validation=_last(lines, "validation"), evaluation=_last(lines, "evaluation"),
    )  # fmt: skip


def _start(line: dict[str, Any]) -> Start:
    excluded = line.get("excluded")
    return Start(
        event=line["event"], at=runs.moment(line), at_step=line["at_step"],
        facts=runs.clean({name: value for name, value in line.items() if name not in UNTOLD}),
        excluded_clips=len(excluded) if isinstance(excluded, dict) else 0,
    )  # fmt: skip


def _last(lines: list[dict[str, Any]], event: str) -> dict[str, float] | None:
    return next((runs.numbers(line) for line in reversed(lines) if line["event"] == event), None)


@router.get("/{run}/metrics", response_model=Metrics, responses=DESCRIBED)
def read_run_metrics(
    found: RunDep,
    form: FormDep,
    event: Annotated[Literal["step", "validation"], Query(description="of training steps, or of validations")] = "step",
    names: Annotated[str | None, Query(max_length=4000, description="separated by commas; default: all")] = None,
    after: Annotated[int, Query(ge=-1, lt=2**63, description="only later steps; `next` of the page before")] = -1,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Any:
    """Numbers by step, oldest first; ask again after the last step to follow a run that is going on. A name that was not
    logged yet is null."""
    wanted = None if names is None else [name for name in names.split(",") if name]
    table, known, following = runs.metrics(found.lines(), event, wanted, after, limit)
    if form != "application/json":
        page = Page(table=table, next=None if following is None else str(following), matching=None)
        return table_answer(page, form, {})
    return Metrics(run=found.id, event=event, names=known, rows=plain(table.to_pylist()), next=following)


@router.get("/{run}/samples")
def list_samples(
    found: RunDep,
    limit: Limit = 1000,
    after: Annotated[str | None, Query(pattern=SAMPLE_ID, description="`next` of the page before")] = None,
) -> Samples:
    """What training drew of the same captions every so many steps (`grid`), and what its evaluation made."""
    made = runs.samples(found)
    begin = _place([sample.id for sample in made], after)
    shown = made[begin : begin + limit]
    views = [
        SampleView(
            id=each.id, path=each.path, step=each.step, bytes=each.bytes, url=f"/v1/runs/{found.id}/samples/{each.id}"
        )
        for each in shown
    ]
    return Samples(run=found.id, samples=views, next=shown[-1].id if begin + limit < len(made) else None)


@router.get("/{run}/samples/{sample}", response_class=FileResponse)
def show_sample(found: RunDep, sample: Annotated[str, Path(pattern=SAMPLE_ID)]) -> FileResponse:
    """The file itself: one that the list names, and no other. Ranges are answered."""
    for each in runs.samples(found):
        if each.id == sample:
            return FileResponse(
                each.file, media_type=MEDIA[each.file.suffix], headers={"cache-control": "private, no-cache"}
            )
    raise HTTPException(404, f"no sample {sample}; GET /v1/runs/{found.id}/samples lists them")
