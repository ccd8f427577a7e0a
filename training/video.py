"""Train a video transformer from a snapshot, start to end, in this process: encode once, loop over latents, evaluate."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from curation.clips import UnreadableVideo, open_snapshot
from models.accounting import flops
from models.autoencoders.tae import TAE
from models.video.transformer import TransformerConfig, VideoTransformer
from models.weights import load_model, save_model, weights_sha256
from training.agreement import Interruption
from training.checkpoints import Checkpoint, agreed_newest
from training.data.buckets import Bucket
from training.data.cache import TensorCache
from training.data.loader import Loader
from training.data.plan import Plan, Sample
from training.data.recent import RecentlyUsed
from training.data.text import CaptionEncoder
from training.encode import LatentStore, fill_cache, latent_shape, planned_entries
from training.evaluation.flow_loss import FlowValidation, compare_samples, evaluate_latents
from training.evaluation.sample_grid import SampleGrid
from training.evaluation.validation import choose_clips
from training.generate import Generator
from training.loop import LoopConfig, TooManyUnreadable, Training
from training.metrics import MetricsLog
from training.objectives.flow import FlowObjective
from training.parallel.apply import parallelize, whole_tensors
from training.runs import Run, Setup, check_plan, described, open_log, run_steps, split_rows
from training.stages import load_start
from training.throughput import peak_flops
from training.world import World

# Latents kept in memory by a worker: 131,000 of the demo's, 57 of 256 frames at 768 px, which are 19 MB each and are read
# back from the cache in tens of milliseconds, ahead of the step that wants them.
LATENT_MEMORY_BYTES = 1 << 30
NUM_SAMPLES = 4  # training captions that a finished run generates from, to compare with the clips


def train_transformer(run: Run, world: World, interruption: Interruption | None = None) -> bool:
    """Fill run.out; True when finished, False when stopped on request. A run with checkpoints continues."""
    recipe = run.recipe
    setup = set_up_transformer(run, world, agreed_newest(run.storage, world))
    plan, training, encode, store = setup.plan, setup.training, setup.encode, setup.store
    log = open_log(run, world, plan, setup.num_validation, training)
    setup.latents.failed.update(encode_rows(store, plan, world, log))
    trained = described(run, recipe.steps, tae_sha256=run.tae_sha256, text_encoders=encode.identities())
    # Of a sharded model every worker takes part; all draw the same pictures, the first keeps them.
    grid = sample_grid(run, setup, world) if recipe.sample_every else None
    done = run_steps(run, setup, world, log, trained=trained, interruption=interruption, after_step=grid)
    weights = whole_tensors(training.average.values) if done else {}
    if done and world.is_first:
        assert run.tae_sha256 is not None
        model = VideoTransformer(recipe.model)
        model.load_state_dict(weights)
        model = model.to(world.device)
        final = save_model(run.out / "final", model, trained=trained)
        rows = open_snapshot(run.snapshot).kept_clips().to_pylist()
        finish(run, Generator(final, model.eval(), store.tae, run.tae_sha256, encode, recipe), rows, store, log)
    if log:
        log.write("finished" if done else "stopped", at_step=training.step)
        log.close()
    return done


@dataclass(frozen=True, kw_only=True)
class TransformerSetup(Setup):
    """A setup with what encodes its clips and captions."""

    store: LatentStore
    encode: CaptionEncoder
    latents: "Latents"
    num_validation: int


def set_up_transformer(run: Run, world: World, checkpoint: Checkpoint | None) -> TransformerSetup:
    """Everything a step needs, at `checkpoint` or at the run's start; writes nothing but caches."""
    recipe = run.recipe
    rows = open_snapshot(run.snapshot).kept_clips().to_pylist()
    train, validation = split_rows(rows, recipe, run.snapshot)
    plan = Plan(train, recipe, recipe.seed)
    check_plan(checkpoint, plan)
    cache = TensorCache(run.cache_folder)
    store = open_store(run, world, cache)
    encode = CaptionEncoder.of(recipe.text_encoders, cache, device=str(world.device))
    model = first_weights(run, checkpoint)
    if not run.parallel.shards:  # otherwise each worker's shards move by themselves, block by block
        model = model.to(world.device)
    parallelize(model, run.parallel, world, bf16=recipe.autocast)
    training = Training.start(model, recipe.optimizer, checkpoint)
    latents = Latents(store, plan, {})
    loader = Loader(
        plan,
        latents,
        latents.shape,
        rank=world.share,
        size=world.shares,
        micro_batch=recipe.micro_batch,
        last_step=recipe.steps,
    )
    clips = choose_clips(validation, recipe, recipe.validate_clips)
    return TransformerSetup(
        plan=plan,
        training=training,
        objective=FlowObjective(encode=encode, text_dropout=recipe.text_dropout),
        loader=loader,
        validate=FlowValidation(clips=clips, store=store, encode=encode, recipe=recipe) if clips else None,
        work=TransformerWork(recipe.model, encode, counts_flops=peak_flops(world.device) is not None),
        store=store,
        encode=encode,
        latents=latents,
        num_validation=len(validation),
    )


def sample_grid(run: Run, setup: TransformerSetup, world: World) -> SampleGrid | None:
    """Pictures of the first few training captions as the run goes; None on workers that are not needed for them."""
    if not (world.is_first or run.parallel.shards):
        return None
    model, recipe = setup.training.model, run.recipe
    assert isinstance(model, VideoTransformer) and run.tae_sha256 is not None
    generator = Generator(run.out, model, setup.store.tae, run.tae_sha256, setup.encode, recipe)
    shapes = ((setup.plan.rows[index], recipe.assign(setup.plan.rows[index])) for index in sorted(setup.plan.bucket_of))
    return SampleGrid(generator, list(islice(shapes, NUM_SAMPLES)), run.out, recipe.sample_every, keep=world.is_first)


def first_weights(run: Run, checkpoint: Checkpoint | None) -> VideoTransformer:
    """Drawn from the recipe's seed, or the weights of the stage before; a checkpoint's replace them in any case."""
    if checkpoint is None and run.start is not None:
        if weights_sha256(run.start) != run.start_sha256:
            raise ValueError(f"{run.start} has other weights than when this run began; choose another --out")
        return load_start(run.start, run.recipe)
    torch.manual_seed(run.recipe.seed)
    return VideoTransformer(run.recipe.model)


@dataclass(frozen=True)
class TransformerWork:
    """Tokens of a global batch and, where somebody asks, its model FLOPs: a forward pass and twice that backward."""

    model: TransformerConfig
    encode: CaptionEncoder
    counts_flops: bool

    def __call__(self, samples: Sequence[Sample]) -> dict[str, float]:
        work = {"tokens": float(sum(sample.bucket.tokens for sample in samples))}
        if self.counts_flops:
            work["flops"] = float(sum(self._flops(samples)))
        return work

    def _flops(self, samples: Sequence[Sample]) -> Iterator[int]:
        """Text lengths of the samples whose captions this worker has read; for others', those of the one before."""
        lengths: tuple[int, ...] = (0,) * len(self.model.text_widths)
        for sample in samples:
            lengths = self.encode.lengths_at_hand(sample.caption) or lengths
            yield 3 * flops(self.model, sample.bucket.tokens, lengths)


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
    """Fill the cache with what the plan will ask for and it lacks, each worker its share; returns clips not to be read.

    Raises TooManyUnreadable with the files and the reasons before a step is done on what is left.
    """
    mine = planned_entries(plan)[world.rank :: world.size]
    failed = fill_cache(store, mine, lambda done, total: log.write("encode", done=done, total=total) if log else None)
    everyone = {clip_id: why for part in world.gather(failed) for clip_id, why in part.items()}
    limit = max(1, int(LoopConfig.max_unreadable_share * len(plan.bucket_of)))
    if len(everyone) > limit:
        raise TooManyUnreadable(
            f"{len(everyone)} of {len(plan.bucket_of)} rows cannot be read (at most {limit} may), e.g. "
            f"{'; '.join(sorted(set(everyone.values()))[:3])}"
        )
    return everyone


class Latents:
    """Latents of a sample, read from the cache; those read last stay in memory."""

    def __init__(self, store: LatentStore, plan: Plan, failed: dict[str, str], memory_bytes: int = LATENT_MEMORY_BYTES):
        self.store, self.plan, self.failed = store, plan, failed
        self.known: RecentlyUsed[np.ndarray] = RecentlyUsed(memory_bytes, lambda latent: latent.nbytes)

    def __call__(self, sample: Sample) -> np.ndarray:
        if sample.clip_id in self.failed:
            raise UnreadableVideo("undecodable", self.failed[sample.clip_id])
        place = (sample.row, sample.bucket)
        latent = self.known.get(place)
        if latent is None:
            latent = self.store.get(self.plan.rows[sample.row], sample.bucket).numpy()
            self.known.put(place, latent)
        return latent

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
