"""What each rule did, and what other thresholds would do: the funnel, histograms, what-if, and the scores behind them."""

import math
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel

from api.deps import ServiceDep, SnapshotDep
from api.scores import Histogram, Scores, WhatIf
from api.settings import Settings
from curation.ledger import counts, funnel

router = APIRouter(prefix="/v1/datasets/{name}", tags=["statistics"])


def find_scores(found: SnapshotDep, here: ServiceDep) -> Scores:
    return Scores.of(found, here.tables.get(found, "clips"))


ScoresDep = Annotated[Scores, Depends(find_scores)]


class FunnelStepView(BaseModel):
    """One rule, in recipe order: how many clips reached it, how many it rejects, and how many it alone rejects."""

    stage: str
    rule: str
    comparison: str | None
    threshold: float | None
    entered: int
    rejected: int
    left: int
    only_this_rule: int


class Funnel(BaseModel):
    """What became of everything that entered. For videos and for clips, in = kept + rejected + duplicate + quarantined."""

    dataset: str
    snapshot: int
    videos: dict[str, int]
    clips: dict[str, int]
    video_seconds: float
    clip_seconds: float
    kept_seconds: float
    steps: list[FunnelStepView]


class Histograms(BaseModel):
    """One histogram per signal that a rule asks for, in recipe order, then the signals that no rule asks for."""

    dataset: str
    snapshot: int
    signals: list[Histogram]


class WhatIfView(BaseModel):
    """Exact counts over every measured clip of the snapshot."""

    dataset: str
    snapshot: int
    thresholds: dict[str, float]
    counts: WhatIf


class ScoreColumns(BaseModel):
    """Scores by column, so that a page can recount while a threshold is dragged.

    More clips than the service sends are sampled by the lowest clip_id, a hash: `clips` is how many there are. `rule` is
    the rule that decided, null for kept clips.
    """

    dataset: str
    snapshot: int
    clips: int
    clip_id: list[str]
    duration_seconds: list[float | None]
    kept: list[bool]
    rule: list[str | None]
    signals: dict[str, list[float | None]]


@router.get("/funnel")
def read_funnel(found: SnapshotDep, here: ServiceDep) -> Funnel:
    """Read from the manifest alone: no Ray, no GPU, safe while a run is going."""
    told, clips, videos = counts(found), here.tables.get(found, "clips"), here.tables.get(found, "videos")
    kept = clips.filter(pc.equal(clips["fate"], "kept"))

    def seconds(table: Any) -> float:
        return float(pc.sum(table["duration_seconds"]).as_py() or 0.0)

    return Funnel(
        dataset=found.dataset, snapshot=found.number, videos=told["videos"], clips=told["clips"],
        video_seconds=seconds(videos), clip_seconds=seconds(clips), kept_seconds=seconds(kept),
        steps=[FunnelStepView.model_validate(step, from_attributes=True) for step in funnel(found)],
    )  # fmt: skip


@router.get("/histograms")
def read_histograms(found: SnapshotDep, scores: ScoresDep) -> Histograms:
    asked = list(dict.fromkeys(rule.signal for rule in scores.rules))
    return Histograms(dataset=found.dataset, snapshot=found.number, signals=[scores.histogram(name) for name in asked])


@router.get("/whatif")
def read_what_if(found: SnapshotDep, scores: ScoresDep, request: Request) -> WhatIfView:
    """Every query parameter that is a rule's name is its other threshold: `?visual.sharpness=20&motion.jitter=1.5`."""
    known = {rule.name: rule.threshold for rule in scores.rules}
    thresholds = {}
    for name, text in request.query_params.multi_items():
        if name == "snapshot":
            continue
        if name not in known:
            raise HTTPException(422, f"no rule {name[:100]!r} in this recipe; it has {', '.join(known)}")
        try:
            thresholds[name] = float(text)
        except ValueError:
            thresholds[name] = math.nan
        if not math.isfinite(thresholds[name]):
            raise HTTPException(422, f"{name}={text[:40]!r} is not a finite number")
    return WhatIfView(
        dataset=found.dataset, snapshot=found.number, thresholds=known | thresholds, counts=scores.what_if(thresholds)
    )


@router.get("/scores")
def read_scores(found: SnapshotDep, scores: ScoresDep, here: ServiceDep) -> ScoreColumns:
    table = _sample(scores, here.settings)

    def numbers(signal: str) -> list[float | None]:
        if signal not in table.column_names:
            return [None] * table.num_rows
        values = table[signal].to_numpy(zero_copy_only=False).astype(float)
        return [None if math.isnan(value) else float(f"{value:.7g}") for value in values.tolist()]

    return ScoreColumns(
        dataset=found.dataset,
        snapshot=found.number,
        clips=scores.clips.num_rows,
        clip_id=table["clip_id"].to_pylist(),
        duration_seconds=numbers("duration_seconds"),
        kept=np.asarray(pc.equal(table["fate"], "kept")).tolist(),
        rule=table["rule"].to_pylist(),
        signals={rule.signal: numbers(rule.signal) for rule in scores.rules},
    )


def _sample(scores: Scores, settings: Settings) -> Any:
    table = scores.clips
    if table.num_rows <= settings.score_sample:
        return table
    return table.take(pc.select_k_unstable(table, settings.score_sample, [("clip_id", "ascending")]))
