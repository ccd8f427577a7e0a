"""What the report says of the two trained models: reconstructions and curves, each beside the baseline it has to beat."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from api.report.drawings import Bar, Drawing, draw_dots, draw_lines, smoothed
from api.report.footage import short_name
from api.report.media import jpeg, mp4
from training.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two clips side by side: a video with a still of its middle frame, and what was measured between them."""

    clip_id: str
    name: str
    caption: str
    held_out: bool
    video: str
    still: str
    numbers: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """The first model: pixels to latents and back."""

    pairs: tuple[Pair, ...]
    dots: Drawing
    curve: Drawing
    median: float
    median_linear: float
    won: int  # clips on which it beats the linear transform
    facts: Mapping[str, Any]
    note: str | None


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The second model: text and noise to latents."""

    curve: Drawing
    loss: float  # of training clips, at fixed times and noise
    held_out: float | None  # the same of clips kept out of training
    clips: int
    bars: Mapping[str, float]
    samples: tuple[Pair, ...]
    facts: Mapping[str, Any]
    note: str | None


def read_autoencoder(run: Path) -> Autoencoder:
    """From the run's evaluation.json, metrics.jsonl and reconstructions/."""
    report = json.loads((run / "evaluation.json").read_text())
    names = _names(report["clips"])
    pairs = [
        _pair(run, clip, names, clip["split"] != "train", ("psnr", "psnr_linear", "ssim", "ssim_linear"))
        for clip in report["clips"]
    ]
    rows = [
        (
            f"{_shortened(pair.name, 18)} (held out)" if pair.held_out else _shortened(pair.name, 28),
            clip["psnr"],
            clip["psnr_linear"],
        )
        for pair, clip in zip(pairs, report["clips"], strict=True)
    ]
    steps = [(line["step"], line["psnr"]) for line in read_metrics(run, "step") if "psnr" in line]
    linear = float(np.median([clip["psnr_linear"] for clip in report["clips"]]))
    return Autoencoder(
        pairs=tuple(pairs),
        dots=draw_dots(rows, title="PSNR of each clip: autoencoder and best linear transform", unit="PSNR, dB"),
        curve=draw_lines(
            [("raw", steps), ("smooth", smoothed(steps))],
            [Bar(value=linear, name=f"best linear transform, median {linear:.1f} dB")],
            title="PSNR of training batches by step, in dB",
        ),
        median=float(np.median([clip["psnr"] for clip in report["clips"]])),
        median_linear=linear,
        won=sum(clip["psnr"] >= clip["psnr_linear"] for clip in report["clips"]),
        facts=_facts(run),
        note=report.get("note"),
    )


BASELINES = (
    ("mean_velocity_loss", "always the mean velocity", "faint"),
    ("gaussian_loss_per_position", "best Gaussian denoiser, place by place", "level"),
    ("gaussian_loss", "best Gaussian denoiser, whole clips", "level"),
)


def read_flow(run: Path) -> Flow:
    """From the run's evaluation.json, metrics.jsonl and samples/."""
    report = json.loads((run / "evaluation.json").read_text())
    summary = report["summary"].get("train") or next(iter(report["summary"].values()))
    steps = [(line["step"], line["loss"]) for line in read_metrics(run, "step")]
    bars = {name: summary[name] for name, _, _ in BASELINES if name in summary}
    levels = [
        Bar(value=bars[name], name=f"{words} {bars[name]:.3g}", kind=kind)
        for name, words, kind in BASELINES
        if name in bars
    ]
    last = steps[-1][0] if steps else 0
    samples = report.get("samples", ())
    names = _names(samples, {clip["clip_id"]: clip["uri"] for clip in report["clips"]})
    numbers = ("psnr", "psnr_reconstruction", "psnr_to_reconstruction", "psnr_other", "guidance")
    return Flow(
        curve=draw_lines(
            [("raw", steps), ("smooth", smoothed(steps))],
            levels,
            title="flow matching loss by step",
            logarithmic=True,
            points=[(last, summary["loss"], f"after training {summary['loss']:.3g}")],
        ),
        loss=summary["loss"],
        held_out=report["summary"].get("validation", {}).get("loss") if "train" in report["summary"] else None,
        clips=summary["clips"],
        bars=bars,
        samples=tuple(_pair(run, made, names, False, numbers) for made in samples if "pictures" in made),
        facts=_facts(run),
        note=report.get("note"),
    )


def _pair(
    run: Path, clip: Mapping[str, Any], names: Mapping[str, str], held_out: bool, numbers: tuple[str, ...]
) -> Pair:
    with Image.open(run / clip["pictures"]["still"]) as still:
        picture = np.asarray(still.convert("RGB"))
    return Pair(
        clip_id=clip["clip_id"],
        name=names[clip["clip_id"]],
        caption=clip["caption"] or "",
        held_out=held_out,
        video=mp4(run / clip["pictures"]["video"]),
        still=jpeg(picture),
        numbers={name: clip[name] for name in numbers},
    )


def _names(clips: Any, uris: Mapping[str, str] | None = None) -> dict[str, str]:
    """File names for people, with the clip's number where a file gave several."""
    files = {
        clip["clip_id"]: Path(short_name((uris or {}).get(clip["clip_id"]) or clip.get("uri", clip["clip_id"]))).stem
        for clip in clips
    }
    several = [name for name in files.values() if list(files.values()).count(name) > 1]
    return {clip_id: f"{name} {clip_id[:6]}" if name in several else name for clip_id, name in files.items()}


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _facts(run: Path) -> dict[str, Any]:
    """Steps, parameters, device and threads, as the run itself wrote them."""
    begun = [line for line in read_metrics(run) if line["event"] in ("start", "resume")]
    return begun[-1] if begun else {}
