"""A stack of 30B-width blocks trained by our own loop's steps, AdamW in float32, beside what the planner predicts."""

import statistics
import time

import torch

from benchmarks.gpu.report import Report
from benchmarks.gpu.synthetic import RandomBatches, build, objective, start
from benchmarks.gpu.timing import synchronize
from models.memory import Recompute
from training.accelerators import ACCELERATORS, Accelerator
from training.costs import Layout, TransformerCosts
from training.data.buckets import Bucket
from training.loop import train_step
from training.parallel.apply import parallelize
from training.parallel.mesh import ParallelConfig
from training.throughput import peak_flops
from training.world import World

WARM_STEPS = 2  # one of them makes the optimizer's state; of blocks that are not compiled that one is enough
FEWEST_STEPS, MOST_STEPS = 2, 10
TIME_SHARE = 6.0  # of steps: how many times longer than one measurement
COMPILE_SECONDS = 30.0
TOLERANCE = 0.1  # of the planner
Measured = tuple[float, int | None]  # seconds of a step, bytes at the fullest


def run(report: Report) -> None:
    """Few tokens without recomputation, many with saved attention; blocks as written for the memory, compiled for the time.

    The planner's activations are those of blocks as they are written, its times those of fused elementwise kernels.
    """
    few, many = report.sizes.clips[0], report.sizes.clips[-1]
    plans: tuple[tuple[Bucket, Recompute, bool], ...] = (
        (few, "none", True),
        (few, "none", False),
        (many, "save-attention", True),
        (many, "save-attention", False),
        (few, "save-attention", True),
    )
    for clip, recompute, compiled in plans:
        what = f"stack at {clip.tokens:,} tokens, recompute {recompute}, {'compiled' if compiled else 'eager'}"
        needs = COMPILE_SECONDS if report.device.type == "cuda" else 0.0
        found = report.attempt(what, lambda c=clip, r=recompute, k=compiled: one(report, c, r, k), needs=needs)
        seconds_error, bytes_error = found or (None, None)
        if compiled:
            report.target(f"planned seconds of the {what}, off by", seconds_error, 100 * TOLERANCE, "%", at_most=True)
        else:
            report.target(f"planned memory of the {what}, off by", bytes_error, 100 * TOLERANCE, "%", at_most=True)


def one(report: Report, clip: Bucket, recompute: Recompute, compiled: bool) -> tuple[float, float | None]:
    """Measure, write the row; by how many per cent the planned time and memory are off."""
    config, device = report.sizes.transformer, report.device
    costs = TransformerCosts(config, accelerator(device), report.sizes.text_tokens, element_bytes=2)
    layout = Layout(recompute=recompute)
    planned = costs.work(layout, clip, 1).seconds + costs.update_seconds(layout)
    held = sum(costs.memory(layout, clip, 1).values())
    seconds, peak = steps(report, clip, recompute, compiled)
    flops, most = costs.model_flops(clip), peak_flops(device)
    report.row(
        f"training steps: {config.layers} layers, {costs.parameters / 1e9:.2f} B parameters, bfloat16 autocast, AdamW in float32",
        tokens=clip.tokens,
        recompute=recompute,
        mode="compiled" if compiled else "eager",
        seconds=seconds,
        planned_seconds=planned,
        TFLOP_s=flops / seconds / 1e12,
        mfu=None if most is None else flops / seconds / most,
        gib=None if peak is None else peak / 2**30,
        planned_gib=held / 2**30,
    )
    return 100 * abs(planned / seconds - 1), None if peak is None else 100 * abs(held / peak - 1)


def steps(report: Report, clip: Bucket, recompute: Recompute, compiled: bool) -> Measured:
    """Real steps: data, forward, backward, clipping, AdamW, moving average."""
    config, device = report.sizes.transformer, report.device
    torch.compiler.reset()
    world = World(device=device)
    model = build(config, device)
    parallelize(model, ParallelConfig(recompute=recompute), world)
    for block in model.blocks if compiled else ():
        block.compile(fullgraph=True, backend=report.compiler)  # as parallelize does, which takes no back end
    training, loop = start(model, WARM_STEPS + MOST_STEPS, autocast=True)
    batches, loss = (
        RandomBatches(model=config, clip=clip, device=device),
        objective(config, report.sizes.text_tokens, device),
    )
    spent: list[float] = []
    warm = WARM_STEPS if compiled else 1
    while len(spent) < warm + MOST_STEPS:
        step = len(spent)
        if step == warm and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        groups = batches.step(step)
        synchronize(device)
        began = time.perf_counter()
        train_step(training, loss, groups, loop, step, world)
        synchronize(device)
        spent.append(time.perf_counter() - began)
        done = spent[warm:]
        if len(done) >= FEWEST_STEPS and sum(done) > TIME_SHARE * report.sizes.seconds:
            break
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return statistics.median(done), peak


def accelerator(device: torch.device) -> Accelerator:
    """The planner's entry for this GPU; the H200's where it knows none."""
    name = torch.cuda.get_device_name(device).lower() if device.type == "cuda" else ""
    return next((known for key, known in ACCELERATORS.items() if key in name), ACCELERATORS["h200"])
