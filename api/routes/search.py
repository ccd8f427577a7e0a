"""Clips by what a text says, and by likeness to another clip."""

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel

from api.deps import ServiceDep, SnapshotDep, tell_snapshot
from api.filters import one_of
from api.pages import Asked, read_page
from api.query import TooSlow
from api.routes.clips import ClipDep
from api.tables import Views
from api.texts import DOORS
from api.vectors import MOST_VECTORS, Nearest, TooManyVectors
from curation.clips import Snapshot

router = APIRouter(prefix="/v1", tags=["search"])
Limit = Annotated[int, Query(ge=1, le=100)]
Fate = Annotated[Literal["kept", "all"], Query(description="of the kept clips alone, or of all that have a vector")]
SHOWN = ("clip_id", "uri", "start_seconds", "end_seconds", "fate", "rule", "duplicate_of", "caption", "labels")
FAR = 0.5
"""Cosine below which no class name is close to a text: mean average precision .35 there and .56 above for short texts, .27 and .75
for sentences (docs/models.md)."""
HONEST = (
    "Text and pictures meet in the 1,000 ImageNet class names: good for the things they name, weak for people, actions and places. "
    "Scores order this answer and mean nothing beside another's."
)
FAINT = " No class name is close to this text: expect a hit near the top in half of the cases at most."
T = TypeVar("T")


class FoundClip(BaseModel):
    """A clip and how near it is. score: cosine, 1 for the same vector. caption: null for clips that were not kept."""

    clip_id: str
    score: float
    uri: str
    start_seconds: float | None
    end_seconds: float | None
    fate: str
    rule: str | None
    duplicate_of: str | None
    caption: str | None
    labels: list[str] | None
    poster: str


class ClassName(BaseModel):
    """A class name that a text was read as, and the cosine of their sentence vectors."""

    name: str
    similarity: float


class TextSearch(BaseModel):
    """The clips nearest to a text, best first. compared: how many clips were; those without a vector of `embedder` were not.
    read_as: the class names nearest to the text. note: how far to trust this."""

    dataset: str
    snapshot: int
    text: str
    model: str
    embedder: str
    compared: int
    read_as: list[ClassName]
    note: str
    clips: list[FoundClip]


class Neighbours(BaseModel):
    """The clips nearest to a clip, which is not among them, best first. compared: how many clips were."""

    dataset: str
    snapshot: int
    clip_id: str
    embedder: str
    compared: int
    clips: list[FoundClip]


@router.get("/datasets/{name}/search")
def search_clips(
    found: SnapshotDep,
    here: ServiceDep,
    text: Annotated[str, Query(min_length=1, max_length=500, description="what the clip shows, in English")],
    limit: Limit = 20,
    fate: Fate = "kept",
) -> TextSearch:
    """Clips by what they show, as far as the packaged models can tell. All vectors are compared, none is left out by an index."""
    if not any(character.isalnum() for character in text):
        raise HTTPException(422, "text= has no word in it; say what the clip shows, for example: a bee on a flower")
    embedder = _readable(found, _within_reach(lambda: here.vectors.embedders(found)))
    door = here.texts.get(embedder)
    try:
        reading = door.read(text)
    except ValueError as error:  # a package that is not installed
        raise HTTPException(503, f"texts cannot be read here: {error}") from None
    nearest = _within_reach(
        lambda: here.vectors.nearest(found, embedder, reading.direction, limit, kept_only=fate == "kept")
    )
    note = HONEST + (FAINT if reading.nearest[0][1] < FAR else "")
    return TextSearch(
        dataset=found.dataset, snapshot=found.number, text=text, model=door.name, embedder=embedder, compared=nearest.compared,
        read_as=[ClassName(name=name, similarity=round(cosine, 3)) for name, cosine in reading.nearest], note=note,
        clips=_described(here.views, found, nearest),
    )  # fmt: skip


@router.get("/clips/{clip_id}/neighbours")
def list_neighbours(
    found: ClipDep, here: ServiceDep, request: Request, response: Response, limit: Limit = 20, fate: Fate = "all"
) -> Neighbours:
    """The clips most like this one, copies among them, by the cosine of their vectors."""
    place, clip_id = found.snapshot, found.row["clip_id"]
    tell_snapshot(place, request, response)
    vectors = here.vectors.vectors_of(place, clip_id)
    if not vectors:
        raise HTTPException(422, f"clip {clip_id} has no vector to compare: {_why_none(found.row)}")
    counts = _within_reach(lambda: here.vectors.embedders(place))
    embedder = max(vectors, key=lambda name: (counts[name], name))  # the one that most clips can be compared by
    nearest = _within_reach(
        lambda: here.vectors.nearest(
            place, embedder, vectors[embedder], limit, kept_only=fate == "kept", without=clip_id
        )
    )
    return Neighbours(
        dataset=place.dataset, snapshot=place.number, clip_id=clip_id, embedder=embedder, compared=nearest.compared,
        clips=_described(here.views, place, nearest),
    )  # fmt: skip


def _readable(found: Snapshot, counts: dict[str, int]) -> str:
    """The embedder of most clips that texts can be compared with. Raises 422."""
    readable = [name for name in counts if name in DOORS]
    if readable:
        return max(readable, key=lambda name: (counts[name], name))
    said = f"have vectors of {', '.join(sorted(counts))} only" if counts else "have no vectors"
    raise HTTPException(
        422,
        f"the clips of {found.dataset}@{found.number} {said}; a text can be compared with those of {', '.join(DOORS)}. Curate "
        "this footage again with this version, or ask for GET /v1/clips/{clip_id}/neighbours, which takes any vectors",
    )


def _why_none(row: dict[str, object]) -> str:
    skipped = row.get("skipped_signals") or ()
    if isinstance(skipped, list) and "embedding" in skipped:
        return f"it was rejected by {row['rule']} before a model looked at it; a recipe with scores: full measures all clips"
    return "no picture of it could be read, or it was measured without an embedder; its unmeasured_signals may say more"


def _within_reach(search: Callable[[], T]) -> T:
    """What `search` returns, or the problem that it is too large or too slow."""
    try:
        return search()
    except TooManyVectors:
        raise HTTPException(
            422,
            f"this lake has more than {MOST_VECTORS:,} vectors, too many to compare one by one; GET .../parquet lists their files, "
            "for an index of your own",
        ) from None
    except TooSlow:
        raise HTTPException(
            503,
            "comparing all vectors took longer than CINEMILL_QUERY_SECONDS; try again, or raise it, or raise CINEMILL_VECTOR_CACHE_BYTES "
            "so that the vectors of this snapshot stay in memory",
            {"retry-after": "10"},
        ) from None


def _described(views: Views, place: Snapshot, nearest: Nearest) -> list[FoundClip]:
    """The rows of the clips that were found, in their order."""
    if not nearest.found:
        return []
    asked = Asked(where=one_of("clip_id", [clip_id for clip_id, _ in nearest.found]), columns=SHOWN)
    rows = {row["clip_id"]: row for row in read_page(views, views.open(place, "clips"), asked, None, 100).rows}
    return [FoundClip(score=score, poster=poster(place, clip_id), **rows[clip_id]) for clip_id, score in nearest.found]


def poster(place: Snapshot, clip_id: str) -> str:
    """The path of a picture of a clip."""
    return f"/v1/clips/{clip_id}/poster.webp?dataset={place.dataset}&snapshot={place.number}"
