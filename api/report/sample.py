"""The generated clip beside what it was learnt from: the nearest training clip, and what the autoencoder makes of that one."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from api.report.footage import short_name
from api.report.media import jpeg, mp4, mp4_of
from curation.clips import Snapshot, read_frames
from curation.clips.frames import probe
from models.autoencoders.tae import TAE
from models.weights import load_model
from training.data.buckets import sampled_fps
from training.evaluation.pictures import psnr
from training.evaluation.reconstruction import read_windows, reconstruct
from training.generate import Generated
from training.runs import trained_recipe


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A small video that plays, and its middle frame."""

    video: str
    still: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A generated clip and its nearest neighbour among the training clips (by PSNR, pixel by pixel)."""

    made: Generated
    tile: Tile
    nearest_name: str
    nearest_caption: str
    nearest_is_prompted: bool  # the prompt is the nearest clip's own caption
    nearest: Tile
    rebuilt: Tile
    psnr: float
    psnr_rebuilt: float  # generated clip against the autoencoder's version, the best it could do
    psnr_limit: float  # the autoencoder's version against the clip
    psnr_other: float | None  # best against any other training clip


def read_sample(made: Generated, snapshot: Snapshot, tae: Path, video: Path) -> Sample:
    """Find the nearest of the snapshot's training clips, in the window and size the model was trained on."""
    frames = frames_of(made)
    rows = [row for row in snapshot.kept_clips().to_pylist() if row["split"] == "train"]
    windows, _ = read_windows(rows, trained_recipe(video / "final"))
    near = [
        (psnr(window, frames), row, bucket, window) for row, bucket, window in windows if window.shape == frames.shape
    ]
    if not near:
        raise ValueError(f"no training clip of {snapshot.name} has {made.path.name}'s shape {list(frames.shape)}")
    near.sort(key=lambda item: -item[0])
    best, row, bucket, window = near[0]
    model = load_model(tae / "final")
    assert isinstance(model, TAE)
    rebuilt = reconstruct(model, window)
    rate = sampled_fps(row, bucket)
    return Sample(
        made=made,
        tile=Tile(video=mp4(made.path), still=_middle(frames)),
        nearest_name=short_name(row["uri"]),
        nearest_caption=row["caption"] or "",
        nearest_is_prompted=row["caption"] == made.prompt,
        nearest=Tile(video=mp4_of(window, rate), still=_middle(window)),
        rebuilt=Tile(video=mp4_of(rebuilt, rate), still=_middle(rebuilt)),
        psnr=best,
        psnr_rebuilt=psnr(rebuilt, frames),
        psnr_limit=psnr(window, rebuilt),
        psnr_other=near[1][0] if len(near) > 1 else None,
    )


def frames_of(made: Generated) -> np.ndarray:
    """The frames of a generated MP4 as a player shows them, uint8 [T, H, W, 3]."""
    facts = probe(str(made.path))
    clip = {
        "uri": str(made.path),
        "stream_index": facts.stream_index,
        "start_pts": 0,
        "end_pts": round(2 * made.frames / made.fps / facts.time_base),
        "time_base_numerator": facts.time_base.numerator,
        "time_base_denominator": facts.time_base.denominator,
    }
    times = [float(Fraction(i) / Fraction(made.fps)) for i in range(made.frames)]
    return read_frames(clip, times, made.height, made.width)


def _middle(frames: np.ndarray) -> str:
    """Enlarged without smoothing, as the page shows the video."""
    return jpeg(frames[len(frames) // 2].repeat(4, axis=0).repeat(4, axis=1))
