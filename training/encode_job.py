"""Fills a cache ahead of training, as a Ray Data job: latents of every planned clip, embeddings of every caption.

It ends, and its actors with it, before training starts: trainers beside a data set on the same CPUs stand still.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curation.clips import UnreadableVideo, open_snapshot
from models.autoencoders.tae import TAE
from models.weights import load_model, weights_sha256
from training.cluster import RunFailed, connect
from training.data.buckets import Bucket
from training.data.cache import TensorCache
from training.data.plan import Plan
from training.data.text import CaptionEncoder
from training.encode import (
    Entry,
    LatentStore,
    captions_of,
    entry_key,
    held_out_entries,
    planned_entries,
)
from training.prepare import check_text_encoders
from training.recipes import VideoRecipe
from training.runs import Run, finished_tae, local_folder, split_rows

# What encoding reads of a row: all that a key, a window and a file's check are made of.
COLUMNS = (
    "clip_id", "video_id", "uri", "stream_index", "start_pts", "end_pts", "time_base_numerator", "time_base_denominator",
    "start_seconds", "end_seconds", "fps", "width", "height", "crop_left", "crop_top", "crop_width", "crop_height",
)  # fmt: skip
ENTRIES_PER_ACTOR = 16  # starting one (torch, two networks) costs as much as encoding so many of the demo's clips
MAX_BLOCK = 64  # entries that one call of an actor encodes, and that a lost actor does again
RELEASE_SECONDS = 60.0  # how long Ray may take to end the actors

ShowCount = Callable[[int, int], None]  # done, total


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """What an actor needs to encode."""

    tae: Path
    tae_sha256: str
    text_encoders: tuple[str, ...]
    cache: Path


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What a job did. `total` entries are what runs read; `missing` of them were not there, `made` are now."""

    total: int
    missing: int
    made: int
    failed: dict[str, str]  # clips that could not be read, and why


class EncodeActor:
    """One actor, one core or GPU: the networks load once, entries come as JSON."""

    def __init__(self, job: EncodeJob):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if weights_sha256(job.tae) != job.tae_sha256:
            raise ValueError(f"{job.tae} is not the autoencoder {job.tae_sha256[:12]} that this cache is filled for")
        tae = load_model(job.tae, device)
        assert isinstance(tae, TAE)
        cache = TensorCache(job.cache)
        self.store = LatentStore(tae=tae, tae_sha256=job.tae_sha256, cache=cache)
        self.encode = CaptionEncoder.of(job.text_encoders, cache, device=device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """A batch of entries: for each the clip that could not be read and why, or two empty strings."""
        results = [self._one(json.loads(entry)) for entry in batch["entry"]]
        return {"clip_id": [clip_id for clip_id, _ in results], "why": [why for _, why in results]}

    def _one(self, entry: dict[str, Any]) -> tuple[str, str]:
        if "text" in entry:
            self.encode([entry["text"]])
            return "", ""
        try:
            self.store.get(entry["clip"], Bucket(**entry["bucket"]))
        except UnreadableVideo as error:
            return entry["clip"]["clip_id"], str(error)
        return "", ""


def fill_ahead(run: Run, progress: ShowCount | None = None) -> Filled:
    """Make all that a video run will read of its cache. Ray is joined already; returns when the actors have ended."""
    assert run.tae is not None and run.tae_sha256 is not None
    job = EncodeJob(
        tae=run.tae, tae_sha256=run.tae_sha256, text_encoders=run.recipe.text_encoders, cache=run.cache_folder
    )
    return fill(run.snapshot, run.recipe, job, progress)


def encode(
    snapshot: str,
    recipe: VideoRecipe,
    cache: str | Path,
    *,
    tae: str | Path,
    address: str | None = None,
    progress: ShowCount | None = None,
) -> Filled:
    """Fill the folder `cache` with all that runs of this recipe read of it; they find it by `--cache`.

    A wrong call is a ValueError before Ray starts, and writes nothing. Interrupted, the same call goes on.
    """
    folder, tae_folder = local_folder(cache), finished_tae(tae)
    if folder.exists() and any(not (entry.is_dir() and len(entry.name) == 2) for entry in folder.iterdir()):
        raise ValueError(f"{folder} holds other things than a cache; choose another --out")
    split_rows(open_snapshot(snapshot).kept_clips().to_pylist(), recipe, snapshot)
    check_text_encoders(recipe)
    job = EncodeJob(
        tae=tae_folder, tae_sha256=weights_sha256(tae_folder), text_encoders=recipe.text_encoders, cache=folder
    )
    connect(address)
    return fill(snapshot, recipe, job, progress)


def fill(snapshot: str, recipe: VideoRecipe, job: EncodeJob, progress: ShowCount | None = None) -> Filled:
    """Encode what the cache lacks of latents (held-out clips too) and captions, on all CPUs or GPUs of the cluster."""
    opened = open_snapshot(snapshot)
    train, held_out = split_rows(opened.kept_clips().to_pylist(), recipe, opened.name)
    clips = planned_entries(Plan(train, recipe, recipe.seed)) + held_out_entries(held_out, recipe)
    texts = captions_of(clips, recipe)
    cache = TensorCache(job.cache)
    encoders = CaptionEncoder.of(job.text_encoders, cache)
    items = [_text_item(text) for text in texts if encoders.missing(text)]
    items += [_clip_item(clip) for clip in clips if entry_key(*clip, job.tae_sha256) not in cache]
    failed: dict[str, str] = {}
    made = 0
    with contextlib.closing(_encoded(items, job)) as results:  # the pool ends where `progress` raises, too
        for done, (clip_id, why) in enumerate(results, start=1):
            if clip_id:
                failed[clip_id] = why
            else:
                made += 1
            if progress:
                progress(done, len(items))
    return Filled(total=len(texts) + len(clips), missing=len(items), made=made, failed=failed)


def _clip_item(entry: Entry) -> str:
    clip, bucket = entry
    shape = {"frames": bucket.frames, "height": bucket.height, "width": bucket.width, "fps": bucket.fps}
    return json.dumps({"clip": {name: clip.get(name) for name in COLUMNS}, "bucket": shape})


def _text_item(text: str) -> str:
    return json.dumps({"text": text})


def _encoded(items: Sequence[str], job: EncodeJob) -> Generator[tuple[str, str], None, None]:
    """Stream items through a pool of actors; a result of each, as they finish. Ends when the pool has."""
    if not items:
        return
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    before = ray.available_resources()
    gpus = int(before.get("GPU", 0))
    actors = min(gpus or max(1, int(before.get("CPU", 1))), 1 + len(items) // ENTRIES_PER_ACTOR)
    block = max(1, min(MAX_BLOCK, len(items) // (4 * actors)))
    entries = ray.data.from_items([{"entry": item} for item in items], override_num_blocks=-(-len(items) // block))
    results = entries.map_batches(
        EncodeActor,
        fn_constructor_args=[job],
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        num_gpus=1 if gpus else None,
    )
    try:
        for row in results.iter_rows():
            yield row["clip_id"], row["why"]
    except ray.exceptions.RayError as error:
        words = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise RunFailed(f"encoding ahead of training: {words[-1] if words else repr(error)}") from None
    finally:
        _wait_until_free(before)


def _wait_until_free(before: Mapping[str, float]) -> None:
    """Return when the cluster has the CPUs and GPUs again that it had before the job."""
    import ray

    deadline = time.monotonic() + RELEASE_SECONDS
    while time.monotonic() < deadline:
        now = ray.available_resources()
        if all(now.get(name, 0.0) >= before.get(name, 0.0) for name in ("CPU", "GPU")):
            return
        time.sleep(0.1)
