"""Our transformer block beside others of the same width, heads and tokens: one forward and backward pass in bfloat16."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.neighbour_blocks import NEIGHBOURS, drawing, why_not
from benchmarks.gpu.plain_block import PlainBlock
from benchmarks.gpu.report import Report
from benchmarks.gpu.sizes import Sizes
from models.accounting import attention_flops
from models.video.transformer import Block
from training.parallel.mesh import Recompute
from training.parallel.recompute import recompute_block
from training.throughput import peak_flops

OURS, PLAIN = "Cinemill", "plain Llama"
TYPE = torch.bfloat16
# TFLOP/s of the model's operations, the least we want of our block: at few tokens (8,192), at many (73,728).
GOALS: dict[Recompute, tuple[float, float]] = {"none": (600, 500), "save-attention": (500, 460)}
COMPILE_SECONDS = 30.0  # that a compiled block needs before its first number, backward pass included


class Variant(NamedTuple):
    """One measurement."""

    block: str
    tokens: int
    recompute: Recompute
    compiled: bool

    def __str__(self) -> str:
        how = "compiled" if self.compiled else "eager"
        return f"{self.block}, {self.tokens:,} tokens, recompute {self.recompute}, {how}"


def run(report: Report) -> None:
    """Ours first, then the plain block, then other libraries': what matters most comes before the time runs out."""
    why = why_not()
    if why:
        report.missing("blocks of other libraries", why)
    report.check(
        "FLOPs of our block, counted against the closed form, relative", lambda: flops_error(report.sizes), 1e-3
    )
    reached: dict[Variant, float] = {}
    for variant in variants([clip.tokens for clip in report.sizes.clips], neighbours=why is None):
        needs = COMPILE_SECONDS if variant.compiled and report.device.type == "cuda" else 0.0
        rate = report.attempt(str(variant), lambda v=variant: one(report, v), needs=needs)
        if rate:
            reached[variant] = rate
    for recompute, goals in GOALS.items():
        for clip, goal in zip(report.sizes.clips, goals, strict=True):
            rate = reached.get(Variant(OURS, clip.tokens, recompute, compiled=True))
            report.target(f"our block at {clip.tokens:,} tokens, recompute {recompute}", rate, goal, "model-TFLOP/s")


def variants(tokens: list[int], neighbours: bool) -> Iterator[Variant]:
    """All of them, the most telling first."""
    names = list(NEIGHBOURS) if neighbours else []
    few, many = tokens[0], tokens[-1]
    yield from (Variant(OURS, n, mode, compiled=True) for mode in ("none", "save-attention") for n in tokens)
    yield from (Variant(PLAIN, n, "none", compiled=True) for n in tokens)
    yield from (Variant(name, n, "none", compiled=False) for n in tokens for name in (OURS, PLAIN, *names))
    yield from (Variant(name, few, "none", compiled=True) for name in names)
    yield from (Variant(OURS, n, "full", compiled=True) for n in tokens)
    for mode in ("save-attention", "full"):
        yield from (Variant(name, n, mode, compiled=False) for n in tokens for name in (OURS, PLAIN, *names))
    yield from (Variant(name, many, "none", compiled=True) for name in names)
    for mode in ("save-attention", "full"):
        yield from (Variant(name, n, mode, compiled=True) for n in tokens for name in (PLAIN, *names))


def one(report: Report, variant: Variant) -> float:
    """Measure a variant, write its row; model-TFLOP/s."""
    flops = 3 * forward_flops(variant.block, report.sizes, variant.tokens)
    torch.compiler.reset()  # a graph for these shapes alone, not one that another variant's made dynamic
    block, arguments = make(variant.block, report.sizes, variant.tokens, report.device)
    recompute_block(block, variant.recompute)
    if variant.compiled:
        block.compile(backend=report.compiler, dynamic=False, fullgraph=variant.block in (OURS, PLAIN))
    x = arguments[0].requires_grad_()
    gradients = [torch.randn_like(x)] + [torch.randn_like(arguments[1])] * (
        variant.block in ("HunyuanVideo", "CogVideoX")
    )

    def call() -> None:
        outputs = block(*arguments)
        torch.autograd.backward([outputs] if isinstance(outputs, Tensor) else list(outputs), gradients)
        block.zero_grad(set_to_none=True)
        x.grad = None

    timing = report.time(call)
    rate, peak = flops / timing.seconds / 1e12, peak_flops(report.device)
    report.row(
        "blocks, forward and backward, batch 1, bfloat16; model-FLOPs are three forward passes",
        block=variant.block,
        tokens=variant.tokens,
        recompute=variant.recompute,
        mode="compiled" if variant.compiled else "eager",
        ms=timing.seconds * 1e3,
        TFLOP=flops / 1e12,
        TFLOP_s=rate,
        mfu=None if peak is None else 1e12 * rate / peak,
        gib=timing.gib,
        repetitions=timing.repetitions,
    )
    return rate


def make(name: str, sizes: Sizes, tokens: int, device: torch.device) -> tuple[nn.Module, tuple[Any, ...]]:
    """A block in bfloat16 on a device, and random arguments for it; the first is the video's tokens [1, L, D]."""
    config, text, draw = sizes.transformer, sizes.all_text, drawing(device, TYPE)
    d, heads, f = config.width, config.heads, config.ffn_width
    with device:
        if name == OURS:
            mask = torch.ones(1, text, dtype=torch.bool)
            block: nn.Module = Block(config)
            arguments: tuple[Any, ...] = (draw(1, tokens, d), draw(1, 6, d), draw(1, text, d), mask)
        elif name == PLAIN:
            block, arguments = PlainBlock(d, heads, f), (draw(1, tokens, d), *(draw(tokens, d // heads) for _ in "cs"))
        else:
            block, arguments = NEIGHBOURS[name](d, heads, f, tokens, text, draw)
    return block.to(device, TYPE), arguments


def forward_flops(name: str, sizes: Sizes, tokens: int) -> int:
    """Operations of one forward pass, counted as they would run; nothing is computed and no memory taken."""
    block, arguments = make(name, sizes, tokens, torch.device("meta"))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        block(*arguments)
    return counter.get_total_flops()


def flops_error(sizes: Sizes) -> float:
    """The largest relative difference of our block's count to models.accounting's formulas."""
    config, text = sizes.transformer, sizes.all_text
    d, f = config.width, config.ffn_width
    worst = 0.0
    for tokens in (clip.tokens for clip in sizes.clips):
        lengths = (sizes.text_tokens,) * len(config.text_widths)
        formula = 2 * (tokens * (6 * d * d + 3 * d * f) + text * 2 * d * d)
        formula += attention_flops(config, tokens, lengths) // config.layers
        worst = max(worst, abs(forward_flops(OURS, sizes, tokens) / formula - 1))
    return worst
