"""The demo: real footage, a manifest, an autoencoder, a transformer, a generated clip and a page that shows all of it.

Every stage asks first whether what it would make is there already and belongs to the same inputs. The rooms' own records say
so for curation (the commit) and training (run.json); for the clip and the page, and for how long stages took, OUT/demo.json does.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from api.report import build_report, report_version
from curation import pipeline, workers
from curation.clips import Lake, Snapshot, UnreadableVideo, WrongCall
from curation.clips.storage import sha256
from curation.measure import measurement_key
from curation.recipes import Recipe
from models.weights import weights_sha256
from training import cluster
from training.generate import Generated, generate
from training.recipes import TAERecipe, VideoRecipe, recipe_hash

CURATE, TAE, VIDEO, GENERATE, REPORT = STAGES = (
    "curate",
    "train the autoencoder",
    "train the transformer",
    "generate a clip",
    "write the report",
)


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What a demo is made from. Equal settings and unchanged files give nothing to do."""

    samples: str
    out: Path
    recipe: Recipe
    tae: TAERecipe
    video: VideoRecipe
    prompt: str | None = None  # None: the caption of the training clip that the classifier is surest of
    steps: int = 50
    guidance: float = 7.5
    seed: int = 0
    schedule: str = "linear-quadratic"

    @property
    def lake(self) -> Path:
        """The lake inside the demo's folder."""
        return self.out / "lake"


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the demo is doing now. `phase`, `done` and `total` are of the stage that runs; `seconds` of one that is done."""

    stage: str
    state: Literal["begins", "runs", "done", "reused"]
    phase: str = ""
    done: int = 0
    total: int = 0
    note: str = ""
    seconds: float = 0.0


Watch = Callable[[Step], None]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What there is in the end, and how long each stage took when it was made."""

    snapshot: Snapshot
    tae: Path
    video: Path
    made: Generated
    report: Path
    reused: tuple[str, ...]
    timings: dict[str, float]


def run_demo(settings: DemoSettings, watch: Watch = lambda _: None) -> Demo:
    """Make what is missing, in order, on one Ray in this process. Interrupted, the same call goes on where it was.

    Raises WrongCall for settings that cannot work, training.cluster.RunFailed when a worker fails.
    """
    return _Demo(settings, watch).run()


class _Demo:
    """One call. The stages stand in the order they run in."""

    def __init__(self, settings: DemoSettings, watch: Watch):
        self.settings, self.watch = settings, watch
        self.records = _Records(settings.out / "demo.json")
        self.reused: list[str] = []

    def run(self) -> Demo:
        snapshot = self._curate()
        tae = self._train_tae(snapshot)
        video = self._train_video(snapshot, tae)
        made = self._generate(snapshot, video)
        report = self._report(snapshot, tae, video, made)
        return Demo(
            snapshot=snapshot,
            tae=tae,
            video=video,
            made=made,
            report=report,
            reused=tuple(self.reused),
            timings=self.records.timings(),
        )

    def _curate(self) -> Snapshot:
        settings = self.settings
        plan = pipeline.plan_run([settings.samples], settings.recipe, str(settings.lake))
        snapshot = curated(plan)
        if snapshot is not None:
            return self._reuse(CURATE, snapshot)
        with self._stage(CURATE, {"recipe": settings.recipe.hash, "samples": settings.samples}):
            pipeline.curate([settings.samples], settings.recipe, str(settings.lake), progress=self._curating)
        return plan.lake.snapshot(plan.dataset)

    def _train_tae(self, snapshot: Snapshot) -> Path:
        train = partial(cluster.train_tae, snapshot.name, self.settings.tae)
        belongs = {"kind": "tae", "snapshot": snapshot.name, "recipe_hash": recipe_hash(self.settings.tae)}
        return self._train(TAE, self.settings.out / "tae", belongs, train)

    def _train_video(self, snapshot: Snapshot, tae: Path) -> Path:
        train = partial(cluster.train_video, snapshot.name, self.settings.video, tae=tae)
        belongs = {"kind": "video", "snapshot": snapshot.name, "recipe_hash": recipe_hash(self.settings.video)}
        belongs["tae_sha256"] = weights_sha256(tae / "final")
        return self._train(VIDEO, self.settings.out / "video", belongs, train)

    def _train(self, stage: str, run: Path, belongs: dict[str, str], train: Callable[..., Path]) -> Path:
        before = _read_json(run / "run.json")
        ours = before is not None and all(before.get(name) == value for name, value in belongs.items())
        if ours and (run / "final" / "config.json").is_file() and (run / "evaluation.json").is_file():
            return self._reuse(stage, run)
        if before is not None and not ours:
            _step_aside(run)
        with self._stage(stage, belongs), _said_plainly():
            workers.connect()
            train(run, resume=ours, progress=partial(self._training, stage))
        return run

    def _generate(self, snapshot: Snapshot, video: Path) -> Generated:
        settings, path = self.settings, self.settings.out / "generated.mp4"
        asked: dict[str, Any] = {
            "prompt": settings.prompt or default_prompt(snapshot),
            "steps": settings.steps,
            "guidance": settings.guidance,
            "seed": settings.seed,
            "schedule": settings.schedule,
        }
        inputs = {**asked, "checkpoint": weights_sha256(video / "final")}
        known = self.records.get(GENERATE)
        if path.is_file() and known.get("done") and known["inputs"] == inputs and "result" in known:
            return self._reuse(GENERATE, Generated(path=path, **known["result"]))
        with self._stage(GENERATE, inputs), _said_plainly():
            self._runs(GENERATE, "sampling", 0, settings.steps)
            made = generate(video, out=path, on_step=partial(self._runs, GENERATE, "sampling"), **asked)
        self.records.put(GENERATE, result={name: value for name, value in asdict(made).items() if name != "path"})
        return made

    def _report(self, snapshot: Snapshot, tae: Path, video: Path, made: Generated) -> Path:
        path = self.settings.out / "report.html"
        inputs = {
            "snapshot": snapshot.name,
            "tae": weights_sha256(tae / "final"),
            "video": weights_sha256(video / "final"),
            "made": self.records.get(GENERATE)["inputs"],
            "report": report_version(),
        }
        known = self.records.get(REPORT)
        if path.is_file() and known.get("done") and known["inputs"] == inputs:
            return self._reuse(REPORT, path)
        timings = {stage: seconds for stage, seconds in self.records.timings().items() if stage != REPORT}
        with self._stage(REPORT, inputs):
            build_report(
                path,
                snapshot.name,
                tae=tae,
                video=video,
                made=made,
                timings=timings,
                progress=partial(self._runs, REPORT, "pictures"),
            )
        return path

    # --- telling and remembering -----------------------------------------------------------------------------------

    def _reuse(self, stage: str, result: Any) -> Any:
        self.reused.append(stage)
        self.watch(Step(stage=stage, state="reused", seconds=self.records.get(stage)["seconds"]))
        return result

    @contextlib.contextmanager
    def _stage(self, stage: str, inputs: dict[str, Any]) -> Iterator[None]:
        """Time a stage; what an interrupted call already spent on the same inputs counts, too."""
        self.watch(Step(stage=stage, state="begins"))
        known = self.records.get(stage)
        spent = known["seconds"] if known["inputs"] == inputs and not known.get("done") else 0.0
        began = time.monotonic()
        try:
            yield
        except BaseException:
            self.records.put(stage, inputs=inputs, seconds=spent + time.monotonic() - began, done=False)
            raise
        seconds = spent + time.monotonic() - began
        self.records.put(stage, inputs=inputs, seconds=seconds, done=True)
        self.watch(Step(stage=stage, state="done", seconds=seconds))

    def _runs(self, stage: str, phase: str, done: int, total: int, note: str = "") -> None:
        self.watch(Step(stage=stage, state="runs", phase=phase, done=done, total=total, note=note))

    def _curating(self, progress: pipeline.Progress) -> None:
        if progress.stage == "start":
            return
        note = ", ".join(f"{number} {name}" for name, number in progress.counts.items() if progress.stage == "measure")
        self._runs(CURATE, progress.stage, progress.done, progress.total, note)

    def _training(self, stage: str, progress: cluster.Progress) -> None:
        note = f"loss {progress.numbers['loss']:.3f}" if "loss" in progress.numbers else ""
        self._runs(stage, progress.phase, progress.done, progress.total, note)


def curated(plan: pipeline.RunPlan) -> Snapshot | None:
    """The newest snapshot of a planned run's data set, if that run would only repeat it: same recipe, same way of measuring,
    and every file in it byte for byte."""
    if not Lake.exists(plan.lake.uri) or plan.dataset not in plan.lake.datasets():
        return None
    snapshot = plan.lake.snapshot(plan.dataset)
    asked = (plan.recipe.hash, measurement_key(plan.recipe, plan.ladder))
    if (snapshot.commit.recipe_hash, snapshot.commit.measured_by) != asked:
        return None
    known = {(row["uri"], row["sha256"]) for row in snapshot.table("videos", ["uri", "sha256"]).to_pylist()}
    try:
        same = all((footage.uri, sha256(footage.uri)[0]) in known for footage in plan.footage)
    except UnreadableVideo:
        return None
    return snapshot if same else None


def default_prompt(snapshot: Snapshot) -> str:
    """The caption of the training clip whose first label the classifier gives the most to: the most telling one there is."""
    scores = {
        row["clip_id"]: max(row["label_scores"] or [0.0])
        for row in snapshot.table("clips", ["clip_id", "label_scores"]).to_pylist()
    }
    rows = [row for row in snapshot.kept_clips().to_pylist() if row["split"] == "train" and row["caption"]]
    if not rows:
        raise WrongCall(f"{snapshot.name} has no captioned training clip to take a prompt from; pass --prompt")
    return max(rows, key=lambda row: scores[row["clip_id"]])["caption"]


class _Records:
    """OUT/demo.json: by stage its inputs, the seconds it took, and, for the clip, the settings it was made with."""

    def __init__(self, path: Path):
        self.path = path
        self.stages: dict[str, dict[str, Any]] = _read_json(path) or {}

    def get(self, stage: str) -> dict[str, Any]:
        return {"inputs": None, "seconds": 0.0} | self.stages.get(stage, {})

    def put(self, stage: str, **values: Any) -> None:
        if values.get("inputs", self.get(stage)["inputs"]) != self.get(stage)["inputs"]:
            self.stages.pop(stage, None)
        self.stages[stage] = self.stages.get(stage, {}) | values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(json.dumps(self.stages, indent=1) + "\n")
        os.replace(part, self.path)

    def timings(self) -> dict[str, float]:
        return {stage: self.stages[stage]["seconds"] for stage in STAGES if stage in self.stages}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def _step_aside(run: Path) -> None:
    """A run of other inputs is in the way: it keeps its files under another name."""
    number = 1
    while (aside := run.with_name(f"{run.name}.old-{number}")).exists():
        number += 1
    run.rename(aside)


@contextlib.contextmanager
def _said_plainly() -> Iterator[None]:
    """Inside, a ValueError is about the call: footage that gives nothing to train on, a prompt setting that is wrong."""
    try:
        yield
    except WrongCall:
        raise
    except ValueError as error:
        raise WrongCall(str(error)) from error
