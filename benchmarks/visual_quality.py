"""Trains the head of visual.quality on real frames damaged on purpose, and says how well it tells frames of unseen videos.

    python -m benchmarks.visual_quality [--videos FOLDER] [--out FOLDER]

FOLDER has videos and a SOURCES.csv; samples/ by default. Of other folders only videos of licence grade A are used. Writes
quality.safetensors and quality.json, and prints the table of held-out figures. Same videos, same weights.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from curation.clips.errors import UnreadableVideo
from curation.clips.frames import LOOK_LONG_SIDE, probe, read_frames, write_video
from curation.visual.quality import crops
from models.content.quality import REPORT, WEIGHTS, QualityFeatures, log_odds

ROOT = Path(__file__).parent.parent
SEED = 20261121
FRAMES = 6  # of a video
FIRST_SECONDS = 20.0  # of a video that frames are taken from
FOLDS = 5
PENALTY = 1e-3  # of squared weights; 3e-4 to 3e-3 give the same held-out AUC within 0.006


def blur(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, 1 to 4 pixels on a look."""
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(1, 4) * _size(picture))


def upscale(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Enlarged from a picture whose long side was 110 to 320 pixels, or half to a fifth of a smaller one."""
    height, width = picture.shape[:2]
    factor = rng.uniform(2, 5) * _size(picture)
    small = cv2.resize(picture, (round(width / factor), round(height / factor)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=(cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(2)])


def jpeg(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """JPEG of quality 4 to 20."""
    coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(4, 21))])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def h264(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """x264 with a rate factor of 38 to 50."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/coded.mp4"
        write_video(path, np.stack([picture] * 2), 25, crf=int(rng.integers(38, 51)))
        facts = probe(path)
        row = _whole(path, facts, 1.0)
        return read_frames(row, [0.0], *picture.shape[:2])[0]


def noise(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, of 10 to 40 in 255 on a look."""
    strength = rng.uniform(10, 40) * _size(picture)
    return np.clip(picture + rng.normal(0, strength, picture.shape), 0, 255).astype(np.uint8)


def banding(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Four to twelve levels a colour."""
    step = 255 / (int(rng.integers(4, 13)) - 1)
    return np.clip(np.round(picture / step) * step, 0, 255).astype(np.uint8)


def exposure(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two to three times too bright, or a third to a tenth of the light."""
    gain = rng.uniform(1.8, 3) if rng.integers(2) else rng.uniform(0.1, 0.35)
    return np.clip(picture * gain, 0, 255).astype(np.uint8)


DAMAGES = {each.__name__: each for each in (blur, upscale, jpeg, h264, noise, banding, exposure)}


def _size(picture: np.ndarray) -> float:
    """Pixels of the picture to one of its look."""
    return max(1.0, max(picture.shape[:2]) / LOOK_LONG_SIDE)


def _look(picture: np.ndarray) -> np.ndarray:
    """A picture as a filter sees it: a JPEG with a long side of at most 640 pixels."""
    scale = 1 / _size(picture)
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    small = picture if scale == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[:, :, ::-1])


def _whole(path: str, facts: Any, seconds: float) -> dict[str, Any]:
    base = facts.time_base
    return {
        "uri": path, "stream_index": facts.stream_index, "start_pts": 0, "end_pts": int(seconds / base) + 1,
        "time_base_numerator": base.numerator, "time_base_denominator": base.denominator,
        "width": facts.width, "height": facts.height,
    }  # fmt: skip


def videos(folder: Path) -> Iterator[tuple[str, Path]]:
    """(group, path) of every video that may be used. Copies and takes of one scene share the first word of their names."""
    with (folder / "SOURCES.csv").open() as file:
        for row in csv.DictReader(file):
            name = row["file"]
            if row.get("licence_grade", "A") == "A" and not name.startswith(("odd_", "black_")):
                yield name.partition("_")[0], folder / name


def frames(path: Path) -> list[np.ndarray]:
    """Frames spread over the start of a video, upright, at native size, RGB; none where it does not read."""
    try:
        facts = probe(str(path))
        seconds = min(facts.claimed_seconds or 0.0, FIRST_SECONDS)
        times = np.linspace(0.1, 0.9, FRAMES) * seconds
        return list(read_frames(_whole(str(path), facts, seconds), list(times), facts.height, facts.width))
    except UnreadableVideo:
        return []


def fit(features: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """Logistic regression, both classes weighing the same; full batch, so the order of rows changes nothing but last bits."""
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-3)
    x = ((features - mean) / scale).double()
    y = clean.double()
    weight = torch.where(clean, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    parameters = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        odds = x @ parameters[:-1] + parameters[-1]
        total = (weight * torch.nn.functional.softplus(torch.where(clean, -odds, odds))).sum()
        total = total + PENALTY * parameters[:-1].square().sum()
        total.backward()
        return total

    solver.step(loss)  # type: ignore[no-untyped-call]
    found = parameters.detach().float()
    return {"mean": mean, "scale": scale, "weight": found[:-1].clone(), "bias": found[-1:].clone()}


def auc(clean: np.ndarray, damaged: np.ndarray) -> float:
    """Share of pairs that are in the right order, halves for ties."""
    return float((clean[:, None] > damaged).mean() + 0.5 * (clean[:, None] == damaged).mean())


def held_out(rows: Sequence[tuple[str, str, str]], features: Tensor, clean: Tensor) -> dict[str, Any]:
    """Every picture scored by a head that saw no video of its group. What is told apart: clean pictures from each damage."""
    groups = sorted({group for group, _, _ in rows})
    fold = dict(zip(groups, np.random.default_rng(SEED).permutation(len(groups)) % FOLDS, strict=True))
    of_row = torch.tensor([int(fold[group]) for group, _, _ in rows])
    odds = torch.empty(len(rows))
    for number in range(FOLDS):
        unseen = of_row == number
        odds[unseen] = log_odds(fit(features[~unseen], clean[~unseen]), features[unseen])
    by_damage = {damage: odds[[d == damage for _, _, d in rows]].numpy() for damage in ("", *DAMAGES)}
    undamaged = by_damage.pop("")
    lowest = np.quantile(undamaged, 0.05)
    figures = {
        name: {"auc": round(auc(undamaged, each), 3), "found": round(float((each < lowest).mean()), 3)}
        for name, each in [*by_damage.items(), ("all", np.concatenate(list(by_damage.values())))]
    }
    return {
        "seed": SEED,
        "videos": len({name for _, name, _ in rows}),
        "files": sorted({name for _, name, _ in rows}),
        "groups": len(groups),
        "folds": FOLDS,
        "clean_pictures": len(undamaged),
        "clean_above_half": round(float((undamaged > 0).mean()), 3),
        "held_out": figures,
    }


def table(report: dict[str, Any]) -> str:
    """The figures of a report as Markdown."""
    lines = [
        f"{report['videos']} videos in {report['groups']} groups, {report['clean_pictures']} clean pictures, {report['folds']} folds by group",
        "",
        "| damage | held-out AUC | found where 5 % of the clean are lost |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {each['auc']:.3f} | {each['found']:.0%} |" for name, each in report["held_out"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.visual_quality", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--videos", type=Path, default=ROOT / "samples")
    parser.add_argument("--out", type=Path, default=WEIGHTS.parent)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, network = np.random.default_rng(SEED), QualityFeatures()
    rows: list[tuple[str, str, str]] = []  # group, video, damage ("" for none)
    parts: list[Tensor] = []
    for group, path in videos(options.videos):
        for frame in frames(path):
            for damage in ("", *DAMAGES):
                worse = DAMAGES[damage](frame, rng) if damage else frame
                parts.append(network(crops(_look(worse))).mean(0))
                rows.append((group, path.name, damage))
    features, clean = torch.stack(parts), torch.tensor([not damage for _, _, damage in rows])
    report = held_out(rows, features, clean)
    head = fit(features, clean)
    save_file(head, options.out / WEIGHTS.name)
    (options.out / REPORT.name).write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
