"""Layouts over workers: which are possible, and that those which are compute what one worker does."""

import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import start_processes
from torch.utils._python_dispatch import TorchDispatchMode

from api.cli import main
from models.attention import use_backend
from models.video.transformer import SIZES, TransformerConfig, VideoTransformer
from training.data.buckets import Bucket, BucketTable, DurationRule, Size
from training.loop import LoopConfig, Training, train_step
from training.objectives.flow import FlowObjective
from training.parallel.apply import parallelize, whole_tensors
from training.parallel.mesh import ParallelConfig
from training.parallel.short_run import Small, Texts, batch, compute, draw_model
from training.parallel.shrink import shrink
from training.parallel.verify import LAYOUTS, TARGET, NothingToCompare, verify
from training.recipes import video_256, video_768, video_demo
from training.world import World

BY_NAME = StateDictOptions(flatten_optimizer_state_dict=True)


def test_a_layout_is_read_from_words():
    config = ParallelConfig.parse("dp_shard=2, tp=4,recompute=save-attention,compile")

    assert config == ParallelConfig(dp_shard=2, tp=4, recompute="save-attention", compile=True)
    assert ParallelConfig.parse(str(config)) == config
    assert ParallelConfig.parse("") == ParallelConfig()
    assert config.dp_replicate(24) == 3 and config.workers_per_share == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pp=2", "no setting 'pp'; known: dp_shard"),
        ("tp=two", "'tp=two' is no number of workers"),
        ("tp=0", "tp=0 must be at least 1"),
        ("recompute=some", "recompute='some' is not one of none, full, save-attention"),
        ("compile=maybe", "neither true nor false"),
    ],
)
def test_words_that_are_no_layout_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        ParallelConfig.parse(text)


@pytest.mark.parametrize(
    ("text", "workers", "words"),
    [
        ("dp_shard=2,tp=2", 6, "6 workers do not divide into groups of .* = 4; start 8 workers"),
        ("tp=5", 5, "tp=5 does not divide the model's 48 heads; choose a divisor: 1, 2, 3, 4, 6"),
        ("tp=3", 3, "tp=3 does not divide ffn_width=16384"),
        ("cp=32,tp=8", 256, r"bucket .* tokens, which do not divide over cp 32 x tp 8"),
        ("", 4096, "4096 shares of the batch .* for 1396 videos and 140 images"),
    ],
)
def test_a_layout_that_does_not_divide_is_refused_with_what_would(text, workers, words):
    recipe = video_256()
    with pytest.raises(ValueError, match=words):
        ParallelConfig.parse(text).check(SIZES["30b"], recipe.buckets.buckets(), recipe.batch, workers)


def test_the_layout_of_the_paper_fits_its_model():
    recipe = video_768()
    ParallelConfig(dp_shard=4, cp=4, tp=2).check(recipe.model, recipe.buckets.buckets(), recipe.batch, 64)


@pytest.mark.parametrize("heads", [4, 6, 48, 45])
def test_shrinking_keeps_what_a_layout_depends_on(heads):
    recipe = replace(video_768(), model=replace(SIZES["30b"], heads=heads, width=128 * heads, text_widths=(384, 256)))
    model, shapes = shrink(recipe, unit=4)

    assert model.layers == 2 and len(model.text_widths) == 2
    assert model.heads % 4 == heads % 4 and model.ffn_width % 4 == 0
    assert sorted({b.tokens % 4 for b in shapes}) == sorted({b.tokens % 4 for b in recipe.buckets.buckets()})
    kinds = {(b.frames == 1, (b.height > b.width) - (b.height < b.width)) for b in recipe.buckets.buckets()}
    assert {(b.frames == 1, (b.height > b.width) - (b.height < b.width)) for b in shapes} == kinds
    assert max(b.tokens for b in shapes) < 200


def test_odd_shapes_stay_odd():
    rule = DurationRule(min_seconds=1.0, max_seconds=None, frames=56)
    table = BucketTable(durations=(rule,), sizes=(Size(height=720, width=1104),))  # 7 x 45 x 69 tokens
    _, shapes = shrink(replace(video_demo(), buckets=table), unit=4)

    assert shapes == [Bucket(frames=24, height=80, width=144), Bucket(frames=1, height=80, width=144)]  # 3 x 5 x 9


def test_three_kinds_of_layout_train_as_one_worker(video_recipe):
    lines = verify(video_recipe, {name: LAYOUTS[name] for name in ("recompute full", "fsdp 2", "tp 2 cp 2")})

    assert [(line.name, line.failed, line.skipped) for line in lines if not line.passed] == []
    for line in lines:
        assert len(line.gradients) == sum(1 for _ in draw_model(Small.of(video_recipe, 4, 1)).parameters())
        assert line.worst[1] < TARGET and line.update < TARGET


def test_the_command_tells_by_its_exit_code(capsys, monkeypatch):
    line = ["train", "verify-parallel", "--recipe", "video_demo", "--workers", "1"]
    assert main([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] and [layout["name"] for layout in told["layouts"]] == list(LAYOUTS)[:2]

    monkeypatch.setattr("training.parallel.verify.TARGET", -1.0)  # which nothing reaches
    monkeypatch.setattr("training.parallel.verify.LAYOUTS", {"recompute full": LAYOUTS["recompute full"]})
    assert main(line) == 1
    assert "WRONG" in capsys.readouterr().out
    assert main(["train", "verify-parallel", "--recipe", "tae_demo"]) == 2


def test_a_layout_that_a_recipe_does_not_allow_is_said_not_proved(video_recipe):
    (line,) = verify(video_recipe, {"tp 4": LAYOUTS["tp 4"]})  # two heads

    assert line.passed and line.skipped is not None
    assert "tp=4 does not divide the model's 2 heads" in line.skipped


def test_a_gradient_of_zero_proves_nothing(video_recipe, monkeypatch):
    def zero_last_layer(small: Small) -> VideoTransformer:
        model = draw_model(small)
        torch.nn.init.zeros_(model.patch_out.weight)
        return model

    monkeypatch.setattr("training.parallel.short_run.draw_model", zero_last_layer)
    with pytest.raises(NothingToCompare, match=r"the gradient of .* is zero"):
        verify(video_recipe, {}, steps=1)


class Counter(TorchDispatchMode):
    """Counts attention kernels and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = self.products = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.name()
        self.attention += "_flash_attention_for_cpu" in name and "backward" not in name
        self.products += name in ("aten::mm", "aten::addmm")
        return operator(*args, **(kwargs or {}))


def test_save_attention_computes_linears_again_and_attention_not(video_recipe):
    small = Small.of(video_recipe, 4, 1)
    model_input = torch.randn(1, 4, 1, 4, 4, dtype=torch.float64), torch.rand(1).double(), Texts((8,))(["a film"])
    counts, gradients = {}, {}
    for mode in ("none", "full", "save-attention"):
        model = draw_model(small)
        parallelize(model, ParallelConfig(recompute=mode), World())
        velocity = model(*model_input)
        with Counter() as counter:
            velocity.square().sum().backward()
        counts[mode] = counter.attention, counter.products
        gradients[mode] = [p.grad for p in model.parameters()]

    attentions = 2 * small.model.layers
    assert counts["none"][0] == 0 and counts["full"][0] == attentions and counts["save-attention"][0] == 0
    assert counts["none"][1] < counts["save-attention"][1] <= counts["full"][1]
    for mode in ("full", "save-attention"):
        for found, expected in zip(gradients[mode], gradients["none"], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_clips_are_dealt_so_that_all_workers_compute_alike():
    def dealt(workers: int, together: int) -> list[list[tuple[str, bool]]]:
        return [World(rank=r, size=workers, workers_per_share=together).deal("abcde") for r in range(workers)]

    for workers, together in ((1, 1), (2, 1), (4, 2), (6, 2), (8, 1)):
        hands = dealt(workers, together)
        assert len({len(hand) for hand in hands}) == 1
        assert sorted(item for hand in hands for item, speaks in hand if speaks) == list("abcde")
        for rank, hand in enumerate(hands):
            assert [item for item, _ in hand] == [item for item, _ in hands[rank // together * together]]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [video_demo, video_768])
def test_every_layout_trains_as_one_worker(recipe):
    lines = verify(recipe())

    assert len(lines) == len(LAYOUTS) and not any(line.skipped for line in lines)
    assert [(line.name, line.failed, line.worst) for line in lines if not line.passed] == []


@pytest.mark.slow
def test_losses_do_not_depend_on_the_number_of_workers():
    """One to four workers, three among them, for six steps: twelve heads and pictures of 6 x 6 tokens divide by all."""
    model = TransformerConfig(heads=12, width=96, ffn_width=192, layers=2)
    table = BucketTable(durations=video_demo().buckets.durations, sizes=(Size(height=96, width=96),))
    recipe = replace(video_demo(), model=model, buckets=table)
    layouts = {
        f"{text or 'dp'} on {workers}": (ParallelConfig.parse(text), workers)
        for text, workers in (
            ("", 2), ("", 3), ("", 4), ("dp_shard=3", 3), ("cp=3", 3), ("tp=3", 3), ("tp=2", 4), ("dp_shard=2,cp=2", 4),
        )
    }  # fmt: skip
    lines = verify(recipe, layouts, steps=6)

    assert [
        (line.name, line.failed, line.skipped, line.loss) for line in lines if not line.passed or line.skipped
    ] == []


def _spawn(work: Callable, workers: int, *args: object) -> None:
    multiprocessing.set_forkserver_preload(["training.parallel.verify"])
    start_processes(work, (workers, *args), nprocs=workers, start_method="forkserver")


def _joined(rank: int, size: int, folder: str, name: str, config: ParallelConfig) -> World:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/{name}", rank=rank, world_size=size)
    return World(rank=rank, size=size, workers_per_share=config.workers_per_share)


def _losses(small: Small, config: ParallelConfig, world: World, folder: str, resume: bool) -> list[float]:
    """Four steps; after two of them the state goes to `folder`, or is read from there."""
    model = draw_model(small)
    parallelize(model, config, world)
    training = Training.start(model, small.optimizer)
    objective = FlowObjective(encode=Texts(small.model.text_widths))
    loop = LoopConfig(steps=4, optimizer=small.optimizer, checkpoint_every=4)

    def state() -> dict[str, dict]:
        optimizer = get_optimizer_state_dict(model, training.optimizer, options=BY_NAME)
        return {"model": model.state_dict(), "average": training.average.values, "optimizer": optimizer}

    if resume:
        read = state()
        dcp.load(read, checkpoint_id=folder)
        model.load_state_dict(read["model"])
        set_optimizer_state_dict(model, training.optimizer, read["optimizer"], options=BY_NAME)
        training.average.updates = 2
    losses = []
    with use_backend("math"):
        for step in range(2 if resume else 0, 4):
            groups = batch(small, step, world)
            with torch.no_grad():  # as a validation does, which leaves some weights gathered
                objective(model, groups[0])
            losses.append(train_step(training, objective, groups, loop, step, world)["loss"])
            if step == 1 and not resume:
                dcp.save(state(), checkpoint_id=folder)
    found = state()
    assert all(isinstance(value, DTensor) for part in ("model", "average") for value in found[part].values())
    assert all(isinstance(value, DTensor) for name, value in found["optimizer"].items() if name.endswith("exp_avg"))
    averages = whole_tensors(training.average.values)
    return [*losses, *(float(value.sum()) for value in averages.values())]


def _resumed(rank: int, size: int, folder: str, small: Small, text: str, resume: bool) -> None:
    config = ParallelConfig.parse(text)
    losses = _losses(small, config, _joined(rank, size, folder, text, config), f"{folder}/state", resume)
    if rank == 0:
        torch.save(losses, f"{folder}/{text}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_state_saved_in_one_layout_goes_on_in_another(tmp_path):
    """Tensor parallel and sharded on four workers, then context parallel on two, then sharded on three."""
    small = Small.of(video_demo(), 4, 4)
    _spawn(_resumed, 4, str(tmp_path), small, "dp_shard=2,tp=2", False)
    straight = torch.load(tmp_path / "dp_shard=2,tp=2.pt")
    for text, workers in (("cp=2", 2), ("dp_shard=3", 3)):
        _spawn(_resumed, workers, str(tmp_path), small, text, True)
        assert torch.load(tmp_path / f"{text}.pt") == pytest.approx(straight[2:], rel=1e-10)


def _bf16(rank: int, size: int, folder: str, small: Small, text: str) -> None:
    config = ParallelConfig.parse(text)
    world = _joined(rank, size, folder, text, config)
    losses, dtypes = _bf16_losses(small, config, world)
    if rank == 0:
        torch.save((losses, dtypes), f"{folder}/{text}.pt")
    dist.destroy_process_group()


def _bf16_losses(small: Small, config: ParallelConfig, world: World) -> tuple[list[float], set[torch.dtype]]:
    model = draw_model(small).float()
    parallelize(model, config, world, bf16=True)
    training = Training.start(model, small.optimizer)
    objective = FlowObjective(encode=Texts(small.model.text_widths))
    loop = LoopConfig(steps=3, optimizer=small.optimizer, checkpoint_every=3, autocast=True)
    losses = []
    for step in range(3):
        groups = [replace(group, data=group.data.float()) for group in batch(small, step, world)]
        losses.append(train_step(training, objective, groups, loop, step, world)["loss"])
    return losses, {p.dtype for p in model.parameters()} | {p.grad.dtype for p in model.parameters()}


@pytest.mark.slow
@pytest.mark.parametrize(("text", "workers"), [("dp_shard=2", 2), ("cp=2,tp=2", 4)])
def test_bfloat16_weights_travel_and_float32_ones_learn(tmp_path, text, workers):
    small = Small.of(video_demo(), 4, 3)
    alone, _ = _bf16_losses(small, ParallelConfig(), World())
    _spawn(_bf16, workers, str(tmp_path), small, text)
    losses, dtypes = torch.load(tmp_path / f"{text}.pt")

    assert dtypes == {torch.float32}
    assert losses == pytest.approx(alone, rel=0.02)  # bfloat16 keeps 8 bits: 0.4 % a rounding


def _compiled(rank: int, size: int, folder: str, small: Small, text: str) -> None:
    config = ParallelConfig.parse(text)
    outcome = compute(small, config, _joined(rank, size, folder, text, config))
    if rank == 0:
        torch.save(outcome.gradients, f"{folder}/{text}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["cp=2,compile", "tp=2,recompute=save-attention,compile"])
def test_compiled_blocks_have_the_same_gradients(tmp_path, text):
    small = Small.of(video_demo(), 4, 1)
    small = replace(small, buckets=small.buckets[:1])  # one shape: a compilation takes most of a minute on two cores
    _spawn(_compiled, 2, str(tmp_path), small, text)
    found = torch.load(tmp_path / f"{text}.pt")

    for name, gradient in compute(small, ParallelConfig(), World()).gradients.items():
        assert float((found[name] - gradient).abs().max() / gradient.abs().max()) < TARGET, name
