"""The concept clusters that curation balances by."""

from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel

from api.deps import Service, ServiceDep, SnapshotDep
from api.routes.search import poster
from api.tables import View
from curation.clips import Snapshot

router = APIRouter(prefix="/v1/datasets/{name}", tags=["search"])
LABELS = 5
LABELS_OF_A_CLIP = 3


class Label(BaseModel):
    """A label, and how many clips of the cluster have it among their three surest."""

    name: str
    clips: int


class Example(BaseModel):
    """A clip of a cluster."""

    clip_id: str
    poster: str


class Cluster(BaseModel):
    """Clips of one concept. size: with those that the balance took out; kept: without. examples: kept ones where there are any,
    lowest clip_id first."""

    cluster: int
    size: int
    kept: int
    labels: list[Label]
    examples: list[Example]


class Clusters(BaseModel):
    """One page, the largest first. unclustered: clips that left before clusters were made. next: `after` of the page that follows."""

    dataset: str
    snapshot: int
    count: int
    unclustered: int
    clusters: list[Cluster]
    next: int | None


@router.get("/clusters")
def list_clusters(
    found: SnapshotDep,
    here: ServiceDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[int | None, Query(ge=0, lt=2**31, description="`next` of the page before")] = None,
    examples: Annotated[int, Query(ge=1, le=20, description="clips of each cluster")] = 6,
) -> Clusters:
    """Clusters of the clips that passed every rule and are no copies, as the commit wrote them (column `cluster` of decisions)."""
    view = here.views.open(found, "clips")
    sizes = here.tables.remember(found, "clusters", lambda: _sizes(here, view)).to_pylist()
    unclustered = sum(row["size"] for row in sizes if row["cluster"] is None)
    rows = [row for row in sizes if row["cluster"] is not None]
    begin = 0
    if after is not None:
        places = [place for place, row in enumerate(rows) if row["cluster"] == after]
        if not places:
            raise HTTPException(422, f"after={after} is no cluster of this snapshot; start again without it")
        begin = places[0] + 1
    page = rows[begin : begin + limit]
    more = _described(here, view, found, [row["cluster"] for row in page], examples)
    return Clusters(
        dataset=found.dataset, snapshot=found.number, count=len(rows), unclustered=unclustered,
        clusters=[Cluster(**row, **more[row["cluster"]]) for row in page],
        next=page[-1]["cluster"] if begin + limit < len(rows) else None,
    )  # fmt: skip


def _sizes(here: Service, view: View) -> pa.Table:
    """cluster (null: in none), size and kept, the largest first."""
    with here.views.engine.cursor() as reader:
        return reader.table(
            "SELECT d.cluster, count(*) AS size, count(*) FILTER (d.fate = 'kept') AS kept "
            f"{view.joined(reader, 'clip', [])} GROUP BY d.cluster ORDER BY size DESC, d.cluster"
        )


def _described(
    here: Service, view: View, found: Snapshot, clusters: list[int], examples: int
) -> dict[int, dict[str, Any]]:
    """Labels and examples of these clusters."""
    if not clusters:
        return {}
    chosen = f"d.cluster IN ({', '.join(str(cluster) for cluster in clusters)})"
    with here.views.engine.cursor() as reader:
        shown = reader.rows(
            f"SELECT d.cluster, min(d.clip_id, {examples}) FILTER (d.fate = 'kept'), min(d.clip_id, {examples}) "
            f"{view.joined(reader, 'clip', [])} AND {chosen} GROUP BY d.cluster"
        )
        labelled = reader.rows(
            "SELECT cluster, label, clips FROM (SELECT cluster, label, count(*) AS clips FROM "
            f"(SELECT d.cluster, unnest(c.labels[1:{LABELS_OF_A_CLIP}]) AS label {view.joined(reader, 'clip', ['labels'])} AND {chosen}) "
            f"GROUP BY ALL) QUALIFY row_number() OVER (PARTITION BY cluster ORDER BY clips DESC, label) <= {LABELS} "
            "ORDER BY clips DESC, label"
        )
    return {
        cluster: {
            "labels": [Label(name=name, clips=clips) for each, name, clips in labelled if each == cluster],
            "examples": [Example(clip_id=clip_id, poster=poster(found, clip_id)) for clip_id in kept or every],
        }
        for cluster, kept, every in shown
    }
