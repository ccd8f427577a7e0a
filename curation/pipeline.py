"""The curation of the paper, in the paper's order: footage, shots, visual, motion, content, captions, manifest.

Workers measure (shots, visual and motion filters, embeddings: curation.measure); here the run is put together: what enters, what
is new, what the recipe decides over everything measured, what is said of the clips that stay, and the commit.
"""

import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from curation import ledger, workers
from curation.clips import Commit, Lake, WrongCall
from curation.clips.manifest import DATASET_NAME
from curation.clips.schema import DECISIONS, EMBEDDINGS, RIGHTS, VIDEOS, arrow_schema
from curation.clips.storage import join, remove_folder, require_writable
from curation.clips.strip import STRIP_VERSION
from curation.content.embedding import EMBEDDER
from curation.contracts import filters
from curation.decide import decide_clips, decide_video
from curation.ladder import ask_container, stored_verdict
from curation.measure import ShotFrames, Video, audited, facts_of_row, measurement_key
from curation.order import cheapest_first
from curation.recipes import Recipe
from curation.redecide import append_captions
from curation.shard import ShardJob, clips_schema, cut_shards, read_staged, shard_name, staged
from curation.shots.detectors import require
from curation.sources.footage import Footage, find_footage

LADDER_ABOVE = 1_000  # videos; below, measuring everything costs less than wondering later
CODE_VERSION = importlib.metadata.version("cinemill")
FACTS = (
    {column.name for column in VIDEOS} - {"uri"} - {column.name for column in RIGHTS}
)  # of the bytes, at whatever URI


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is. stage: start, identify, measure, decide, commit.

    costs, of the stage start: workers, and bytes_needed of memory; of the stage measure: CPU seconds so far of the cheap rungs, of decoding and of models, seconds of video measured, workers,
    and the most bytes of memory that one worker held.
    """

    stage: str
    done: int
    total: int
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]


COST_PER_SECOND = 0.25  # CPU seconds for a second of video, of a new lake; the mean of the project's samples


def cost_per_second(measured: Iterable[Mapping[str, Any]]) -> float:
    """CPU seconds that a second of video took, over the videos of a lake that were measured in full."""
    cost, seconds = 0.0, 0.0
    for row in measured:
        if row["duration_seconds"] and row["decode_seconds"]:
            cost += row["decode_seconds"] + (row.get("model_seconds") or 0.0)
            seconds += row["duration_seconds"]
    return cost / seconds if seconds else COST_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run would do: checked, and nothing written."""

    footage: list[Footage]
    passed_over: int
    dataset: str
    recipe: Recipe
    lake: Lake
    ladder: bool


def plan_run(
    sources: Sequence[str],
    recipe: Recipe,
    out: str,
    dataset: str | None = None,
    limit: int | None = None,
    sample: str | None = None,
    catalog: str | None = None,
) -> RunPlan:
    """Check everything a caller can get wrong, before any work. Raises `WrongCall`."""
    name = dataset or recipe.name
    if not DATASET_NAME.fullmatch(name):
        raise WrongCall(f"data set name {name!r}: letters, digits, dot, dash and underscore only, at most 64")
    if limit is not None and limit < 1:
        raise WrongCall(f"limit {limit} must be at least 1")
    require(recipe.detector)
    for each in filters():
        each.require(recipe.models)
    lake = Lake(out, catalog)
    require_writable(out)
    footage, passed_over = find_footage(sources)
    if sample is not None:
        footage = _sampled(footage, sample)
    footage = footage[:limit]
    ladder = recipe.scores == "ladder" or (recipe.scores == "auto" and len(footage) > LADDER_ABOVE)
    return RunPlan(footage=footage, passed_over=passed_over, dataset=name, recipe=recipe, lake=lake, ladder=ladder)


def _sampled(footage: list[Footage], sample: str) -> list[Footage]:
    """SEED:SHARE, by hash of the URI: a larger share of the same seed contains the smaller."""
    seed, _, share = sample.partition(":")
    try:
        limit = float(share)
    except ValueError:
        limit = -1.0
    if not 0 < limit <= 1:
        raise WrongCall(f"sample {sample!r} must be SEED:SHARE with a share above 0 and at most 1, e.g. 7:0.1")
    chosen = [
        f for f in footage if int.from_bytes(hashlib.sha256(f"{seed}/{f.uri}".encode()).digest()[:8]) < limit * 2**64
    ]
    if not chosen:
        raise WrongCall(f"sample {sample!r} chose none of {len(footage)} videos; take a larger share")
    return chosen


def curate(
    sources: Sequence[str],
    recipe: Recipe,
    out: str,
    dataset: str | None = None,
    address: str | None = None,
    limit: int | None = None,
    sample: str | None = None,
    retry_quarantined: bool = False,
    catalog: str | None = None,
    progress: Report | None = None,
    run: str | None = None,
) -> Commit:
    """Curate footage into a data set of the lake at `out`, and commit it as one snapshot.

    What was measured before is not measured again; a run without anything new returns the commit there is. A run that was killed
    continues where it was when it is called again with the same words: at most one shard per worker is done twice.
    run: a name that its commit carries.
    """
    plan = plan_run(sources, recipe, out, dataset, limit, sample, catalog)
    workers.connect(address)
    report = progress or (lambda _: None)
    pool = workers.num_workers()
    need = {"workers": float(pool), "bytes_needed": float(workers.memory_needed(pool))}
    report(Progress(stage="start", done=0, total=0, seconds=0.0, costs=need))
    plan.lake.create()
    with plan.lake.committer():
        return _Run(plan, report, retry_quarantined, run).run()


class _Run:
    """One run, from footage to commit. The methods are called in the order they stand in."""

    def __init__(self, plan: RunPlan, report: Report, retry_quarantined: bool, name: str | None):
        self.plan, self.lake, self.recipe, self.name = plan, plan.lake, plan.recipe, name
        self.report = report
        self.retry_quarantined = retry_quarantined
        self.started = time.monotonic()
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}  # (uri, video_id) -> videos row
        self.originals: dict[str, str] = {}  # video_id -> the URI that entered first
        self.new_videos: list[dict[str, Any]] = []
        self.changed: list[dict[str, Any]] = []  # rows that the lake has in another form

    def run(self) -> Commit:
        self._identify()
        latest = self._unchanged()
        if latest is not None:
            return latest
        shards = self._measure()
        clips, embeddings = self._gather(shards)
        decisions = self._decide(clips, embeddings)
        return self._commit(shards, clips, decisions)

    def _say(
        self,
        stage: str,
        done: int,
        total: int,
        counts: dict[str, int] | None = None,
        costs: dict[str, float] | None = None,
    ) -> None:
        elapsed = time.monotonic() - self.started
        self.report(
            Progress(stage=stage, done=done, total=total, seconds=elapsed, counts=counts or {}, costs=costs or {})
        )

    # --- what enters, and what of it is new ----------------------------------------------------------------------

    def _identify(self) -> None:
        """Identity of every video of the call, then the data set's videos of earlier runs, which stay in it."""
        gone = self.lake.log.taken_down()
        columns = {
            footage.uri: footage.columns
            for footage in self.plan.footage
            if footage.uri not in gone and footage.columns.get("source_id") not in gone
        }
        self._say("identify", 0, len(columns))
        found = {}
        for item in workers.identify(list(columns)):
            found[item["uri"]] = item
            self._say("identify", len(found), len(columns))
        columns = {uri: own for uri, own in columns.items() if (found[uri]["sha256"] or "")[:32] not in gone}
        known = {
            (row["uri"], row["video_id"]): row
            for row in self.lake.head("videos").to_pylist()
            if not {row["uri"], row["video_id"], row.get("source_id")} & gone.keys()
        }
        self.in_lake = set(known)
        self.measured: dict[str, dict[str, Any]] = {}  # by bytes; the row that knows most
        for (_, video_id), row in known.items():
            if row["cause"] is None and self._depth(row) >= self._depth(self.measured.get(video_id)):
                self.measured[video_id] = row
        before = self.lake.head(
            "decisions", ["dataset", "kind", "uri", "video_id"], where=("dataset", [self.plan.dataset])
        ).to_pylist()
        self.decided_before = {(row["uri"], row["video_id"]) for row in before if row["kind"] == "video"}
        self.decided_before &= known.keys()
        for key in sorted(self.decided_before):
            self.rows[key] = known[key]
        for uri in columns:  # in the order of the sources, so that the first of two copies is the original
            item = found[uri]
            digest = item["sha256"] or hashlib.sha256(f"missing/{uri}".encode()).hexdigest()
            key = (uri, digest[:32])
            again = key in known and known[key]["cause"] is not None and self.retry_quarantined
            if key not in known or again:
                row = {"uri": uri, "video_id": key[1], "sha256": digest, "bytes": item["size"]}
                facts = {name: value for name, value in item.items() if name in FACTS}
                unread = {"damaged": True, "num_shots": 0} if item["cause"] is not None else {}
                self.rows[key] = row | facts | unread | columns[uri]
                (self.changed if again else self.new_videos).append(self.rows[key])
            else:
                self.rows[key] = known[key]
        for uri, video_id in self.rows:
            self.originals.setdefault(video_id, uri)
        self.ladder = self.plan.ladder or (self.recipe.scores == "auto" and len(self.rows) > LADDER_ABOVE)

    @staticmethod
    def _depth(row: dict[str, Any] | None) -> int:
        """How much a videos row knows: nothing, some, a strip, a strip of today's version."""
        return 0 if row is None else 1 + (row["strip_uri"] is not None) + (row["strip_version"] == STRIP_VERSION)

    def _unchanged(self) -> Commit | None:
        """The commit there is, when this call would only repeat it."""
        commits = self.lake.commits(self.plan.dataset)
        if not commits or self.new_videos or self.changed or set(self.rows) != self.decided_before:
            return None
        last = commits[-1]
        return last if (last.recipe_hash, last.measured_by) == (self.recipe.hash, self._measured_by()) else None

    def _measured_by(self) -> str:
        return measurement_key(self.recipe, self.ladder)

    # --- measuring: shots, visual, motion, embeddings --------------------------------------------------------------

    def _measure(self) -> list[str]:
        """Send every readable video of the data set through the workers; what they know already costs them a look at its strip."""
        videos = []
        for row in self.rows.values():
            if row["cause"] is not None or self.originals[row["video_id"]] != row["uri"]:
                continue
            video = Video(
                uri=row["uri"],
                video_id=row["video_id"],
                sha256=row["sha256"],
                size=row["bytes"],
                facts=facts_of_row(row),
                strip_uri=self._strip_uri(row["video_id"]),
                shots=ShotFrames.of_row(self.measured.get(row["video_id"], {})),
            )
            if not self._stopped_early(row, video):
                videos.append(video)
        shards = cut_shards(videos, cost_per_second(self.measured.values()))
        job = ShardJob(
            lake_uri=self.lake.uri,
            catalog=self.lake.catalog_uri,
            recipe=self.recipe.model_dump(),
            ladder=self.ladder,
            key=self._measured_by(),
            order=tuple(self._order()),
        )
        counts: dict[str, int] = {}
        costs: dict[str, float] = {}
        pool = min(workers.num_workers(), len(shards))
        self._say("measure", 0, len(videos), costs={"workers": pool})
        for summary in workers.measure_shards(shards, job) if shards else ():
            peak = max(costs.get("peak_bytes", 0), summary.pop("peak_bytes"))
            for name, value in summary.items():
                if isinstance(value, int):  # videos, clips, quarantined, stopped_early
                    counts[name] = counts.get(name, 0) + value
                elif isinstance(value, float):
                    costs[name] = costs.get(name, 0.0) + value
            costs |= {"workers": pool, "peak_bytes": peak}
            self._say("measure", counts["videos"], len(videos), dict(counts), dict(costs))
        return [shard_name(shard, job.key) for shard in shards]

    def _order(self) -> list[str]:
        """Only a ladder stops at a rejection; without one the order saves nothing."""
        if not self.ladder:
            return []
        decided = self.lake.head("decisions", ["dataset", "failed_rules"], where=("dataset", [self.plan.dataset]))
        return cheapest_first(self.measured.values(), decided.to_pylist(), self.recipe)

    def _stopped_early(self, row: dict[str, Any], video: Video) -> bool:
        """What the ladder says before a worker is asked: an earlier run's verdict, or the container; the audit sample goes on."""
        stored = stored_verdict(self.measured.get(video.video_id), self.recipe)
        before = dict(row)
        row |= {"early_rung": None, "early_rule": None, "early_value": None}
        if not self.ladder or video.strip_uri is not None:
            return False
        verdict = stored or ask_container(video.facts, self.recipe)
        if verdict is None:
            return False
        row |= verdict.as_columns()
        if audited(video.video_id, self.recipe):
            return False
        row["rung"] = verdict.rung
        if (video.uri, video.video_id) in self.in_lake and row != before:
            self.changed.append(row)
        return True

    def _strip_uri(self, video_id: str) -> str | None:
        row = self.measured.get(video_id)
        return row["strip_uri"] if row is not None and row["strip_version"] == STRIP_VERSION else None

    def _gather(self, shards: list[str]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """What the workers staged, and the embeddings of clips measured in earlier runs."""
        clips: list[dict[str, Any]] = []
        embeddings: dict[str, np.ndarray] = {}
        for name in shards:
            for row in read_staged(self.lake.uri, name, "videos").to_pylist():
                entry = self.rows[row["uri"], row["video_id"]]
                if row.pop("known"):  # measured in an earlier run, perhaps at another URI
                    row = {k: v for k, v in self.measured[row["video_id"]].items() if k in FACTS}
                elif (row["uri"], row["video_id"]) in self.in_lake:
                    self.changed.append(entry)
                # the container's verdict on a video of the audit sample was not the worker's to find
                found = {k: v for k, v in row.items() if k in FACTS}
                entry.update({k: v for k, v in found.items() if v is not None or not k.startswith("early_")})
            clips += read_staged(self.lake.uri, name, "clips").to_pylist()
            for row in read_staged(self.lake.uri, name, "embeddings").to_pylist():
                embeddings[row["clip_id"]] = np.asarray(row["embedding"], np.float32)
        missing = [clip["clip_id"] for clip in clips if clip["clip_id"] not in embeddings]
        if missing:
            for row in self.lake.head("embeddings", where=("clip_id", missing)).to_pylist():
                if row["embedder"] == EMBEDDER:
                    embeddings[row["clip_id"]] = np.asarray(row["embedding"], np.float32)
        for row in self.rows.values():  # a second URI of the same bytes: the facts are the original's
            original = self.rows.get((self.originals[row["video_id"]], row["video_id"]))
            if original is not None and original is not row:
                row.update({k: v for k, v in original.items() if k in FACTS})
        return clips, embeddings

    # --- deciding --------------------------------------------------------------------------------------------------

    def _decide(self, clips: list[dict[str, Any]], embeddings: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """Rules, copies and balance over everything measured; then the fate of each video from its clips'."""
        self._say("decide", 0, len(clips))
        clips.sort(key=lambda clip: clip["clip_id"])  # clusters depend on the order, which is not the shards' to say
        placed = [clip | {"uri": self.originals[clip["video_id"]]} for clip in clips]
        clip_rows = decide_clips(placed, embeddings, self.recipe)
        of_video: dict[str, list[dict[str, Any]]] = {}
        for row in clip_rows:
            of_video.setdefault(row["video_id"], []).append(row)
        video_rows = []
        for (uri, video_id), row in self.rows.items():
            original = self.originals[video_id]
            video_rows.append(
                decide_video(row, of_video.get(video_id, []), None if original == uri else original, self.recipe)
            )
        counts = ledger.counts_of([*video_rows, *clip_rows])
        ledger.check(counts, len(self.rows), len(clips))
        self._say("decide", len(clips), len(clips), counts)
        return [*video_rows, *clip_rows]

    # --- captions and the commit -------------------------------------------------------------------------------------

    def _write_videos(self) -> None:
        """New rows, and rows that know more than before; what is known of some bytes is known of all their URIs."""
        self.lake.append("videos", _table(self.new_videos, _with_passed_through(self.new_videos)))
        if not self.changed:
            return
        facts = {row["video_id"]: {k: v for k, v in row.items() if k in FACTS} for row in self.changed}
        rows = self.lake.head("videos", where=("video_id", list(facts))).to_pylist()
        rows = [row | facts[row["video_id"]] for row in rows]
        self.lake.replace("videos", "video_id", _table(rows, _with_passed_through(rows)))

    def _add_embeddings(self, shards: Sequence[str]) -> None:
        """The files that workers staged, as they are; of shards that hold vectors of earlier runs only the new rows."""
        embedded = {
            (r["clip_id"], r["embedder"]) for r in self.lake.head("embeddings", ["clip_id", "embedder"]).to_pylist()
        }
        whole, rows = {}, []
        for name in shards:
            ids = read_staged(self.lake.uri, name, "embeddings", ["clip_id", "embedder"]).to_pylist()
            new = {(r["clip_id"], r["embedder"]) for r in ids} - embedded
            if len(new) == len(ids) > 0:
                whole[name] = staged(self.lake.uri, name, "embeddings")
            elif new:
                table = read_staged(self.lake.uri, name, "embeddings")
                rows += [r for r in table.to_pylist() if (r["clip_id"], r["embedder"]) in new]
            embedded |= new
        self.lake.register("embeddings", self._measured_by(), whole, arrow_schema(EMBEDDINGS))
        self.lake.append("embeddings", _table(rows, arrow_schema(EMBEDDINGS)))

    def _commit(self, shards: list[str], clips: list[dict[str, Any]], decisions: list[dict[str, Any]]) -> Commit:
        """Write what is new, the data set's decisions as a whole, and, last of all, the row that makes it a snapshot."""
        self._say("commit", 0, 1)
        # embeddings before clips before videos: what a killed run left is then measured again, or whole
        self._add_embeddings(shards)
        columns = ["clip_id", "signal_versions", "skipped_signals", "shot_seconds", "shot_rank", "detector"]
        known = {row["clip_id"]: row for row in self.lake.head("clips", columns).to_pylist()}
        fresh = [c for c in clips if {name: c[name] for name in columns} != known.get(c["clip_id"])]
        self.lake.replace("clips", "clip_id", _table([c for c in fresh if c["clip_id"] in known], clips_schema()))
        self.lake.append("clips", _table([c for c in fresh if c["clip_id"] not in known], clips_schema()))
        self._write_videos()
        append_captions(self.lake, clips, decisions)
        decisions = [row | {"dataset": self.plan.dataset} for row in decisions]
        self.lake.replace("decisions", "dataset", _table(decisions, arrow_schema(DECISIONS)))
        counts = ledger.counts_of(decisions)
        ledger.check(counts, len(self.rows), len(clips))
        recipe = self.recipe.model_dump(mode="json")
        commit = self.lake.commit(
            self.plan.dataset,
            recipe_hash=self.recipe.hash,
            recipe=recipe,
            code_version=CODE_VERSION,
            counts=counts,
            measured_by=self._measured_by(),
            run=self.name,
        )
        for name in shards:
            remove_folder(join(self.lake.uri, "staging", name))
        self._say("commit", 1, 1, counts)
        return commit


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


def _with_passed_through(rows: Sequence[dict[str, Any]]) -> pa.Schema:
    """The schema of `videos` with the input list's own columns, typed by their values."""
    extra: dict[str, pa.DataType] = {}
    for row in rows:
        for name, value in row.items():
            if name not in FACTS and name != "uri" and value is not None:
                extra.setdefault(name, pa.scalar(value).type)
    return arrow_schema(VIDEOS, extra)
