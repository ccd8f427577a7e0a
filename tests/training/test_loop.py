"""The loop: the same gradient on any number of workers, and the same losses after any stop."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from curation.clips import UnreadableVideo
from training.agreement import STOP_FILE
from training.checkpoints import newest
from training.data.buckets import Bucket
from training.data.groups import Group
from training.data.loader import Loader
from training.data.plan import Plan
from training.loop import LoopConfig, NotFinite, TooManyUnreadable, Training, accumulate, run_loop, train_step
from training.metrics import MetricsLog, read_metrics
from training.optim import OptimizerConfig
from training.recipes import tae_demo
from training.storage import open_storage
from training.world import World

SHAPE = (3,)
CONFIG = LoopConfig(
    steps=8, optimizer=OptimizerConfig(learning_rate=1e-2, schedule="cosine", warmup_steps=2), checkpoint_every=3
)


class Cubic(nn.Module):
    """Three numbers in, one out, with a little curvature."""

    config_class = OptimizerConfig

    def __init__(self) -> None:
        super().__init__()
        self.config = CONFIG.optimizer  # any dataclass: saving asks for one
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.linear(x)))[:, 0]


def objective(model: nn.Module, group: Group) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The target hides in the sample's keys, as noise and times do."""
    data = group.data.to(next(model.parameters()).dtype)
    target = torch.tensor([s.key("noise").uniform() for s in group.samples], dtype=data.dtype)
    error = (model(data) - target) ** 2
    return error, {"error": error.sqrt()}


def fetch(sample):
    return sample.key("window").normal(SHAPE)


def shape(bucket: Bucket):
    return SHAPE


def make_plan(batch=None) -> Plan:
    made = [
        {
            "clip_id": f"{i:032x}", "video_id": f"v{i}", "duplicate_group": f"g{i}", "split": "train", "caption": f"clip {i}",
            "start_seconds": 0.0, "end_seconds": 4.0, "fps": 24.0, "width": 64, "height": 64,
        }
        for i in range(12)
    ]  # fmt: skip
    recipe = tae_demo()
    return Plan(made, recipe if batch is None else replace(recipe, batch=batch), seed=5)


def run(out: Path, steps_of=CONFIG, fetch=fetch, until=None, plan=None):
    plan = plan or make_plan()
    training = Training.start(Cubic(), CONFIG.optimizer, newest(open_storage(out / "checkpoints")))
    log = MetricsLog(out, tensorboard=False)
    loader = Loader(plan, fetch, shape, last_step=steps_of.steps)

    def stop(step: int) -> None:
        if step == until:
            (out / STOP_FILE).touch()

    done = run_loop(
        training,
        objective,
        loader,
        steps_of,
        out=out,
        storage=open_storage(out / "checkpoints"),
        world=World(),
        num_rows=12,
        state={"plan_hash": plan.hash()},
        log=log,
        after_step=stop,
    )
    loader.close()
    log.close()
    return done, training


def test_a_resumed_run_has_the_losses_of_a_straight_one_to_the_last_bit(tmp_path):
    straight, whole = run(tmp_path / "straight")
    stopped, _ = run(tmp_path / "stopped", until=4)
    resumed, parts = run(tmp_path / "stopped")

    assert (straight, stopped, resumed) == (True, False, True)
    losses = [[line["loss"] for line in read_metrics(tmp_path / name, "step")] for name in ("straight", "stopped")]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    for name, value in whole.model.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], value)
        assert torch.equal(parts.average.values[name], whole.average.values[name])


def test_a_run_killed_between_checkpoints_repeats_the_lost_steps_exactly(tmp_path):
    run(tmp_path, steps_of=replace(CONFIG, checkpoint_every=100))
    straight = [line["loss"] for line in read_metrics(tmp_path, "step")]

    out = tmp_path / "killed"
    run(out, until=4)  # checkpoints at 3 and, because asked to stop, at 5
    (out / "checkpoints" / "step-00000005" / "COMMIT").unlink()  # as a kill would leave it
    _, training = run(out)

    assert training.step == 8
    assert [line["loss"] for line in read_metrics(out, "step")] == straight


def test_stopping_leaves_a_checkpoint_of_the_very_step(tmp_path):
    done, training = run(tmp_path, until=1)

    assert not done
    assert training.step == 2
    assert newest(open_storage(tmp_path / "checkpoints")).step == 2


def test_rows_that_do_not_decode_weigh_nothing_and_are_counted(tmp_path):
    plan = make_plan()
    broken = plan.rows[plan.step(0)[0].row]["clip_id"]

    def sometimes(sample):
        if sample.clip_id == broken:
            raise UnreadableVideo("nothing_decodes", "as a broken file does")
        return fetch(sample)

    _, training = run(tmp_path, fetch=sometimes, plan=plan)
    lines = read_metrics(tmp_path, "step")

    assert training.unreadable == {broken}
    assert lines[0]["samples"] == 3 and max(line["samples"] for line in lines) == 4
    assert newest(open_storage(tmp_path / "checkpoints")).state["unreadable"] == [broken]


def test_too_many_unreadable_rows_stop_the_run_with_their_names(tmp_path):
    plan = make_plan()
    broken = {plan.rows[i]["clip_id"] for i in (0, 1, 2)}

    def never(sample):
        if sample.clip_id in broken:
            raise UnreadableVideo("nothing_decodes", "as a broken file does")
        return fetch(sample)

    with pytest.raises(
        TooManyUnreadable, match=r"[23] of 12 rows cannot be read \(at most 1 may\): 0000.*; e.g. as a broken file does"
    ):
        run(tmp_path, fetch=never, plan=plan)


def test_a_loss_that_is_no_number_stops_the_run_before_it_spoils_the_weights(tmp_path):
    def poisoned(sample):
        return fetch(sample) * (float("nan") if sample.step == 4 else 1)

    with pytest.raises(NotFinite, match=r"the loss of step 5 is no finite number, on clips 0000"):
        run(tmp_path, fetch=poisoned)
    training = Training.start(Cubic(), CONFIG.optimizer, newest(open_storage(tmp_path / "checkpoints")))
    assert training.step == 3
    assert all(torch.isfinite(p).all() for p in training.model.parameters())


def test_a_micro_batch_changes_nothing_but_the_memory():
    plan, config = make_plan(), replace(CONFIG, optimizer=OptimizerConfig(learning_rate=1e-2, clip_norm=1e9))
    weights = []
    for micro in (None, 1, 2):
        training = Training.start(Cubic().double(), config.optimizer)
        loader = Loader(plan, lambda s: fetch(s).astype("float64"), shape, micro_batch=micro, last_step=3)
        for step in range(3):
            train_step(training, objective, loader.step(step), config, step, World())
        loader.close()
        weights.append(torch.cat([p.detach().flatten() for p in training.model.parameters()]))

    torch.testing.assert_close(weights[1], weights[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(weights[2], weights[0], rtol=1e-12, atol=1e-14)


def test_an_image_beside_a_video_counts_as_one_sample():
    samples = tuple(make_plan().step(0))
    data = torch.zeros(4, 3, dtype=torch.float64)
    groups = [
        Group(samples=samples[:3], data=data[:3], weights=torch.ones(3)),
        Group(samples=samples[3:], data=data[3:], weights=torch.ones(1)),
    ]

    def known(model, group):
        return model.out.bias[0].double() * torch.tensor([float(s.slot) for s in group.samples]), {}

    model = Cubic().double()
    sums = accumulate(model, known, groups, World())

    assert sums["count"] == 4
    assert float(model.out.bias.grad) == pytest.approx((0 + 1 + 2 + 3) / 4)


def _five_steps(world: World, broken: str) -> tuple[list[float], torch.Tensor]:
    """Losses and gradients of five steps in float64; one row does not decode."""

    def read(sample):
        if sample.clip_id == broken:
            raise UnreadableVideo("nothing_decodes", "as a broken file does")
        return fetch(sample).astype("float64")

    training = Training.start(Cubic().double(), CONFIG.optimizer)
    loader = Loader(make_plan(), read, shape, rank=world.rank, size=world.size, last_step=5)
    losses, gradients = [], []
    for step in range(5):
        losses.append(train_step(training, objective, loader.step(step), CONFIG, step, world)["loss"])
        gradients.append(torch.cat([p.grad.flatten() for p in training.model.parameters()]))
    loader.close()
    return losses, torch.stack(gradients)


def _worker(rank: int, size: int, folder: str, broken: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    torch.save(_five_steps(World(rank=rank, size=size), broken), f"{folder}/{size}-{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_compute_one_workers_gradients(tmp_path):
    """Three videos and one image on two workers: both shapes need padding, and one row does not decode."""
    broken = make_plan().rows[make_plan().step(1)[0].row]["clip_id"]
    mp.spawn(_worker, args=(2, str(tmp_path), broken), nprocs=2)
    losses, gradients = _five_steps(World(), broken)

    for rank in range(2):
        other_losses, other_gradients = torch.load(tmp_path / f"2-{rank}.pt")
        assert other_losses == pytest.approx(losses, rel=1e-12)
        assert float((other_gradients - gradients).abs().max() / gradients.abs().max()) < 1e-12


def test_one_notice_is_one_checkpoint_and_the_run_goes_on(tmp_path, monkeypatch):
    """A node's notice stays up until the node is gone; a second notice, after the first was lifted, is another one."""
    monkeypatch.setattr("training.agreement.ASK_SECONDS", 0.0)
    answers = iter([None, "save", "save", None, "save", "save"])
    training = Training.start(Cubic(), CONFIG.optimizer)
    loader, log = Loader(make_plan(), fetch, shape, last_step=8), MetricsLog(tmp_path, tensorboard=False)
    done = run_loop(
        training, objective, loader, replace(CONFIG, checkpoint_every=100), out=tmp_path,
        storage=open_storage(tmp_path / "checkpoints"), world=World(), num_rows=12, state={}, log=log,
        interruption=lambda: next(answers, None),
    )  # fmt: skip
    loader.close()
    log.close()

    assert done
    assert [line["at_step"] for line in read_metrics(tmp_path, "checkpoint")] == [3, 6, 8]
