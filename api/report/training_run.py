"""One training run as one self-contained HTML file: what it is, how its losses fell, how fast it went, what it made."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from api.report.drawings import Bar, Drawing, draw_dots, draw_lines, smoothed
from api.report.learning import Pair, read_autoencoder, read_flow
from api.report.media import jpeg
from api.report.page import render
from api.report.run_details import checkpoints, differences, kernels, left_out, spoken_batch, spoken_bytes
from training.evaluation.sample_grid import read_grid
from training.metrics import read_metrics
from training.runs import local_folder

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The last validation of one bucket, or of all of them together."""

    bucket: str
    num_clips: int
    loss: float
    loss_ci95: float | None


def build_run_page(run: str | Path, path: Path | None = None) -> Path:
    """Write RUN/page.html, or `path`; a run may be going on. ValueError where there is no run."""
    folder = local_folder(run)
    content = gather_run(folder)
    path = path or folder / "page.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(render(content, "training_run.html"), encoding="utf-8")
    os.replace(partial, path)
    return path


def gather_run(folder: Path) -> dict[str, Any]:
    """What the page shows, from run.json, metrics.jsonl and, once finished, evaluation.json and its pictures."""
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} holds no training run; pass the --out of `cinemill train`")
    run, lines = json.loads((folder / "run.json").read_text()), read_metrics(folder)
    steps, validations = _of(lines, "step"), _of(lines, "validation")
    begun = [line for line in lines if line["event"] in ("start", "resume")]
    ends = [line for line in lines if line["event"] in ("finished", "stopped", "not_finite")]
    unit = next((unit for unit in ("tokens", "frames") if steps and f"{unit}_per_second" in steps[-1]), None)
    rates = _curve(steps, f"{unit}_per_second") if unit else []
    waits = [(step, 100 * share) for step, share in _curve(steps, "data_wait")]
    norms = _curve(steps, "gradient_norm")
    return {
        "run": run,
        "recipe": json.dumps(run["recipe"], indent=1),
        "name": folder.name,
        "now": datetime.now(UTC),
        "version": version("cinemill"),
        "begun": [line | {"at": datetime.fromtimestamp(line["time"], UTC)} for line in begun],
        "data": begun[-1] if begun else None,
        "batch": spoken_batch(run["recipe"]["batch"]),
        "left_out": left_out(begun[-1].get("excluded", {})) if begun else [],
        "kernels": kernels(lines),
        "memory": _memory(begun, steps),
        "checkpoints": checkpoints(folder, lines),
        "differences": differences(run["recipe"]),
        "end": ends[-1] if ends and ends[-1] == lines[-1] else None,
        "last": steps[-1] if steps else None,
        "unit": unit,
        "rate": _median([value for _, value in rates]),
        "wait": _median([line["data_wait"] for line in steps if "data_wait" in line]),
        "loss": _draw_loss(steps, validations),
        "validation": validations[-1] if validations else None,
        "buckets": _buckets(validations[-1]) if validations else [],
        "held_out": _draw_validation(validations),
        "times": _draw_times(validations),
        "speed": draw_lines([("raw", rates), ("smooth", smoothed(rates))], [], title=f"{unit} a second by step"),
        "waits": draw_lines(
            [("raw", waits), ("smooth", smoothed(waits))],
            [Bar(value=1.0, name="1 %", kind="faint")],
            title="share of a step spent waiting for data, in percent, by step",
        ),
        "learning_rate": draw_lines(
            [("smooth", [(step, 1000 * rate) for step, rate in _curve(steps, "learning_rate")])],
            [],
            title="learning rate by step, in thousandths",
            logarithmic=True,
        ),
        "norms": draw_lines(
            [("raw", norms), ("smooth", smoothed(norms))], [], title="gradient norm by step", logarithmic=True
        ),
        "events": _of(lines, "learning_rate"),
        "grid": _grid(folder),
        "pairs": _pairs(folder, run["kind"]),
    }


def _memory(begun: Lines, steps: Lines) -> dict[str, str | None]:
    """Planned and measured, as words; None where the log does not say."""
    planned = begun[-1].get("planned_memory") if begun else None
    peaks = [line["peak_memory"] for line in steps if "peak_memory" in line]  # each process starts anew
    return {
        "planned": None if planned is None else spoken_bytes(planned),
        "peak": spoken_bytes(max(peaks)) if peaks else None,
    }


def _of(lines: Lines, event: str) -> list[Mapping[str, Any]]:
    return [line for line in lines if line["event"] == event]


def _curve(lines: Lines, name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in lines if name in line]


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _draw_loss(steps: Lines, validations: Lines) -> Drawing:
    losses = _curve(steps, "loss")
    last = [(line["step"], line["loss"], f"held out {line['loss']:.3g}") for line in validations[-1:]]
    return draw_lines(
        [("raw", losses), ("smooth", smoothed(losses))],
        [],
        title="training loss by step",
        logarithmic=True,
        points=last,
    )


def _draw_validation(validations: Lines) -> Drawing:
    """The mean in the middle, the ends of its interval beside it."""
    bounded = [line for line in validations if "loss_ci95" in line]
    ends = [[(v["step"], v["loss"] + sign * v["loss_ci95"]) for v in bounded] for sign in (-1, 1)]
    return draw_lines(
        [("raw", ends[0]), ("raw", ends[1]), ("smooth", _curve(validations, "loss"))],
        [],
        title="loss of held-out clips by step, with 95 % intervals over clips",
    )


def _draw_times(validations: Lines) -> Drawing | None:
    timed = [line for line in validations if "loss_by_time" in line]
    if not timed:
        return None
    from training.evaluation.flow_loss import fixed_times

    pairs = zip(fixed_times().tolist(), timed[-1]["loss_by_time"], timed[0]["loss_by_time"], strict=True)
    rows = [(f"t = {time:.3f}", last, first) for time, last, first in pairs]
    return draw_dots(rows, title="held-out loss by time: last validation and first", unit="loss")


def _buckets(validation: Mapping[str, Any]) -> list[Validated]:
    names = sorted({clip["bucket"] for clip in validation["clips"]})
    return [
        Validated(
            bucket=name,
            num_clips=sum(clip["bucket"] == name for clip in validation["clips"]),
            loss=validation[f"loss/{name}"],
            loss_ci95=validation.get(f"loss/{name}_ci95"),
        )
        for name in names
    ]


def _grid(folder: Path, most: int = 8) -> list[tuple[int, list[str]]]:
    """At most so many rows of pictures, evenly over the run, the last among them."""
    rows = read_grid(folder)
    chosen = rows[:: -max(1, -(-len(rows) // most))][::-1]
    return [(step, [_picture(path) for path in paths]) for step, paths in chosen]


def _picture(path: Path) -> str:
    with Image.open(path) as image:
        return jpeg(np.asarray(image.convert("RGB")))


def _pairs(folder: Path, kind: str) -> tuple[Pair, ...]:
    if not (folder / "evaluation.json").is_file():
        return ()
    return read_autoencoder(folder).pairs if kind == "tae" else read_flow(folder).samples
