"""Whether the device computes what it should: kernels against float32, bfloat16 training against float32, recomputation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.gpu.blocks import OURS, make
from benchmarks.gpu.report import Report, words
from benchmarks.gpu.synthetic import RandomBatches, build, objective, start
from models.attention import BACKENDS, FLEX, attend, record_kernels, use_backend
from training.loop import accumulate, train_step
from training.parallel.mesh import Recompute
from training.parallel.recompute import recompute_block
from training.world import World

# As max |difference| / max |reference|. Bfloat16 rounds to 1/256; sums of many roundings stay below a few of these.
KERNEL_LIMIT = 2e-2
BLOCK_LIMIT = 5e-2  # a whole block's output and gradients
LOSS_LIMIT = 2e-2  # of a loss, relative
SAME_LIMIT = 1e-6  # of what rounds in the same order
STEPS = 20
QUERIES, KEYS = 512, 192
HEADS, HEAD_WIDTH = 8, 128


def run(report: Report) -> None:
    """All checks; a kernel that cannot take the tensors is told, not failed."""
    for masked in (False, True):
        for name in (*BACKENDS, FLEX):
            kernel(report, name, masked)
    dispatch(report)
    report.check("losses of 20 steps, bfloat16 autocast against float32, relative", lambda: losses(report), LOSS_LIMIT)
    # Flash attention has a deterministic backward pass, cuDNN's has none; text has a mask, which flash does not take.
    kernels = ("flash", "math")
    report.check(
        "gradients, save-attention against none, flash and math kernels, deterministic",
        lambda: recomputed(report, "save-attention", kernels),
        SAME_LIMIT,
    )
    report.check(
        "gradients, full recomputation against none, flash and math kernels, deterministic",
        lambda: recomputed(report, "full", kernels),
        SAME_LIMIT,
    )
    report.check(
        "gradients, save-attention against none, the kernels that training takes",
        lambda: recomputed(report, "save-attention", None),
        BLOCK_LIMIT,
    )
    for recompute in ("none", "save-attention"):
        report.check(
            f"block, compiled against eager, recompute {recompute}",
            lambda r=recompute: compiled(report, r),
            BLOCK_LIMIT,
        )


def kernel(report: Report, name: str, masked: bool) -> None:
    """Output and gradients of one kernel in bfloat16 against the math kernel in float32 on the same numbers."""
    what = f"attention {name}{', masked' if masked else ''}, against math in float32"
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, HEADS, n, HEAD_WIDTH) for n in (QUERIES, KEYS, KEYS, QUERIES))
    *qkv, gradient = (torch.randn(s, generator=generator).to(report.device, torch.bfloat16) for s in shapes)
    mask = torch.arange(KEYS, device=report.device)[None] < KEYS - 50 if masked else None
    backward = not (name == FLEX and report.device.type == "cpu")  # flex has no backward pass there

    def compute(dtype: torch.dtype) -> list[Tensor]:
        q, k, v = (x.to(dtype).requires_grad_(backward) for x in qkv)
        y = attend(q, k, v, mask)
        return [y.detach(), *(torch.autograd.grad(y, (q, k, v), gradient.to(dtype)) if backward else ())]

    with use_backend("math"):
        expected = compute(torch.float32)
    try:
        with use_backend(name):
            found = compute(torch.bfloat16)
    except RuntimeError as error:  # PyTorch: "No available kernel"
        report.missing(what, words(error))
        return
    report.check(what, lambda: apart(found, expected), KERNEL_LIMIT)


def dispatch(report: Report) -> None:
    """Which kernels a block takes here when it may choose."""
    block, arguments = make(OURS, report.sizes, report.sizes.clips[0].tokens, report.device)
    with record_kernels() as ran, torch.no_grad():
        block(*arguments)
    report.row("attention kernels of our block in bfloat16, by number of calls", **{name: ran[name] for name in ran})


def losses(report: Report) -> float:
    """The largest relative difference of two runs of some steps, in bfloat16 and in float32."""
    narrow, wide = (_train(report, autocast=autocast) for autocast in (True, False))
    report.row("losses", precision="float32", first=wide[0], last=wide[-1])
    report.row("losses", precision="bfloat16", first=narrow[0], last=narrow[-1])
    return max(abs(a / b - 1) for a, b in zip(narrow, wide, strict=True))


def _train(report: Report, *, autocast: bool) -> list[float]:
    config, device = report.sizes.learner, report.device
    training, loop = start(build(config, device), STEPS, autocast=autocast)
    batches = RandomBatches(model=config, clip=report.sizes.learner_clip, device=device, samples=2)
    loss, world = objective(config, report.sizes.text_tokens, device), World(device=device)
    return [train_step(training, loss, batches.step(s), loop, s, world)["loss"] for s in range(STEPS)]


def recomputed(report: Report, mode: Recompute, kernels: tuple[str, ...] | None) -> float:
    """The largest difference of any parameter's gradient, relative to that parameter's largest."""
    with deterministic() if kernels else _as_it_is():
        expected, found = (_gradients(report, each, kernels) for each in ("none", mode))  # type: ignore[arg-type]
    return max(apart([found[name]], [expected[name]]) for name in expected)


def _gradients(report: Report, mode: Recompute, kernels: tuple[str, ...] | None) -> dict[str, Tensor]:
    config, device = report.sizes.learner, report.device
    model = build(config, device)
    for block in model.blocks:
        recompute_block(block, mode)
    groups = RandomBatches(model=config, clip=report.sizes.learner_clip, device=device, samples=2).step(0)
    loss = objective(config, report.sizes.text_tokens, device)
    with use_backend(*kernels) if kernels else _as_it_is():
        accumulate(model, loss, groups, World(device=device), autocast=True)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    zero = [name for name, gradient in found.items() if not gradient.any()]
    if zero or len(found) < len(list(model.parameters())):
        raise AssertionError(f"no gradient in {', '.join(zero) or 'some parameter'}: nothing is compared there")
    return found


def compiled(report: Report, mode: Recompute) -> float:
    """The largest difference of a block's output and gradients, each relative to its own largest value."""
    torch.compiler.reset()
    tokens = report.sizes.clips[0].tokens
    torch.manual_seed(0)
    block, arguments = make(OURS, report.sizes, tokens, report.device)
    recompute_block(block, mode)
    x = arguments[0].requires_grad_()
    gradient = torch.randn_like(x)

    def compute(call: Callable[..., Tensor]) -> list[Tensor]:
        y = call(*arguments)
        return [y.detach(), *torch.autograd.grad(y, (x, *block.parameters()), gradient)]

    expected = compute(block)
    found = compute(torch.compile(block, backend=report.compiler, fullgraph=True))
    return apart(found, expected)


def apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """max |difference| / max |expected| of the worst tensor; infinite where something is no number."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        difference = float((a.double() - b.double()).abs().max() / b.double().abs().max())
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


@contextmanager
def deterministic() -> Iterator[None]:
    """Sums in the same order each time; what cannot warns. cuBLAS needs CUBLAS_WORKSPACE_CONFIG too, which the command sets."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield
