"""How well an autoencoder reconstructs a snapshot's clips: PSNR and SSIM, beside the best linear transform's."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from curation.clips import UnreadableVideo, open_snapshot, write_video
from models.autoencoders.linear import LinearCodec
from models.autoencoders.tae import TAE
from models.tiling import decode_tiled, encode_tiled
from models.weights import load_model
from training.data.buckets import Bucket, sampled_fps, window_times
from training.data.pixels import read_window, to_frames, to_signal
from training.evaluation.pictures import psnr, ssim
from training.evaluation.validation import ClipMeasured
from training.recipes import TAERecipe, VideoRecipe
from training.runs import find_model, trained_recipe
from training.world import World

SHOWN_HEIGHT = 192  # pixels; smaller pictures are enlarged by whole factors, so that people can look at them


def evaluate_tae(checkpoint: str | Path, snapshot: str, pictures: Path | None = None) -> dict[str, Any]:
    """PSNR (dB) and SSIM of a trained autoencoder on every kept clip that fits its buckets, as plain JSON values.

    One window a clip, the one its latents are made of. `linear` is the best linear 8x8x8 -> C transform, fitted on these
    very windows. With `pictures`, original and reconstruction side by side go there.
    """
    folder = find_model(checkpoint, "tae")
    opened = open_snapshot(snapshot)
    model = load_model(folder)
    assert isinstance(model, TAE)
    rows = opened.kept_clips().to_pylist()
    return {"checkpoint": str(folder)} | evaluate_rows(model, rows, trained_recipe(folder), opened.name, pictures)


def evaluate_rows(
    model: TAE, rows: list[dict[str, Any]], recipe: TAERecipe | VideoRecipe, snapshot: str, pictures: Path | None = None
) -> dict[str, Any]:
    """As `evaluate_tae`, for a model and rows at hand."""
    windows, left_out = read_windows(rows, recipe)
    linear = LinearCodec.fit([_batch(frames)[0] for _, _, frames in windows], model.config.latent_channels)
    clips = []
    for row, bucket, frames in windows:
        rebuilt = reconstruct(model, frames)
        flat = to_frames(linear.decode(linear.encode(_batch(frames)), bucket.frames)[0].numpy())
        times = window_times(row, bucket)
        clips.append({
            "clip_id": row["clip_id"],
            "uri": row["uri"],
            "split": row["split"],
            "caption": row["caption"],
            "bucket": bucket.name,
            "window_seconds": [round(float(times[0]), 3), round(float(times[-1]), 3)],
            "psnr": psnr(frames, rebuilt),
            "ssim": ssim(frames, rebuilt),
            "psnr_linear": psnr(frames, flat),
            "ssim_linear": ssim(frames, flat),
        })  # fmt: skip
        if pictures is not None:
            clips[-1]["pictures"] = write_pair(pictures, row["clip_id"], frames, rebuilt, sampled_fps(row, bucket))
    return {
        "kind": "tae",
        "snapshot": snapshot,
        "clips": clips,
        "left_out": left_out,
        "summary": {split: _summary(clips, split) for split in ("train", "validation") if _of(clips, split)},
        "note": None if _of(clips, "validation") else "no clip is held out: these are training clips",
    }


def read_windows(
    rows: list[dict[str, Any]], recipe: TAERecipe | VideoRecipe
) -> tuple[list[tuple[dict[str, Any], Bucket, np.ndarray]], dict[str, str]]:
    """Each row's bucket and window, uint8 [T, H, W, 3]; and why the other rows have none, by clip id."""
    windows, left_out = [], {}
    for row in rows:
        bucket = recipe.buckets.assign(row)
        if isinstance(bucket, str):
            left_out[row["clip_id"]] = bucket
            continue
        try:
            windows.append((row, bucket, read_window(row, bucket)))
        except UnreadableVideo as error:
            left_out[row["clip_id"]] = f"does not decode: {error}"
    if not windows:
        raise ValueError("no clip of the snapshot fits a bucket of the recipe; nothing to evaluate")
    return windows, left_out


@torch.no_grad()
def reconstruct(model: TAE, frames: np.ndarray) -> np.ndarray:
    """Encode and decode frames uint8 [T, H, W, 3] in tiles, without sampling the posterior."""
    device = next(model.parameters()).device
    latents = encode_tiled(model, _batch(frames).to(device))
    return to_frames(decode_tiled(model, latents, len(frames))[0].cpu().numpy())


class ReconstructionValidation:
    """L1 (the loss, of signals in [-1, 1]) and PSNR of held-out windows, each decoded from file once and kept."""

    def __init__(self, clips: Sequence[tuple[Mapping[str, Any], Bucket]]):
        self.clips = clips
        self.windows: dict[int, np.ndarray | None] = {}  # None: does not decode

    @torch.no_grad()
    def __call__(self, model: nn.Module, world: World) -> list[ClipMeasured]:
        """This worker's windows, encoded to the posterior's mean and decoded whole."""
        assert isinstance(model, TAE)
        found = []
        for number in range(world.rank, len(self.clips), world.size):
            (row, bucket), frames = self.clips[number], self._window(number)
            if frames is None:
                continue
            signal = _batch(frames).to(world.device)
            rebuilt = model.decode_raw(model.encode_posterior(signal).mean, bucket.frames).float()
            numbers = {
                "loss": float((rebuilt - signal).abs().mean()),
                "psnr": psnr(frames, to_frames(rebuilt[0].cpu().numpy())),
            }
            found.append(ClipMeasured(clip_id=row["clip_id"], bucket=bucket.name, numbers=numbers))
        return found

    def _window(self, number: int) -> np.ndarray | None:
        if number not in self.windows:
            try:
                self.windows[number] = read_window(*self.clips[number])
            except UnreadableVideo:
                self.windows[number] = None
        return self.windows[number]


def write_pair(folder: Path, name: str, left: np.ndarray, right: np.ndarray, fps: float) -> dict[str, str]:
    """Two clips side by side as NAME.mp4 and their middle frames as NAME.png; returns both file names."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = enlarge(np.concatenate([left, right], axis=2))
    write_video(folder / f"{name}.mp4", pair, fps)
    Image.fromarray(pair[len(pair) // 2]).save(folder / f"{name}.png")
    return {"video": f"{folder.name}/{name}.mp4", "still": f"{folder.name}/{name}.png"}


def enlarge(frames: np.ndarray) -> np.ndarray:
    """Repeat pixels until pictures are about 192 high: uint8 [T, H, W, 3] to [T, kH, kW, 3]."""
    factor = max(1, SHOWN_HEIGHT // frames.shape[1])
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _batch(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(to_signal(frames))[None]


def _of(clips: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    return [clip for clip in clips if clip["split"] == split]


def _summary(clips: list[dict[str, Any]], split: str) -> dict[str, float]:
    chosen = _of(clips, split)
    medians = {
        f"{name}_median": statistics.median(c[name] for c in chosen)
        for name in ("psnr", "ssim", "psnr_linear", "ssim_linear")
    }
    return {"clips": len(chosen), **medians, "psnr_worst": min(c["psnr"] for c in chosen)}
