"""What each rule did, and what other thresholds would do: the funnel, histograms, what-if, and the scores behind them."""

import math
from collections import Counter
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel

from api.deps import ServiceDep, SnapshotDep
from api.histograms import Histogram, of_commit, of_scores
from api.query import name_of
from api.scores import Scores, WhatIf
from api.tables import Kind
from api.what_if import Asking, Interval
from curation.clips.statistics import SAMPLE
from curation.ledger import counts, failures, funnel
from curation.recipes import parse_recipe

router = APIRouter(prefix="/v1/datasets/{name}", tags=["statistics"])


class FunnelStepView(BaseModel):
    """One rule, in recipe order: how many clips reached it, how many it rejects, and how many it alone rejects."""

    stage: str
    rule: str
    signal: str | None
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
    """Counts of the snapshot's clips.

    Where `exact` is false they are estimated from `sampled` clips, and `intervals` holds, of each count, two numbers between which
    the exact one lies with 95 % confidence (Wilson's interval for a draw without replacement).
    """

    dataset: str
    snapshot: int
    thresholds: dict[str, float]
    exact: bool
    counts: WhatIf
    sampled: int | None
    intervals: dict[str, Interval] | None


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
    told, written = counts(found), found.written_statistics()
    with here.views.engine.cursor() as reader:
        if written is not None:
            kept_seconds = written.seconds("kept")
            clip_seconds = sum(mask.microseconds for mask in written.masks) / 1e6
        else:
            clips = here.views.open(found, "clips")
            length = clips.columns["duration_seconds"][0]
            clip_seconds, kept_seconds = reader.rows(
                f"SELECT coalesce(sum({length}), 0.0), coalesce(sum({length}) FILTER (d.fate = 'kept'), 0.0) "
                f"{clips.joined(reader, 'clip', ['duration_seconds'])}"
            )[0]
        videos = here.views.open(found, "videos")
        video_seconds = reader.rows(
            f"SELECT coalesce(sum({videos.columns['duration_seconds'][0]}), 0.0) "
            f"{videos.joined(reader, 'video', ['duration_seconds'])}"
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
def read_co_rejection(found: SnapshotDep) -> CoRejection:
    """Which rules reject the same clips: a threshold on one of two that always agree changes nothing."""
    sets: Counter[tuple[str, ...]] = Counter()
    for names, clips in failures(found):
        sets[names] += clips
    rules = list(dict.fromkeys(r for names in sorted(sets, key=lambda each: (-sets[each], each)) for r in names))
    together: Counter[tuple[str, str]] = Counter()
    for names, clips in sets.items():
        for first in names:
            for second in names:
                together[first, second] += clips
    return CoRejection(
        dataset=found.dataset, snapshot=found.number, exact=True, rules=rules,
        clips=[[together[first, second] for second in rules] for first in rules],
    )  # fmt: skip


@router.get("/histograms")
def read_histograms(found: SnapshotDep, here: ServiceDep) -> Histograms:
    """As the commit counted them; a snapshot of before is read."""
    written = found.written_statistics()
    if written is None:
        shown = of_scores(Scores.of(found, here.views, here.tables))
    else:
        shown = of_commit(written, parse_recipe(found.commit.recipe, "the recipe of this snapshot").all_rules)
    return Histograms(dataset=found.dataset, snapshot=found.number, signals=shown)


@router.get("/whatif")
def read_what_if(found: SnapshotDep, here: ServiceDep, request: Request, estimate: bool = False) -> WhatIfView:
    """Every query parameter that is a rule's name is its other threshold: `?visual.sharpness=20&motion.jitter=1.5`.

    Exact by one scan, or by what the commit counted where that tells. `estimate=true` never scans: what would need one is then
    estimated from the commit's sample, and says so.
    """
    asking = Asking(found, here.views, here.tables)
    known = {rule.name: rule.threshold for rule in asking.rules}
    thresholds = {}
    for name, text in request.query_params.multi_items():
        if name in ("snapshot", "tag", "estimate"):
            continue
        if name not in known:
            raise HTTPException(422, f"no rule {name[:100]!r} in this recipe; it has {', '.join(known)}")
        try:
            thresholds[name] = float(text)
        except ValueError:
            thresholds[name] = math.nan
        if not math.isfinite(thresholds[name]):
            raise HTTPException(422, f"{name}={text[:40]!r} is not a finite number")
    answer = asking.at_once(thresholds) if estimate else asking.exactly(thresholds)
    return WhatIfView(
        dataset=found.dataset, snapshot=found.number, thresholds=known | thresholds, exact=answer.exact,
        counts=answer.counts, sampled=answer.sampled, intervals=answer.intervals,
    )  # fmt: skip


@router.get("/scores")
def read_scores(found: SnapshotDep, here: ServiceDep) -> ScoreColumns:
    rules = parse_recipe(found.commit.recipe, "the recipe of this snapshot").all_rules
    signals = list(dict.fromkeys(rule.signal for rule in rules))
    wanted = list(dict.fromkeys(("duration_seconds", *signals)))
    most, total, written = here.settings.score_sample, found.commit.counts["clips_in"], found.written_statistics()
    if written is not None and most <= SAMPLE:
        table = written.sample.slice(0, most)
        table = table.append_column("kept", pc.equal(table["fate"], "kept"))
        names = [name for name in wanted if name in table.column_names]
        for name in names:
            table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.float64()))
    else:
        view = here.views.open(found, "clips")
        names = [name for name in wanted if name in view.columns]
        columns = ", ".join(f"{view.columns[name][0]}::DOUBLE AS {name_of(name)}" for name in names)
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
        return [None if math.isnan(value) else value for value in _rounded(table[name].to_numpy()).tolist()]

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


def _rounded(values: np.ndarray) -> np.ndarray:
    """float64 [N] to seven significant digits, as a page needs them; what is not finite is nan."""
    values = np.where(np.isfinite(values), values, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = 6 - np.floor(np.log10(np.abs(values)))
    power = 10.0 ** np.where(np.isfinite(digits), digits, 0).clip(-300, 300)
    return np.rint(values * power) / power
