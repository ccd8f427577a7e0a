"""What changed from one snapshot of a data set to another."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from api.deps import NAME, TAG, LakeDep, ServiceDep, choose_snapshot
from api.query import Reader
from api.tables import View

router = APIRouter(prefix="/v1/datasets/{name}", tags=["data sets"])
Which = Annotated[str, Query(pattern=rf"^[1-9][0-9]{{0,8}}$|{TAG}", description="a snapshot's number or tag")]
GONE = "gone"
NEW = "new"


class ChangedClip(BaseModel):
    """One clip that was added or removed, and by what."""

    clip_id: str
    reason: str


class Diff(BaseModel):
    """Kept clips of two snapshots.

    removed_by: rule that rejects them now, or its fate, or `gone` where the clip is no longer known -> clips. added_by: rule
    that rejected them before, or `new` -> clips. added, removed: the first so many by clip_id.
    """

    dataset: str
    before: int
    after: int
    kept_before: int
    kept_after: int
    kept_in_both: int
    added_by: dict[str, int]
    removed_by: dict[str, int]
    added: list[ChangedClip]
    removed: list[ChangedClip]


@router.get("/diff")
def diff_snapshots(
    lake: LakeDep,
    here: ServiceDep,
    name: Annotated[str, Path(pattern=NAME)],
    before: Annotated[Which, Query(alias="from")],
    after: Annotated[Which, Query(alias="to")],
    limit: Annotated[int, Query(ge=0, le=1000)] = 100,
) -> Diff:
    """Exact counts, and the first `limit` clips of each kind."""
    found = [
        choose_snapshot(lake, name, int(which) if which.isdigit() else None, None if which.isdigit() else which)
        for which in (before, after)
    ]
    views = [here.views.open(snapshot, "ledger") for snapshot in found]
    with here.views.engine.cursor() as reader:
        kept = [
            reader.rows(f"SELECT count(*) {view.joined(reader, 'clip', [])} AND d.fate = 'kept'")[0][0]
            for view in views
        ]
        removed_by, removed = _missing(reader, views[0], views[1], GONE, limit)
        added_by, added = _missing(reader, views[1], views[0], NEW, limit)
    return Diff(
        dataset=name, before=found[0].number, after=found[1].number, kept_before=kept[0], kept_after=kept[1],
        kept_in_both=kept[0] - sum(removed_by.values()), added_by=added_by, removed_by=removed_by, added=added,
        removed=removed,
    )  # fmt: skip


def _missing(
    reader: Reader, view: View, other: View, absent: str, limit: int
) -> tuple[dict[str, int], list[ChangedClip]]:
    """Kept clips of one snapshot that the other does not keep: how many by its reason, and the first of them."""
    changed = (
        f"SELECT a.clip_id, CASE WHEN b.clip_id IS NULL THEN '{absent}' ELSE coalesce(b.rule, b.fate) END AS reason "
        f"FROM (SELECT d.clip_id {view.joined(reader, 'clip', [])} AND d.fate = 'kept') a "
        f"LEFT JOIN (SELECT d.clip_id, d.fate, d.rule {other.joined(reader, 'clip', [])}) b USING (clip_id) "
        "WHERE b.fate IS DISTINCT FROM 'kept'"
    )
    by: list[tuple[Any, ...]] = reader.rows(f"SELECT reason, count(*) FROM ({changed}) GROUP BY 1 ORDER BY 2 DESC, 1")
    first = reader.rows(f"{changed} ORDER BY a.clip_id LIMIT {limit}")
    return dict(by), [ChangedClip(clip_id=clip_id, reason=reason) for clip_id, reason in first]
