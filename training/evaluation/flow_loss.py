"""A transformer's flow loss at fixed times and fixed noise, beside what the best Gaussian denoiser would pay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curation.clips import UnreadableVideo, open_snapshot
from models.flow import covariance_eigenvalues, gaussian_denoiser_loss, mean_velocity_loss, sample_times
from models.text.prompt import tagged
from models.tiling import decode_tiled
from training.data.buckets import Bucket, sampled_fps
from training.data.cache import TensorCache
from training.data.keys import Key
from training.data.pixels import read_window, to_frames
from training.data.text import CaptionEncoder
from training.encode import LatentStore, latent_shape
from training.evaluation.intervals import paired_difference
from training.evaluation.pictures import psnr
from training.evaluation.reconstruction import write_pair
from training.evaluation.validation import ClipMeasured
from training.generate import Generator
from training.objectives.flow import flow_loss
from training.recipes import VideoRecipe
from training.world import World

TIMES = 8  # midpoints of equal shares of the logit-normal law
SEED = 20_241_017  # of the fixed noise; training draws from other seeds


def evaluate_video(
    checkpoint: str | Path,
    snapshot: str,
    tae: str | Path | None = None,
    cache: Path | None = None,
    samples: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Fixed-time flow loss of a trained transformer on every kept clip that fits its buckets, as plain JSON values.

    The loss stands beside the best Gaussian denoiser's on the same latents and times, in closed form, and beside
    answering the mean velocity always. `samples` train captions are also generated from and compared with every clip.
    """
    generator = Generator.load(checkpoint, tae)
    opened = open_snapshot(snapshot)
    rows = opened.kept_clips().to_pylist()
    store = LatentStore(
        tae=generator.tae,
        tae_sha256=generator.tae_sha256,
        cache=TensorCache(cache or generator.folder.parent / "cache"),
    )
    report = evaluate_latents(generator, rows, store)
    if samples:
        report["samples"] = compare_samples(generator, rows, store, samples, out)
    named = {"checkpoint": str(generator.folder), "snapshot": opened.name, "tae_sha256": generator.tae_sha256}
    return named | report


def evaluate_latents(generator: Generator, rows: list[dict[str, Any]], store: LatentStore) -> dict[str, Any]:
    """As `evaluate_video`, for a loaded generator and rows at hand."""
    clips, known = [], []  # known: (split, latents [C, T, H, W])
    for row in rows:
        bucket = generator.recipe.assign(row)
        if isinstance(bucket, str):
            continue
        try:
            latents = store.get(row, bucket)
        except UnreadableVideo:
            continue
        losses = fixed_losses(generator.model, generator.encode, generator.recipe, row, bucket, latents)
        clips.append({
            "clip_id": row["clip_id"],
            "uri": row["uri"],
            "split": row["split"],
            "caption": row["caption"],
            "bucket": bucket.name,
            "loss": sum(losses) / len(losses),
            "loss_by_time": losses,
        })  # fmt: skip
        known.append((row["split"], latents))
    if not clips:
        raise ValueError("no clip of the snapshot fits a bucket of the checkpoint; nothing to evaluate")
    summary = {}
    for split in ("train", "validation"):
        chosen = [clip for clip in clips if clip["split"] == split]
        if chosen:
            bars = gaussian_bars([x for s, x in known if s == split])
            summary[split] = {"clips": len(chosen), "loss": sum(c["loss"] for c in chosen) / len(chosen), **bars}
    note = None if "validation" in summary else "no clip is held out: these are training clips"
    return {"kind": "video", "times": fixed_times().tolist(), "clips": clips, "summary": summary, "note": note}


def compare_reports(report: dict[str, Any], other: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """By split: the mean of report's loss - other's, clip by clip, and half its 95 % interval.

    ValueError where the latents are not the same ones: their losses are no measure of each other.
    """
    if report["tae_sha256"] != other["tae_sha256"]:
        raise ValueError(
            f"{report['checkpoint']} and {other['checkpoint']} were trained on latents of different autoencoders; "
            "their losses cannot be compared"
        )
    compared: dict[str, dict[str, float | None]] = {}
    for split in report["summary"]:
        mine, theirs = (
            {f"{c['clip_id']}/{c['bucket']}": c["loss"] for c in r["clips"] if c["split"] == split}
            for r in (report, other)
        )
        difference = paired_difference(theirs, mine)
        if difference is not None:
            pairs = len(mine.keys() & theirs.keys())
            compared[split] = {"clips": pairs, "difference": difference[0], "ci95": difference[1]}
    return compared


@torch.no_grad()
def fixed_losses(
    model: nn.Module,
    encode: CaptionEncoder,
    recipe: VideoRecipe,
    row: Mapping[str, Any],
    bucket: Bucket,
    latents: torch.Tensor,
) -> list[float]:
    """The loss at each fixed time; the noise of (clip, time) is the same for every checkpoint."""
    device = next(model.parameters()).device
    fps = sampled_fps(row, bucket) if recipe.fps_tag else 0.0
    text = [tokens.to(device) for tokens in encode([tagged(row["caption"], fps, row.get("camera_motion"))])]
    slot = int(row["clip_id"][:8], 16)
    losses = []
    for step, time in enumerate(fixed_times().tolist()):
        noise = torch.from_numpy(Key(seed=SEED, purpose="noise", step=step, slot=slot).normal(tuple(latents.shape)))
        at = torch.tensor([time], device=device, dtype=torch.float32)
        losses.append(float(flow_loss(model, latents[None].to(device), noise[None].to(device), at, text)))
    return losses


@dataclass(frozen=True, kw_only=True)
class FlowValidation:
    """The flow loss of held-out clips at the eight fixed times, captions never dropped."""

    clips: Sequence[tuple[Mapping[str, Any], Bucket]]
    store: LatentStore
    encode: CaptionEncoder
    recipe: VideoRecipe

    def __call__(self, model: nn.Module, world: World) -> list[ClipMeasured]:
        """This worker's clips."""
        found = []
        for (row, bucket), counts in world.deal(self.clips):
            try:
                latents = self.store.get(row, bucket)
            except UnreadableVideo:  # a sharded model computes on every worker or on none
                latents, counts = torch.zeros(latent_shape(bucket, self.store.tae.config.latent_channels)), False
            losses = fixed_losses(model, self.encode, self.recipe, row, bucket, latents)
            if not counts:
                continue
            numbers = {"loss": sum(losses) / len(losses)}
            found.append(ClipMeasured(clip_id=row["clip_id"], bucket=bucket.name, numbers=numbers, by_time=losses))
        return found


def gaussian_bars(latents: list[torch.Tensor]) -> dict[str, float]:
    """Losses of the best Gaussian denoisers of these latents, and of the mean velocity, at the fixed times.

    `gaussian_loss` has one covariance over a whole clip: measured on the very clips, it knows the few directions they
    span, so it is the harder bar. `gaussian_loss_per_position` has one 16 x 16 covariance for all places.
    """
    times = fixed_times()
    positions = covariance_eigenvalues(torch.cat([x.flatten(1) for x in latents], dim=1)[None, :, :, None, None])
    bars = {
        "gaussian_loss_per_position": float(gaussian_denoiser_loss(positions, times).mean()),
        "mean_velocity_loss": float(mean_velocity_loss(positions)),
    }
    if len({x.shape for x in latents}) == 1 and len(latents) > 1:
        clips = covariance_eigenvalues(torch.stack(latents), over="clips")
        bars["gaussian_loss"] = float(gaussian_denoiser_loss(clips, times).mean())
    return bars


def fixed_times() -> torch.Tensor:
    """Times whose mean stands for a mean over training's logit-normal times: float64 [8]."""
    return sample_times((torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES)


def compare_samples(
    generator: Generator,
    rows: list[dict[str, Any]],
    store: LatentStore,
    count: int,
    out: Path | None = None,
    guidance: float = 1.0,
) -> list[dict[str, Any]]:
    """Generate from the captions of `count` training clips and measure each against all clips of its shape.

    `psnr` is against the clip of the caption, `psnr_reconstruction` what the autoencoder alone reaches on it,
    `psnr_other` the best against any other clip. Without guidance by default: the question is what the model knows.
    """
    known = []
    for row in rows:
        bucket = generator.recipe.assign(row)
        if not isinstance(bucket, str) and row["split"] == "train":
            try:
                known.append((row, bucket, read_window(row, bucket), store.get(row, bucket)))
            except UnreadableVideo:
                continue
    compared = []
    for number, (row, bucket, frames, latents) in enumerate(known[:count]):
        made = generator.sample(row["caption"] or "", bucket, sampled_fps(row, bucket), seed=number, guidance=guidance)
        with torch.no_grad():
            decoded = decode_tiled(generator.tae, latents[None].to(generator.device), bucket.frames)
        rebuilt = to_frames(decoded[0].cpu().numpy())
        others = [psnr(f, made) for r, b, f, _ in known if r is not row and b == bucket]
        compared.append({
            "clip_id": row["clip_id"],
            "caption": row["caption"],
            "guidance": guidance,
            "psnr": psnr(frames, made),
            "psnr_reconstruction": psnr(frames, rebuilt),
            "psnr_to_reconstruction": psnr(rebuilt, made),
            "psnr_other": max(others, default=None),
        })  # fmt: skip
        if out is not None:
            compared[-1]["pictures"] = write_pair(out, row["clip_id"], frames, made, sampled_fps(row, bucket) or 1.0)
    return compared
