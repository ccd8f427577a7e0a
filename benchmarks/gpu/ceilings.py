"""What the device can do at best: copies, matrix products, and each attention kernel, at the shapes of a 30B block."""

import torch
from torch import Tensor

from benchmarks.gpu.report import Report
from benchmarks.gpu.timing import Timing
from models.attention import BACKENDS, FLEX, attend, use_backend

# The math kernel writes all weights out: at 8,192 tokens 48 heads x 8,192^2 are 13 GB in float32, several times.
MATH_TOKENS = 2048
TYPE = torch.bfloat16
KERNEL_SECONDS, FLEX_SECONDS = 5.0, 20.0  # that are left before one more is begun


def run(report: Report) -> None:
    """Every ceiling; the slowest last."""
    report.attempt("copy", lambda: copy(report))
    d, f = report.sizes.transformer.width, report.sizes.transformer.ffn_width
    products = [(report.sizes.square,) * 3]
    products += [(n, *kn) for n in (clip.tokens for clip in report.sizes.clips) for kn in ((d, d), (d, f), (f, d))]
    for m, k, n in products:
        report.attempt(f"product {m} x {k} x {n}", lambda m=m, k=k, n=n: product(report, m, k, n))
    for names in (tuple(BACKENDS), (FLEX,)):  # flex compiles for half a minute, so it comes last
        for clip in report.sizes.clips:
            for masked in (False, True):
                for name in fitting(names, clip.tokens):
                    attention(report, name, clip.tokens, report.sizes.all_text, masked=masked)
        for tokens in report.sizes.attention_tokens:
            for name in fitting(names, tokens):
                attention(report, name, tokens, tokens, masked=False)


def fitting(names: tuple[str, ...], tokens: int) -> list[str]:
    """Kernels that so many tokens do not drive out of memory."""
    return [name for name in names if not (name == "math" and tokens > MATH_TOKENS)]


def copy(report: Report) -> None:
    """Bytes read and written."""
    source = torch.randint(0, 127, (report.sizes.copy_bytes,), dtype=torch.int8, device=report.device)
    target = torch.randint_like(source, 127)
    timing = report.time(lambda: target.copy_(source))
    report.row(
        "copy", gib=source.numel() / 2**30, ms=timing.seconds * 1e3, TB_s=2 * source.numel() / timing.seconds / 1e12
    )


def product(report: Report, m: int, k: int, n: int) -> None:
    """[m, k] x [k, n] in bfloat16."""
    a, b = (torch.randn(*shape, dtype=TYPE, device=report.device) for shape in ((m, k), (n, k)))
    timing = report.time(lambda: torch.mm(a, b.T))
    report.row(
        "matrix products, bfloat16",
        m=m,
        k=k,
        n=n,
        ms=timing.seconds * 1e3,
        TFLOP_s=2 * m * k * n / timing.seconds / 1e12,
    )


def attention(report: Report, name: str, queries: int, keys: int, *, masked: bool) -> None:
    """A kernel forward, and forward with backward; FLOPs as kernels count: backward is 2.5 times forward."""
    kind = "self-attention" if queries == keys else "cross-attention, masked" if masked else "cross-attention"
    what = f"{kind} {queries} x {keys}, {name}"
    needs = 0.0 if report.device.type == "cpu" else FLEX_SECONDS if name == FLEX else KERNEL_SECONDS
    forward = report.attempt(what, lambda: timed(report, name, queries, keys, masked, backward=False), needs=needs)
    if forward is None:
        return
    both = report.attempt(
        f"{what}, backward", lambda: timed(report, name, queries, keys, masked, backward=True), needs=needs
    )
    flops = 4 * queries * keys * report.sizes.transformer.width / 1e12
    report.row(
        kind,
        tokens=queries,
        keys=keys,
        kernel=name,
        forward_ms=forward.seconds * 1e3,
        forward_TFLOP_s=flops / forward.seconds,
        both_ms=None if both is None else both.seconds * 1e3,
        both_TFLOP_s=None if both is None else 3.5 * flops / both.seconds,
        both_gib=None if both is None else both.gib,
    )


def timed(report: Report, name: str, queries: int, keys: int, masked: bool, *, backward: bool) -> Timing:
    """One kernel on random queries, keys and values, a third of the keys masked out where `masked`."""
    heads, width = report.sizes.transformer.heads, report.sizes.transformer.width

    def draw(tokens: int) -> Tensor:  # [1, N, L, K], laid out as a block's projections leave it
        drawn = torch.randn(1, tokens, heads, width // heads, dtype=TYPE, device=report.device)
        return drawn.transpose(1, 2).requires_grad_(backward)

    q, k, v = draw(queries), draw(keys), draw(keys)
    gradient = draw(queries).detach()
    mask = torch.arange(keys, device=report.device)[None] < keys * 2 // 3 if masked else None

    def call() -> None:
        y = attend(q, k, v, mask)
        if backward:
            torch.autograd.grad(y, (q, k, v), gradient)

    with use_backend(name), torch.set_grad_enabled(backward):
        return report.time(call)
