"""Our temporal autoencoder beside those of other video models: frames a second and memory, both ways, random weights."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.gpu.report import Report
from benchmarks.gpu.timing import Timing
from models.autoencoders.tae import TAE
from models.tiling import decode_tiled, encode_tiled

OURS, RIVAL = "Cinemill TAE", "Wan"
NEIGHBOURS = {  # name -> class in diffusers; their configs' defaults
    "Wan": "AutoencoderKLWan",
    "HunyuanVideo": "AutoencoderKLHunyuanVideo",
    "CogVideoX": "AutoencoderKLCogVideoX",
    "LTX": "AutoencoderKLLTXVideo",
}
TYPE = torch.bfloat16
GOAL = 2.0  # times the pixels a second that Wan's decoder makes
Method = Callable[[Tensor], Tensor]


class Variant(NamedTuple):
    """One measurement."""

    name: str
    frames: int
    side: int
    channels_last: bool
    tiled: bool

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "contiguous"
        return f"{self.name}, {self.frames} x {self.side} x {self.side}, {layout}{', tiled' if self.tiled else ''}"


def run(report: Report) -> None:
    """Ours and theirs at the same pixels, sizes growing."""
    names, why = neighbours()
    if why:
        report.missing("autoencoders of other libraries", why)
    if report.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the same shapes over and over, as in encoding a data set
    best: dict[tuple[str, int], float] = {}
    for variant in variants(report.sizes.videos, names):
        rate = report.attempt(str(variant), lambda v=variant: one(report, v))
        if rate:
            best[variant.name, variant.side] = max(rate, best.get((variant.name, variant.side), 0.0))
    for _, side in report.sizes.videos:
        ours, rival = best.get((OURS, side)), best.get((RIVAL, side))
        ratio = ours / rival if ours and rival else None
        report.target(f"our decoder against {RIVAL}'s at {side} px, pixels a second", ratio, GOAL, "times")


def neighbours() -> tuple[list[str], str | None]:
    """Whom to compare with; or nobody, and why."""
    try:
        import diffusers

        for name in NEIGHBOURS.values():
            getattr(diffusers, name)  # imported when first asked for
    except Exception as error:  # a part of it that is missing raises RuntimeError
        return [], f"diffusers cannot be imported: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return list(NEIGHBOURS), None


def variants(videos: tuple[tuple[int, int], ...], names: list[str]) -> Iterator[Variant]:
    """All of them, whole pictures before tiles."""
    for frames, side in videos:
        for name in (OURS, *names):
            more = 0 if name == OURS else 1  # theirs take a first frame of its own
            for channels_last in (True, False):
                yield Variant(name, frames + more, side, channels_last, tiled=False)
    frames, side = videos[-1]
    for name in (OURS, *names):  # three of our tiles, in time; theirs tile space
        more = 0 if name == OURS else 1
        yield Variant(name, 2 * frames + more, side, channels_last=True, tiled=True)


def one(report: Report, variant: Variant) -> float:
    """Measure a variant, write its row; decoded pixels a second."""
    encode, decode = methods(report, variant)
    video = torch.randn(1, 3, variant.frames, variant.side, variant.side, dtype=TYPE, device=report.device)
    with torch.no_grad():
        latents = encode(video)
        encoding: Timing = report.time(lambda: encode(video))
        decoding: Timing = report.time(lambda: decode(latents))
        frames = decode(latents).shape[2]
    pixels = variant.side**2
    report.row(
        "autoencoders, one video, bfloat16",
        autoencoder=variant.name,
        frames=variant.frames,
        side=variant.side,
        layout="channels last" if variant.channels_last else "contiguous",
        tiled="tiled" if variant.tiled else "whole",
        encode_frames_s=variant.frames / encoding.seconds,
        encode_gib=encoding.gib,
        decode_frames_s=frames / decoding.seconds,
        decode_Mpixel_s=frames * pixels / decoding.seconds / 1e6,
        decode_gib=decoding.gib,
        latent=" x ".join(map(str, latents.shape[1:])),
    )
    return frames * pixels / decoding.seconds


def methods(report: Report, variant: Variant) -> tuple[Method, Method]:
    """Video to latents and latents to video, of a freshly drawn network."""
    torch.manual_seed(0)
    if variant.name == OURS:
        with report.device:
            tae = TAE(report.sizes.tae)
        tae = tae.to(report.device, TYPE).eval().requires_grad_(False)
        if variant.channels_last:
            to_channels_last(tae)
        if variant.tiled:
            return lambda video: encode_tiled(tae, video), lambda latents: decode_tiled(tae, latents, variant.frames)
        return tae.encode, tae.decode
    import diffusers

    with report.device:
        theirs: Any = getattr(diffusers, NEIGHBOURS[variant.name])(**report.sizes.neighbours.get(variant.name, {}))
    theirs = theirs.to(report.device, TYPE).eval().requires_grad_(False)
    if variant.channels_last:
        to_channels_last(theirs)
    if variant.tiled:
        theirs.enable_tiling()
    return lambda video: theirs.encode(video).latent_dist.mode(), lambda latents: theirs.decode(latents).sample


def to_channels_last(network: nn.Module) -> None:
    """Kernels over rows and columns, and over frames too, with their channels last in memory."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
