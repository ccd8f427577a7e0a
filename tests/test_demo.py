"""The demo, end to end: small in every run of the tests, whole in the slow ones."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from api.cli.demo import Shown
from api.demo import CURATE, GENERATE, REPORT, STAGES, TAE, VIDEO, DemoSettings, Step, default_prompt, run_demo
from api.report.sample import frames_of
from curation.clips import WrongCall, open_snapshot
from curation.recipes import load_recipe
from training.recipes import load_tae_recipe, load_video_recipe

ROOT = Path(__file__).parent.parent
FOOTAGE = (
    "bee_720p.mp4",
    "flower_timelapse_540p_vp8.webm",
    "toy_elf_480p.mp4",
    "black_silent_10s.mp4",
    "odd_invalid_bitstream_vp9.webm",
)


class Watched:
    """Remembers what the demo said; interrupts it where told to, as Ctrl-C would."""

    def __init__(self, interrupt: str | None = None):
        self.interrupt = interrupt
        self.steps: list[Step] = []

    def __call__(self, step: Step) -> None:
        self.steps.append(step)
        if step.state == "runs" and step.stage == self.interrupt:
            raise KeyboardInterrupt

    def stages(self, state: str) -> list[str]:
        return [step.stage for step in self.steps if step.state == state]


@pytest.fixture(scope="module")
def settings(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> DemoSettings:
    folder = tmp_path_factory.mktemp("small_demo")
    video = load_video_recipe("video_demo")
    samples = folder / "samples"
    samples.mkdir()
    for name in (*FOOTAGE, "SOURCES.csv"):
        shutil.copy(ROOT / "samples" / name, samples)
    return DemoSettings(
        samples=str(samples),
        out=folder / "demo",
        recipe=load_recipe("demo"),
        tae=replace(load_tae_recipe("tae_demo"), steps=3, checkpoint_every=2),
        video=replace(video, model=replace(video.model, layers=1), steps=3, checkpoint_every=2),
        steps=3,
    )


def _times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_demo_in_small_end_to_end(settings: DemoSettings) -> None:
    stopped = Watched(interrupt=TAE)
    with pytest.raises(KeyboardInterrupt):
        run_demo(settings, stopped)
    assert stopped.stages("done") == [CURATE]

    first = Watched()
    demo = run_demo(settings, first)
    assert first.stages("reused") == [CURATE]
    assert first.stages("done") == [TAE, VIDEO, GENERATE, REPORT]
    assert demo.snapshot.commit.counts["videos_in"] == 5 and demo.snapshot.commit.counts["clips_kept"] == 3
    for file in ("tae/final/model.safetensors", "video/final/model.safetensors", "lake/catalog.db", "report.html"):
        assert (settings.out / file).is_file(), file
    frames = frames_of(demo.made)
    assert frames.shape == (demo.made.frames, demo.made.height, demo.made.width, 3) and frames.dtype == np.uint8
    assert frames.std() > 0
    assert demo.made.prompt == default_prompt(demo.snapshot)
    assert set(demo.timings) == set(STAGES) and all(seconds > 0 for seconds in demo.timings.values())

    html = (settings.out / "report.html").read_text()
    report = json.loads((settings.out / "tae" / "evaluation.json").read_text())
    assert all(
        f"{clip['psnr']:.1f} dB" in html and f"linear {clip['psnr_linear']:.1f} dB" in html for clip in report["clips"]
    )
    assert html.count("<video") >= 3 + 3 + 3 + 3  # kept clips, reconstructions, samples, the clip and its neighbours
    assert demo.made.prompt in html and "http://" not in html and "https://" not in html

    before = _times(settings.out)
    second = Watched()
    again = run_demo(settings, second)
    assert second.stages("reused") == list(STAGES) and again.reused == STAGES
    assert _times(settings.out) == before
    assert again.timings == demo.timings and again.made == demo.made

    prompted = Watched()
    other = run_demo(replace(settings, prompt="An evenly lit clip of something else."), prompted)
    assert prompted.stages("reused") == [CURATE, TAE, VIDEO] and prompted.stages("done") == [GENERATE, REPORT]
    assert other.made.prompt == "An evenly lit clip of something else."


def test_a_wrong_call_is_said_before_any_work(settings: DemoSettings, tmp_path: Path) -> None:
    watched = Watched()
    with pytest.raises(WrongCall, match="nowhere"):
        run_demo(replace(settings, samples=str(tmp_path / "nowhere"), out=tmp_path / "demo"), watched)
    assert watched.steps == [] and not (tmp_path / "demo").exists()


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_line_a_stage_and_bars_only_on_a_terminal(
    terminal: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Shown(terminal) as shown:
        for stage, phases in (
            (CURATE, ("identify", "measure", "decide")),
            (TAE, ("starting", "training", "evaluating")),
        ):
            shown(Step(stage=stage, state="begins"))
            for phase in phases:
                for done in range(3):
                    shown(Step(stage=stage, state="runs", phase=phase, done=done, total=2, note="loss 0.5"))
            shown(Step(stage=stage, state="done", seconds=125.0))
        shown(Step(stage=VIDEO, state="reused"))
    said = capsys.readouterr()
    lines = said.err if terminal else said.out
    for words in ("1  curate", "2  train the autoencoder", "done in 2 min 05 s", "3  train the transformer: reused"):
        assert words in lines
    assert terminal or said.err == ""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_demo_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "api.cli", "demo", "--out", str(out), "--samples", str(ROOT / "samples")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"cinemill serve --data {out / 'lake'}" in done.stdout
    counts = open_snapshot(f"{out / 'lake'}#demo").commit.counts
    assert counts["videos_in"] == 15 and counts["clips_kept"] >= 4
    tae, video = (json.loads((out / run / "evaluation.json").read_text()) for run in ("tae", "video"))
    assert tae["summary"]["train"]["psnr_median"] >= 20
    assert video["summary"]["train"]["loss"] < video["summary"]["train"]["gaussian_loss_per_position"] / 2
    assert (out / "report.html").stat().st_size < 6e6 and (out / "generated.mp4").is_file()

    again = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert again.returncode == 0 and again.stdout.count(": reused") == len(STAGES)
