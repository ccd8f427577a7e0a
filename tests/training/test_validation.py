"""Validation while training: the same clips, times and noise each time, compared clip by clip."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from models.autoencoders.tae import TAE
from tests.training.test_loop import Cubic, fetch, make_plan, objective, shape
from training.agreement import STOP_FILE
from training.checkpoints import newest
from training.cluster import train_here
from training.data.loader import Loader
from training.evaluation.intervals import mean_interval, paired_difference, student_t
from training.evaluation.reconstruction import ReconstructionValidation
from training.evaluation.validation import ClipMeasured, choose_clips, losses_by_clip, summarised, validate_everywhere
from training.loop import LoopConfig, NotFinite, Training, run_loop
from training.metrics import MetricsLog, read_metrics
from training.optim import OptimizerConfig, Plateau, learning_rate, plateau_events
from training.prepare import prepare_run
from training.storage import open_storage
from training.world import World


def test_a_95_percent_interval_covers_the_mean_19_times_in_20():
    generator = np.random.default_rng(0)
    for count in (2, 5, 40):
        found = [mean_interval(generator.normal(3.0, 2.0, count).tolist()) for _ in range(4000)]
        covered = np.mean([abs(mean - 3.0) <= half for mean, half in found])
        assert covered == pytest.approx(0.95, abs=0.012), count  # 3.5 standard errors of 4,000 draws
    assert student_t(30) == pytest.approx(2.042, abs=4e-3)
    assert mean_interval([1.5]) == (1.5, None)


def test_pairs_take_out_what_makes_clips_differ():
    before = {f"clip {i}": float(i) for i in range(10)}
    after = {name: loss - 0.1 - 0.001 * i for i, (name, loss) in enumerate(before.items())} | {"new": 99.0}
    mean, half = paired_difference(before, after)

    assert mean == pytest.approx(-0.1045)
    assert half < 0.003 < mean_interval(list(before.values()))[1]
    assert paired_difference({}, after) is None


def test_a_summary_has_every_bucket_and_the_change_since_the_last():
    def clip(name, bucket, loss):
        return ClipMeasured(clip_id=name, bucket=bucket, numbers={"loss": loss}, by_time=[loss - 1, loss + 1])

    clips = [clip("a", "video", 1.0), clip("b", "video", 3.0), clip("a", "image", 5.0)]
    values = summarised(clips, {"a/video": 2.0, "b/video": 4.0})

    assert (values["loss"], values["loss/video"], values["loss/image"]) == (3.0, 2.0, 5.0)
    assert values["change"] == -1.0 and values["change_ci95"] == 0.0
    assert "loss/image_ci95" not in values and values["loss/video_ci95"] == pytest.approx(12.706)
    assert values["loss_by_time"] == [2.0, 4.0]
    assert values["num_clips"] == 2 and values["loss_ci95"] == 0.0, "a clip in two buckets is one clip: both average 3"


def test_the_same_few_clips_of_each_bucket_are_chosen_in_any_order(rows, video_recipe):
    some = choose_clips(rows, video_recipe, 2)

    assert [(row["clip_id"], bucket.frames) for row, bucket in some] == [
        (row["clip_id"], frames) for frames in (8, 1) for row in sorted(rows, key=lambda r: r["clip_id"])[:2]
    ]
    assert choose_clips(rows[::-1], video_recipe, 2) == some


PLATEAU = OptimizerConfig(learning_rate=0.8, warmup_steps=1, plateau=Plateau(patience=2, threshold=0.01))


def test_the_rate_is_halved_after_so_many_validations_without_a_better_one():
    history = [(10, 1.0), (20, 0.9), (30, 0.95), (40, 0.895), (50, 0.7), (60, 0.7), (70, 0.7), (80, 0.7), (90, 0.7)]
    events = plateau_events(PLATEAU, history)

    assert events == [(40, 0.4), (70, 0.2), (90, 0.1)], "0.895 is not 1 % below 0.9"
    assert all(plateau_events(PLATEAU, history[:n]) == [e for e in events if e[0] <= 10 * n] for n in range(10))
    assert [learning_rate(PLATEAU, s, 100, events) for s in (0, 39, 40, 69, 70, 99)] == [0.8, 0.8, 0.4, 0.4, 0.2, 0.1]
    floor = replace(PLATEAU, plateau=replace(PLATEAU.plateau, min_learning_rate=0.3))
    assert plateau_events(floor, history) == [(40, 0.4)]


def test_a_plateau_that_cannot_work_is_refused(video_recipe, make_lake, rows, tae_recipe, tmp_path):
    with pytest.raises(ValueError, match="use schedule 'constant'"):
        OptimizerConfig(learning_rate=1.0, schedule="cosine", plateau=Plateau())
    with pytest.raises(ValueError, match="set validate_every"):
        replace(video_recipe, optimizer=PLATEAU, validate_every=None)
    with pytest.raises(ValueError, match="patience=0"):
        Plateau(patience=0)
    name = make_lake([row | {"split": "train"} for row in rows])
    recipe = replace(tae_recipe, optimizer=PLATEAU, validate_every=2)
    with pytest.raises(ValueError, match="holds out no clip of its buckets"):
        prepare_run("tae", name, recipe, tmp_path / "run")


@torch.no_grad()
def stuck(model: nn.Module, world: World) -> list[ClipMeasured]:
    """The loss of four fixed points to a target far away: it hardly falls."""
    data = torch.linspace(-1, 1, 12).reshape(4, 3)
    losses = (model(data) - 1000).square().tolist()
    return [ClipMeasured(clip_id=str(i), bucket="b", numbers={"loss": loss}) for i, loss in enumerate(losses)]


CONFIG = LoopConfig(steps=12, optimizer=PLATEAU, checkpoint_every=3, validate_every=2)


def run(out, until=None, objective=objective):
    plan = make_plan()
    training = Training.start(Cubic(), CONFIG.optimizer, newest(open_storage(out / "checkpoints")))
    log = MetricsLog(out, tensorboard=False)
    loader = Loader(plan, fetch, shape, last_step=CONFIG.steps)

    def stop(step):
        if step == until:
            (out / STOP_FILE).touch()

    try:
        return run_loop(
            training, objective, loader, CONFIG, out=out, storage=open_storage(out / "checkpoints"), world=World(),
                num_rows=12, state={}, log=log,
            after_step=stop, validate=stuck,
        )  # fmt: skip
    finally:
        loader.close()
        log.close()


def test_a_resumed_run_sees_the_validations_and_rates_of_a_straight_one(tmp_path):
    run(tmp_path / "straight")
    run(tmp_path / "parts", until=6)
    run(tmp_path / "parts")

    straight, parts = (read_metrics(tmp_path / name) for name in ("straight", "parts"))
    for event, names in (
        ("step", ("step", "loss", "learning_rate", "batch")),
        ("validation", ("step", "loss", "loss_ci95", "clips")),
        ("learning_rate", ("step", "learning_rate")),
    ):
        told = [
            [tuple(map(str, (line[n] for n in names))) for line in lines if line["event"] == event]
            for lines in (straight, parts)
        ]
        assert told[0] == told[1] and told[0], event
    assert [(line["step"], line["learning_rate"]) for line in straight if line["event"] == "learning_rate"] == [
        (4, 0.4), (8, 0.2), (12, 0.1),
    ]  # fmt: skip
    changes = [line.get("change") for line in straight if line["event"] == "validation"]
    assert changes[0] is None and all(change is not None for change in changes[1:])
    state = newest(open_storage(tmp_path / "straight" / "checkpoints")).state
    assert state["rate_events"] == [[4, 0.4], [8, 0.2], [12, 0.1]]
    assert math.isclose(state["validations"][-1][1], sum(state["last_validation"].values()) / 4)


def test_a_gradient_that_is_no_number_stops_the_run_and_names_the_clips(tmp_path):
    def steep(model, group):
        losses, numbers = objective(model, group)
        if group.samples[0].step == 7:
            losses = losses + (losses - losses.detach()).abs().sqrt()  # 0, with a slope that is no number
        return losses, numbers

    batch = sorted(s.clip_id for s in make_plan().step(7))
    with pytest.raises(NotFinite, match=rf"the gradient of step 8 is no finite number, on clips {batch[0]}"):
        run(tmp_path, objective=steep)
    assert newest(open_storage(tmp_path / "checkpoints")).step == 6
    assert read_metrics(tmp_path, "not_finite")[0]["at_step"] == 8


def test_real_runs_validate_on_the_held_out_clip(small_snapshot, tae_recipe, video_recipe, tmp_path):
    tae, video = tmp_path / "tae", tmp_path / "video"
    recipe = replace(tae_recipe, validate_every=3)
    assert train_here(prepare_run("tae", small_snapshot, recipe, tae), World())
    assert train_here(
        prepare_run("video", small_snapshot, replace(video_recipe, validate_every=3), video, tae=tae), World()
    )

    for out, names in ((tae, {"loss", "psnr"}), (video, {"loss", "loss_by_time"})):
        lines = read_metrics(out, "validation")
        assert [line["step"] for line in lines] == [0, 3, 6]
        assert all(names <= line.keys() for line in lines)
        assert all(0 < line["data_wait"] < 1 for line in read_metrics(out, "step"))
    first = read_metrics(video, "validation")[0]
    assert {clip["bucket"] for clip in first["clips"]} == {"8f8fps-32x32", "1f-32x32"}
    assert read_metrics(video, "step")[0]["tokens_per_second"] > 0
    assert read_metrics(tae, "step")[0]["frames_per_second"] > 0
    written = json.loads((video / "evaluation.json").read_text())
    assert len(written["clips"]) == 4


def _validate_in_worker(rank: int, size: int, folder: str, rows: list, recipe) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    torch.save(_validated(World(rank=rank, size=size), rows, recipe), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _validated(world: World, rows: list, recipe) -> dict[str, float]:
    torch.manual_seed(0)
    measured = validate_everywhere(ReconstructionValidation(choose_clips(rows, recipe, 2)), TAE(recipe.model), world)
    return losses_by_clip(measured)


def test_workers_share_the_clips_and_all_see_one_workers_losses(rows, tae_recipe, tmp_path):
    mp.spawn(_validate_in_worker, args=(2, str(tmp_path), rows[:3], tae_recipe), nprocs=2)
    alone = _validated(World(), rows[:3], tae_recipe)

    assert len(alone) == 4, "two videos and two pictures"
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == alone


def test_validating_changes_no_step(small_snapshot, tae_recipe, tmp_path):
    losses = []
    for every in (None, 1):
        out = tmp_path / str(every)
        recipe = replace(tae_recipe, validate_every=every, steps=3)
        assert train_here(prepare_run("tae", small_snapshot, recipe, out), World())
        losses.append([line["loss"] for line in read_metrics(out, "step")])

    assert losses[0] == losses[1]
