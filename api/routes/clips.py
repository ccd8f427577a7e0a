"""One clip: what was measured, what was decided and why; and something to look at."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel

from api.deps import NAME, LakeDep, Number, Service, ServiceDep, TagQuery, choose_snapshot
from api.pages import plain, read_row
from api.previews import Busy
from api.scores import Scores, Verdict, verdicts
from curation.clips import Snapshot, UnknownSnapshot, UnreadableVideo
from curation.contracts import signals
from curation.story import why_null

router = APIRouter(prefix="/v1/clips/{clip_id}", tags=["clips"])
MOST_DECISIONS = 100
CLIP_ID = r"^[0-9a-f]{32}$"


class FoundClip:
    """A clip's row, and the snapshot it was found in."""

    def __init__(self, row: dict[str, Any], snapshot: Snapshot):
        self.row = row
        self.snapshot = snapshot


def find_clip(
    here: ServiceDep,
    lake: LakeDep,
    clip_id: Annotated[str, Path(pattern=CLIP_ID)],
    dataset: Annotated[str | None, Query(pattern=NAME)] = None,
    snapshot: Number = None,
    tag: TagQuery = None,
) -> FoundClip:
    """In the snapshot named, else in the newest of the data set named, else in the newest of any that has it."""
    if dataset is None and tag is not None:
        raise HTTPException(422, "a tag belongs to a data set: say dataset= beside tag=")
    try:
        if dataset is not None:
            places = [choose_snapshot(lake, dataset, snapshot, tag)]
        elif snapshot is not None:
            places = [lake.snapshot(None, snapshot)]
        else:
            places = sorted((lake.snapshot(name) for name in lake.datasets()), key=lambda each: -each.number)
    except UnknownSnapshot as error:
        raise HTTPException(404, str(error)) from None
    for place in places:
        if row := read_row(here.views, here.views.open(place, "clips"), clip_id):
            return FoundClip(row, place)
    raise HTTPException(404, f"no clip {clip_id}; GET /v1/datasets/{{name}}/rows?table=clips lists them")


ClipDep = Annotated[FoundClip, Depends(find_clip)]


class ClipView(BaseModel):
    """Everything known of a clip. unmeasured: signals without a number, and why.

    distribution: signal that a rule asks for -> share of the measured clips of the snapshot that have less (of those that
    its commit sampled, where there are more than 50,000).
    """

    dataset: str
    snapshot: int
    clip: dict[str, Any]
    sentences: list[str]
    rules: list[Verdict]
    unmeasured: dict[str, str]
    distribution: dict[str, float]
    preview: str
    poster: str


class Decision(BaseModel):
    """What one snapshot decided about a clip, and what made that snapshot."""

    dataset: str
    snapshot: int
    created_at: datetime
    recipe_hash: str
    code_version: str
    measured_by: str
    fate: str
    rule: str | None
    duplicate_of: str | None


class Lineage(BaseModel):
    """From the bytes of a video to the decisions, the newest first."""

    clip_id: str
    video_id: str
    uri: str
    start_seconds: float
    end_seconds: float
    detector: str | None
    decisions: list[Decision]


def sentences(row: dict[str, Any]) -> list[str]:
    """The decision as a person would say it."""
    span = f"{row['start_seconds']:.2f} to {row['end_seconds']:.2f} s"
    said = [f"{row['uri'].rpartition('/')[2]}, {span}: {row['fate']}."]
    if row["reason"]:
        said.append(f"Rule {row['rule']}: {row['reason']}.")
    more = [rule for rule in row["failed_rules"] or () if rule != row["rule"]]
    if more:
        said.append(f"It also fails {', '.join(more)}.")
    if row["unmeasured"]:
        said.append(f"Not measured, so not held against it: {', '.join(row['unmeasured'])}.")
    return said


def unmeasured(row: dict[str, Any]) -> dict[str, str]:
    """Every signal this code knows that the row has no number for: signal -> why."""
    return {name: why_null(row, name) for name in signals() if row.get(name) is None}


@router.get("")
def read_clip(found: ClipDep, here: ServiceDep) -> ClipView:
    """The row of the clip with its scores and its decision, where its scores lie among all, and the decision in sentences."""
    place = found.snapshot
    scores = Scores.at_hand(place, here.views, here.tables)
    signals_asked = {rule.signal for rule in scores.rules}
    at = f"/v1/clips/{found.row['clip_id']}"
    where = f"?dataset={place.dataset}&snapshot={place.number}"
    return ClipView(
        dataset=place.dataset, snapshot=place.number, clip=plain(found.row), sentences=sentences(found.row),
        rules=verdicts(place, found.row), unmeasured=unmeasured(found.row),
        distribution={
            name: scores.share_below(name, found.row[name]) for name in signals_asked if found.row.get(name) is not None
        },
        preview=f"{at}/preview.mp4{where}", poster=f"{at}/poster.webp{where}",
    )  # fmt: skip


@router.get("/lineage")
def read_lineage(found: ClipDep, lake: LakeDep, here: ServiceDep) -> Lineage:
    """Where the clip comes from, and what the newest hundred snapshots that know it decided."""
    row = found.row
    told: list[Decision] = []
    for commit in reversed(lake.commits()):
        if len(told) == MOST_DECISIONS:
            break
        view = here.views.open(Snapshot(lake, commit), "ledger")
        with here.views.engine.cursor() as reader:
            decided = reader.rows(
                f"SELECT d.fate, d.rule, d.duplicate_of {view.joined(reader, 'clip', [], (row['clip_id'], row['clip_id']))}"
            )
        for fate, rule, duplicate_of in decided:
            told.append(
                Decision(
                    dataset=commit.dataset, snapshot=commit.number, created_at=commit.created_at, recipe_hash=commit.recipe_hash,
                    code_version=commit.code_version, measured_by=commit.measured_by, fate=fate, rule=rule,
                    duplicate_of=duplicate_of,
                )
            )  # fmt: skip
    return Lineage(
        clip_id=row["clip_id"], video_id=row["video_id"], uri=row["uri"], start_seconds=row["start_seconds"],
        end_seconds=row["end_seconds"], detector=row["detector"], decisions=told,
    )  # fmt: skip


@router.get("/preview.mp4", response_class=FileResponse)
def play_preview(found: ClipDep, here: ServiceDep) -> FileResponse:
    """At most 4 s and 360 pixels high, H.264, made when first asked for. Ranges are answered."""
    return _file(found, here, "mp4", "video/mp4")


@router.get("/poster.webp", response_class=FileResponse)
def show_poster(found: ClipDep, here: ServiceDep) -> FileResponse:
    """One picture from the middle of the preview."""
    return _file(found, here, "webp", "image/webp")


def _file(found: FoundClip, here: Service, kind: Literal["mp4", "webp"], media_type: str) -> FileResponse:
    try:
        path = here.previews.get(found.row, kind)
    except UnreadableVideo as error:
        raise HTTPException(404, f"nothing to show: {error}") from None
    except Busy:
        raise HTTPException(503, "all preview makers are busy; try again", {"retry-after": "5"}) from None
    return FileResponse(path, media_type=media_type, headers={"cache-control": "private, max-age=86400"})
