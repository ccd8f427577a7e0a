"""What each rule did, and what other thresholds would do: the funnel, histograms, what-if, and the scores behind them."""

import math
from collections import Counter
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel

from api.deps import ServiceDep, SnapshotDep
from api.query import name_of
from api.scores import Histogram, Scores, WhatIf
from api.tables import Kind
from curation.ledger import counts, funnel
from curation.recipes import parse_recipe

router = APIRouter(prefix="/v1/datasets/{name}", tags=["statistics"])


def find_scores(found: SnapshotDep, here: ServiceDep) -> Scores:
    return Scores.of(found, here.views, here.tables)


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
    """Counts over every clip of the snapshot: `exact` is true, nothing here is estimated."""

    dataset: str
    snapshot: int
    thresholds: dict[str, float]
    exact: bool
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


class ColumnStatistics(BaseModel):
    """One number column; what is missing, or no finite number, counts in nothing but `missing`."""

    count: int
    missing: int
    min: float | None
    max: float | None
    mean: float | None
    deviation: float | None


class Statistics(BaseModel):
    """Columns of a table over all its rows. words: column -> word -> how often, the hundred most frequent."""

    dataset: str
    snapshot: int
    table: str
    rows: int
    exact: bool
    numbers: dict[str, ColumnStatistics]
    words: dict[str, dict[str, int]]


class CoRejection(BaseModel):
    """clips[i][j]: how many clips both rules[i] and rules[j] reject; on the diagonal, how many rules[i] rejects."""

    dataset: str
    snapshot: int
    exact: bool
    rules: list[str]
    clips: list[list[int]]


@router.get("/funnel")
def read_funnel(found: SnapshotDep, here: ServiceDep) -> Funnel:
    """Read from the manifest alone: no Ray, no GPU, safe while a run is going."""
    told, clips, videos = counts(found), here.views.open(found, "clips"), here.views.open(found, "videos")
    of_clip, of_video = (view.columns["duration_seconds"][0] for view in (clips, videos))
    with here.views.engine.cursor() as reader:
        clip_seconds, kept_seconds = reader.rows(
            f"SELECT coalesce(sum({of_clip}), 0.0), coalesce(sum({of_clip}) FILTER (d.fate = 'kept'), 0.0) "
            f"{clips.joined(reader, 'clip', ['duration_seconds'])}"
        )[0]
        video_seconds = reader.rows(
            f"SELECT coalesce(sum({of_video}), 0.0) {videos.joined(reader, 'video', ['duration_seconds'])}"
        )[0][0]
    return Funnel(
        dataset=found.dataset, snapshot=found.number, videos=told["videos"], clips=told["clips"],
        video_seconds=video_seconds, clip_seconds=clip_seconds, kept_seconds=kept_seconds,
        steps=[FunnelStepView.model_validate(step, from_attributes=True) for step in funnel(found)],
    )  # fmt: skip


@router.get("/statistics")
def read_statistics(
    found: SnapshotDep,
    here: ServiceDep,
    table: Literal["clips", "videos"] = "clips",
    columns: Annotated[list[str] | None, Query(max_length=100)] = None,
) -> Statistics:
    """Of every number column, or of those named: how many, how few, how large; and how often the words of decisions occur."""
    view = here.views.open(found, table)
    names = list(dict.fromkeys(columns or view.numbers))
    for name in names:
        if name not in view.numbers:
            raise HTTPException(422, f"{name[:100]!r} is not a number of this table; it has {', '.join(view.numbers)}")
    kind: Kind = "clip" if table == "clips" else "video"
    asked = ["count(*)"]
    for name in names:
        value = f"CASE WHEN isfinite({view.columns[name][0]}::DOUBLE) THEN {view.columns[name][0]}::DOUBLE END"
        asked += [f"{function}({value})" for function in ("count", "min", "max", "avg", "stddev_pop")]
    with here.views.engine.cursor() as reader:
        rows, *values = reader.rows(f"SELECT {', '.join(asked)} {view.joined(reader, kind, names)}")[0]
        words = {
            name: dict(
                reader.rows(
                    f"SELECT {view.columns[name][0]} AS word, count(*) {view.joined(reader, kind, [])} "
                    f"AND word IS NOT NULL GROUP BY word ORDER BY count(*) DESC, word LIMIT 100"
                )
            )
            for name in ("fate", "stage", "rule", "split")
        }
    numbers = {
        name: ColumnStatistics(count=count, missing=rows - count, min=low, max=high, mean=mean, deviation=deviation)
        for name, (count, low, high, mean, deviation) in zip(names, zip(*[iter(values)] * 5, strict=True), strict=True)
    }
    return Statistics(
        dataset=found.dataset, snapshot=found.number, table=table, rows=rows, exact=True, numbers=numbers, words=words
    )


@router.get("/corejection")
def read_co_rejection(found: SnapshotDep, here: ServiceDep) -> CoRejection:
    """Which rules reject the same clips: a threshold on one of two that always agree changes nothing."""
    view = here.views.open(found, "clips")
    with here.views.engine.cursor() as reader:
        sets = reader.rows(
            f"SELECT d.failed_rules, count(*) {view.joined(reader, 'clip', [])} AND len(d.failed_rules) > 0 GROUP BY 1"
        )
    rules = list(dict.fromkeys(rule for names, _ in sorted(sets, key=lambda each: -each[1]) for rule in names))
    together: Counter[tuple[str, str]] = Counter()
    for names, clips in sets:
        for first in names:
            for second in names:
                together[first, second] += clips
    return CoRejection(
        dataset=found.dataset, snapshot=found.number, exact=True, rules=rules,
        clips=[[together[first, second] for second in rules] for first in rules],
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
        if name in ("snapshot", "tag"):
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
        dataset=found.dataset, snapshot=found.number, thresholds=known | thresholds, exact=True,
        counts=scores.what_if(thresholds),
    )  # fmt: skip


@router.get("/scores")
def read_scores(found: SnapshotDep, here: ServiceDep) -> ScoreColumns:
    rules = parse_recipe(found.commit.recipe, "the recipe of this snapshot").all_rules
    view = here.views.open(found, "clips")
    signals = list(dict.fromkeys(rule.signal for rule in rules))
    names = [name for name in dict.fromkeys(("duration_seconds", *signals)) if name in view.columns]
    columns = ", ".join(f"{view.columns[name][0]}::DOUBLE AS {name_of(name)}" for name in names)
    most = here.settings.score_sample
    total = found.commit.counts["clips_in"]
    # The lowest ids, which are hashes, are a fair sample; twice their share is enough to look through, nearly always.
    top = f"{min(16**32 - 1, 16**32 * 2 * most // max(total, 1)):032x}"
    with here.views.engine.cursor() as reader:
        table = reader.table(
            f"SELECT d.clip_id, d.fate = 'kept' AS kept, d.rule, {columns} "
            f"{view.joined(reader, 'clip', names, (' ', top))} ORDER BY d.clip_id LIMIT {most}"
        )

    def numbers(name: str) -> list[float | None]:
        if name not in names:
            return [None] * table.num_rows
        return [None if math.isnan(value) else float(f"{value:.7g}") for value in table[name].to_numpy().tolist()]

    return ScoreColumns(
        dataset=found.dataset,
        snapshot=found.number,
        clips=total,
        clip_id=table["clip_id"].to_pylist(),
        duration_seconds=numbers("duration_seconds"),
        kept=table["kept"].to_pylist(),
        rule=table["rule"].to_pylist(),
        signals={signal: numbers(signal) for signal in signals},
    )
