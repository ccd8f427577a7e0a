"""What training waits for its data: the demo's own steps on the CPU, and steps as long as an accelerator's, fed by two decode threads.

python -m benchmarks.loader [FOLDER] [--manifest LAKE] [--demo-steps 60] [--steps 12] [--rounds 3] [--batch 4] [--json]

FOLDER (samples/ by default) is curated by the demo's recipe first, unless a manifest is given. An accelerator's step is a
sleep, since its computing leaves the CPUs free; how long, follows from the model's floating-point operations and a stated rate.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):  # run as a file: packages are found from the tree
    sys.path[0] = os.path.dirname(sys.path[0])
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # before torch loads; see training.cluster.WORKER_ENVIRONMENT

import torch
from torch.utils.flop_counter import FlopCounterMode

from curation.clips import open_snapshot
from models.accounting import flops
from models.autoencoders.tae import SIZES as TAE_SIZES
from models.autoencoders.tae import TAE
from models.video.transformer import SIZES as TRANSFORMER_SIZES
from training.cluster import train_here
from training.data.buckets import Bucket, BucketTable, DurationRule, Size
from training.data.cache import TensorCache
from training.data.loader import Loader
from training.data.pixels import WindowReader, pixel_shape
from training.data.plan import BatchSize, Plan
from training.encode import LatentStore, latent_shape
from training.metrics import read_metrics
from training.prepare import prepare_run
from training.recipes import tae_demo, video_demo, video_demo_t2i
from training.runs import load_run
from training.video import Latents
from training.world import World

TRANSFORMER_RATE = 500e12  # FLOP/s of one device: half of an H100's dense bfloat16 peak
TAE_RATE = 200e12  # FLOP/s: narrow convolutions stay further from the peak
TEXT_TOKENS = 256  # of each text encoder
WARM_STEPS = 5  # not counted: nothing was fetched ahead of the first
WINDOW = Bucket(frames=32, fps=16.0, height=256, width=256)  # the autoencoder's
CLIP = Bucket(frames=256, height=256, width=256)  # 8,192 tokens


@dataclass(frozen=True)
class Shapes:
    """A plan's recipe: every clip that is long enough becomes one shape."""

    buckets: BucketTable
    batch: BatchSize
    fps_tag: bool = True


def table(bucket: Bucket, min_seconds: float) -> BucketTable:
    """The buckets that hold this one alone."""
    rule = DurationRule(min_seconds=min_seconds, max_seconds=None, frames=bucket.frames, fps=bucket.fps)
    return BucketTable(durations=(rule,), sizes=(Size(height=bucket.height, width=bucket.width),))


def demo_runs(snapshot: str, steps: int, folder: Path) -> list[dict[str, Any]]:
    """Real runs of the demo's recipes, alone on this machine's cores: the share of their steps spent waiting."""
    torch.set_num_threads(os.cpu_count() or 1)
    quiet = {"steps": steps, "checkpoint_every": steps, "validate_every": None}
    tae = folder / "tae"
    found = []
    for name, recipe in (("tae", tae_demo()), ("video", video_demo()), ("t2i", video_demo_t2i())):
        more: dict[str, Any] = {} if name == "tae" else {"sample_every": None}
        options: dict[str, Any] = {} if name == "tae" else {"tae": tae, "cache": folder / "cache"}
        kind = "tae" if name == "tae" else "video"
        prepare_run(kind, snapshot, replace(recipe, **quiet, **more), folder / name, **options)  # type: ignore[arg-type]
        train_here(load_run(folder / name), World())
        lines = read_metrics(folder / name, "step")
        seconds = [b["seconds"] - a["seconds"] for a, b in itertools.pairwise(lines)][WARM_STEPS:]
        shares = [line["data_wait"] for line in lines[1:]][WARM_STEPS:]
        waited = sum(share * s for share, s in zip(shares, seconds, strict=True))
        found.append({
            "recipe": recipe.name,
            "steps": len(seconds),
            "step_seconds": statistics.median(seconds),
            "wait_share": waited / sum(seconds),
            "wait_share_median": statistics.median(shares),
        })  # fmt: skip
    return found


def feed(loader: Loader, steps: int, step_seconds: float) -> dict[str, float]:
    """Take `steps` batches, sleeping a step's length after each; the steps before are warm-up and not counted."""
    waited, samples, began, cpu = 0.0, 0, 0.0, 0.0
    for step in range(WARM_STEPS + steps):
        if step == WARM_STEPS:
            waited, samples, began, cpu = 0.0, 0, time.monotonic(), cpu_seconds()
        asked = time.monotonic()
        groups = loader.step(step)
        waited += time.monotonic() - asked
        samples += sum(len(group.samples) for group in groups)
        time.sleep(step_seconds)
    seconds = time.monotonic() - began
    loader.close()
    return {
        "wait_share": waited / seconds,
        "samples_per_second": samples / seconds,
        "seconds_a_step": seconds / steps,
        "cpu_seconds_a_sample": (cpu_seconds() - cpu) / samples,
    }


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def transformer_step() -> float:
    """Seconds of a step of the 30B model on one sample of 8,192 tokens a device: a forward pass and twice that backward."""
    config = TRANSFORMER_SIZES["30b"]
    return 3 * flops(config, CLIP.tokens, (TEXT_TOKENS,) * len(config.text_widths)) / TRANSFORMER_RATE


def tae_step(batch: int) -> float:
    """Seconds of a step of the paper's autoencoder on `batch` windows a device, its critic and LPIPS left out."""
    with torch.device("meta"):
        tae = TAE(TAE_SIZES["moviegen"])
        video = torch.empty(1, *pixel_shape(WINDOW))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tae.decode(tae.encode_posterior(video).mean, WINDOW.frames)
    return 3 * batch * counter.get_total_flops() / TAE_RATE


def windows(rows: Sequence[dict[str, Any]], batch: int) -> Callable[[], Loader]:
    """Loaders of windows that are each decoded when they are asked for, as in a set that does not fit in memory."""
    plan = Plan(rows, Shapes(table(WINDOW, 2.0), BatchSize(videos=batch)), seed=0)
    return lambda: Loader(plan, WindowReader(plan, memory_bytes=0), pixel_shape)


def latents(rows: Sequence[dict[str, Any]], folder: Path, count: int) -> Callable[[], Loader]:
    """Loaders of one latent a step, each read from its file and, as far as the system lets itself be told, from the disk."""
    clips = [row for row in rows if row["end_seconds"] - row["start_seconds"] >= 1.0]
    many = [
        clips[i % len(clips)]
        | {"clip_id": f"{i:032x}", "start_pts": clips[i % len(clips)]["start_pts"] + i // len(clips)}
        for i in range(count)
    ]
    plan = Plan(many, Shapes(table(CLIP, 1.0), BatchSize(videos=1)), seed=0)
    with torch.device("meta"):
        tae = TAE(TAE_SIZES["moviegen"])
    store = LatentStore(tae=tae, tae_sha256="noise", cache=TensorCache(folder))
    for row, bucket in plan.bucket_of.items():
        noise = torch.randn(latent_shape(bucket, tae.config.latent_channels), dtype=torch.bfloat16)
        store.cache.put(store.key(many[row], bucket), {"latent": noise})

    def fresh() -> Loader:
        for path in folder.rglob("*.safetensors"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        source = Latents(store, plan, {}, memory_bytes=0)
        return Loader(plan, source, source.shape)

    return fresh


def accelerator(what: str, make: Callable[[], Loader], step_seconds: float, steps: int, rounds: int) -> dict[str, Any]:
    """Rounds of feeding steps of that length, and of feeding as fast as it goes; medians."""
    fed = [feed(make(), steps, step_seconds) for _ in range(rounds)]
    free = [feed(make(), steps, 0.0) for _ in range(rounds)]

    def median(runs: list[dict[str, float]], name: str) -> float:
        return statistics.median(run[name] for run in runs)

    return {
        "what": what,
        "step_seconds": step_seconds,
        "wait_share": median(fed, "wait_share"),
        "wait_share_worst": max(run["wait_share"] for run in fed),
        "cpu_seconds_a_sample": median(fed, "cpu_seconds_a_sample"),
        "samples_per_second": median(free, "samples_per_second"),
        "shortest_step_seconds": median(free, "seconds_a_step"),
    }


def curated(folder: str, out: Path) -> str:
    """The name of a snapshot of the folder's videos, by the demo's recipe."""
    from curation.pipeline import curate
    from curation.recipes import load_recipe
    from curation.workers import connect, disconnect

    connect()
    curate([folder], load_recipe("demo"), str(out))
    disconnect()  # the cores are training's
    return str(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=str(Path(__file__).parents[1] / "samples"))
    parser.add_argument("--manifest", help="a lake that is curated already")
    parser.add_argument("--demo-steps", type=int, default=60, help="of each of the demo's recipes; 0 leaves them out")
    parser.add_argument("--steps", type=int, default=12, help="of an accelerator's, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="windows of a step of the autoencoder")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="cinemill-loader-") as place:
        folder = Path(place)
        snapshot = arguments.manifest or curated(arguments.folder, folder / "lake")
        rows = open_snapshot(snapshot).kept_clips().to_pylist()
        demo = demo_runs(snapshot, arguments.demo_steps + 1 + WARM_STEPS, folder) if arguments.demo_steps else []
        count = arguments.steps + WARM_STEPS + 4
        fed = [
            accelerator(what, make, seconds, arguments.steps, arguments.rounds)
            for what, make, seconds in (
                (
                    f"30B, {CLIP.tokens:,} tokens from the cache",
                    latents(rows, folder / "entries", count),
                    transformer_step(),
                ),
                (
                    f"autoencoder, {arguments.batch} decoded windows",
                    windows(rows, arguments.batch),
                    tae_step(arguments.batch),
                ),
            )
        ]
    if arguments.json:
        print(json.dumps({"clips": len(rows), "demo": demo, "accelerator": fed}))
        return
    print(f"{len(rows)} clips, {os.cpu_count()} cores\n")
    if demo:
        print("| recipe on these cores | steps | seconds a step | waiting | median step |\n|---|---|---|---|---|")
        for run in demo:
            print(
                f"| {run['recipe']} | {run['steps']} | {run['step_seconds']:.3f} | {100 * run['wait_share']:.2f} % "
                f"| {100 * run['wait_share_median']:.2f} % |"
            )
        print()
    print(
        "| step of an accelerator, 2 decode threads | seconds | waiting | worst round | CPU s a sample | samples a second, at most "
        "| shortest step fed, seconds |\n|---|---|---|---|---|---|---|"
    )
    for run in fed:
        print(
            f"| {run['what']} | {run['step_seconds']:.2f} | {100 * run['wait_share']:.2f} % "
            f"| {100 * run['wait_share_worst']:.2f} % | {run['cpu_seconds_a_sample']:.3f} "
            f"| {run['samples_per_second']:.1f} | {run['shortest_step_seconds']:.3f} |"
        )


if __name__ == "__main__":
    main()
