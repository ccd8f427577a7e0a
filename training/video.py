"""Train a video transformer from a snapshot, start to end, in this process: encode once, loop over latents, evaluate."""

import json
import shutil
from typing import Any

import numpy as np
import torch

from curation.clips import UnreadableVideo, open_snapshot
from models.autoencoders.tae import TAE
from models.video.transformer import VideoTransformer
from models.weights import load_model, save_model, weights_sha256
from training.checkpoints import newest
from training.data.buckets import Bucket
from training.data.cache import TensorCache
from training.data.loader import Loader
from training.data.plan import Plan, Sample
from training.data.text import CaptionEncoder
from training.encode import LatentStore, fill_cache, latent_shape
from training.evaluation.flow_loss import compare_samples, evaluate_latents
from training.generate import Generator
from training.loop import Training, run_loop
from training.metrics import MetricsLog
from training.objectives.flow import FlowObjective
from training.recipes import recipe_hash
from training.runs import Run, check_plan, described, loop_config, open_log, split_rows
from training.world import World

NUM_SAMPLES = 4  # training captions that a finished run generates from, to compare with the clips


def train_transformer(run: Run, world: World) -> bool:
    """Fill run.out; True when finished, False when stopped on request. A run with checkpoints continues."""
    recipe = run.recipe
    rows = open_snapshot(run.snapshot).kept_clips().to_pylist()
    train, validation = split_rows(rows, recipe, run.snapshot)
    plan = Plan(train, recipe, recipe.seed)
    cache = TensorCache(run.out / "cache")
    store = open_store(run, world, cache)
    encode = CaptionEncoder.of(recipe.text_encoders, cache, device=str(world.device))
    torch.manual_seed(recipe.seed)
    model = VideoTransformer(recipe.model).to(world.device)
    checkpoint = newest(run.out)
    check_plan(checkpoint, plan)
    training = Training.start(model, recipe.optimizer, checkpoint)
    log = open_log(run, world, plan, len(validation), training)

    failed = encode_rows(store, plan, world, log)
    latents = Latents(store, plan, failed)
    loader = Loader(
        plan,
        latents,
        latents.shape,
        rank=world.rank,
        size=world.size,
        micro_batch=recipe.micro_batch,
        last_step=recipe.steps,
    )
    trained = described(run, recipe.steps, tae_sha256=run.tae_sha256, text_encoders=encode.identities())
    done = run_loop(
        training,
        FlowObjective(encode=encode, text_dropout=recipe.text_dropout),
        loader,
        loop_config(recipe),
        out=run.out,
        world=world,
        num_rows=len(plan.bucket_of),
        state={"plan_hash": plan.hash(), "recipe_hash": recipe_hash(recipe), "snapshot": run.snapshot},
        extra={"trained": trained},
        log=log,
    )
    loader.close()
    if done and world.is_first:
        training.average.copy_to(model)
        final = save_model(run.out / "final", model, trained=trained)
        assert run.tae_sha256 is not None
        finish(run, Generator(final, model.eval(), store.tae, run.tae_sha256, encode, recipe), rows, store, log)
    if log:
        log.write("finished" if done else "stopped", at_step=training.step)
        log.close()
    world.wait()
    return done


def open_store(run: Run, world: World, cache: TensorCache) -> LatentStore:
    """The run's autoencoder, copied into its folder so that checkpoints stay whole when folders move."""
    assert run.tae is not None and run.tae_sha256 is not None
    copy = run.out / "tae"
    if world.is_first and not copy.exists():
        shutil.copytree(run.tae, copy.with_name("tae.partial"), dirs_exist_ok=True)
        copy.with_name("tae.partial").rename(copy)
    world.wait()
    if weights_sha256(copy) != run.tae_sha256:
        raise ValueError(
            f"{copy} is not the autoencoder {run.tae_sha256[:12]} this run began with; choose another --out"
        )
    tae = load_model(copy, device=world.device)
    assert isinstance(tae, TAE)
    return LatentStore(tae=tae, tae_sha256=run.tae_sha256, cache=cache)


def encode_rows(store: LatentStore, plan: Plan, world: World, log: MetricsLog | None) -> dict[str, str]:
    """Fill the cache with what the plan will ask for, each worker its share; returns the rows that do not decode."""
    wanted = [(plan.rows[row], bucket) for row, bucket in sorted(plan.bucket_of.items())]
    if plan.batch.images:
        wanted += [(row, bucket.image()) for row, bucket in wanted]
    mine = wanted[world.rank :: world.size]
    failed = fill_cache(store, mine, lambda done, total: log.write("encode", done=done, total=total) if log else None)
    return {clip_id: why for part in world.gather(failed) for clip_id, why in part.items()}


class Latents:
    """Latents of a sample, read from the cache once and kept in memory."""

    def __init__(self, store: LatentStore, plan: Plan, failed: dict[str, str]):
        self.store, self.plan, self.failed = store, plan, failed
        self.known: dict[tuple[int, Bucket], np.ndarray] = {}

    def __call__(self, sample: Sample) -> np.ndarray:
        if sample.clip_id in self.failed:
            raise UnreadableVideo("undecodable", self.failed[sample.clip_id])
        place = (sample.row, sample.bucket)
        if place not in self.known:
            self.known[place] = self.store.get(self.plan.rows[sample.row], sample.bucket).numpy()
        return self.known[place]

    def shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        """[C, T, H, W] of a bucket's latents."""
        return latent_shape(bucket, self.store.tae.config.latent_channels)


def finish(
    run: Run, generator: Generator, rows: list[dict[str, Any]], store: LatentStore, log: MetricsLog | None
) -> None:
    """Evaluate the averaged weights on every clip and compare a few samples with the clips they were trained on."""
    report = {"checkpoint": str(generator.folder), "snapshot": run.snapshot} | evaluate_latents(generator, rows, store)
    report["samples"] = compare_samples(generator, rows, store, NUM_SAMPLES, run.out / "samples")
    (run.out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
    if log:
        summary = {
            f"{split}_{name}": value for split, values in report["summary"].items() for name, value in values.items()
        }
        log.write("evaluation", step=run.recipe.steps, **summary)
