"""Train a temporal autoencoder from a snapshot, start to end, in this process: plan, loop, latent statistics, evaluation."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from curation.clips import UnreadableVideo, open_snapshot
from models.autoencoders.image_vae import image_vae_weights, load_diffusers_vae
from models.autoencoders.tae import TAE
from models.weights import file_sha256, save_model
from training.agreement import Interruption
from training.checkpoints import Checkpoint, agreed_newest
from training.data.loader import Loader
from training.data.pixels import WindowReader, pixel_shape, read_window, to_signal
from training.data.plan import Plan, Sample
from training.evaluation.reconstruction import ReconstructionValidation, evaluate_rows
from training.evaluation.validation import choose_clips
from training.loop import Training
from training.metrics import MetricsLog
from training.objectives.adversarial import AdversarialObjective
from training.runs import Run, Setup, check_plan, described, open_log, run_steps, split_rows
from training.world import World


def train_autoencoder(run: Run, world: World, interruption: Interruption | None = None) -> bool:
    """Fill run.out; True when finished, False when stopped on request. A run with checkpoints continues."""
    recipe = run.recipe
    rows = open_snapshot(run.snapshot).kept_clips().to_pylist()
    setup = set_up_autoencoder(run, world, agreed_newest(run.storage, world))
    plan, training = setup.plan, setup.training
    log = open_log(run, world, plan, sum(row["split"] != "train" for row in rows), training)
    trained = described(run, recipe.steps, image_vae_sha256=run.image_vae_sha256)
    done = run_steps(run, setup, world, log, trained=trained, interruption=interruption)
    if done and world.is_first:
        model = training.model
        assert isinstance(model, TAE)
        training.average.copy_to(model)
        finish(run, model.eval(), plan, rows, log)
    if log:
        log.write("finished" if done else "stopped", at_step=training.step)
        log.close()
    return done


def set_up_autoencoder(run: Run, world: World, checkpoint: Checkpoint | None) -> Setup:
    """Everything a step needs, at `checkpoint` or at the run's start; writes nothing."""
    recipe = run.recipe
    rows = open_snapshot(run.snapshot).kept_clips().to_pylist()
    train, validation = split_rows(rows, recipe, run.snapshot)
    plan = Plan(train, recipe, recipe.seed)
    check_plan(checkpoint, plan)
    model = first_weights(run, checkpoint)
    critic = None
    if recipe.adversarial:
        critic = AdversarialObjective(recipe.objective, recipe.adversarial, world.device)
    training = Training.start(model.to(world.device), recipe.optimizer, checkpoint, critic)
    loader = Loader(
        plan,
        WindowReader(plan, recipe.pixel_memory_bytes),
        pixel_shape,
        rank=world.rank,
        size=world.size,
        micro_batch=recipe.micro_batch,
        last_step=recipe.steps,
    )
    clips = choose_clips(validation, recipe, recipe.validate_clips)
    return Setup(
        plan=plan,
        training=training,
        objective=critic or recipe.objective,
        loader=loader,
        validate=ReconstructionValidation(clips) if clips else None,
        work=count_frames,
    )


def first_weights(run: Run, checkpoint: Checkpoint | None) -> TAE:
    """Drawn from the recipe's seed, or an image autoencoder's; a checkpoint's replace them in any case."""
    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    if checkpoint is None and recipe.image_vae is not None:
        if file_sha256(image_vae_weights(recipe.image_vae)) != run.image_vae_sha256:
            raise ValueError(f"{recipe.image_vae} has other weights than when this run began; choose another --out")
        return TAE.from_image_vae(load_diffusers_vae(recipe.image_vae))
    model = TAE(recipe.model)
    narrow_posterior(model, recipe.initial_logvar)
    return model


def count_frames(samples: Sequence[Sample]) -> dict[str, float]:
    """Frames of a global batch."""
    return {"frames": float(sum(sample.bucket.frames for sample in samples))}


def finish(run: Run, model: TAE, plan: Plan, rows: list[dict[str, Any]], log: MetricsLog | None) -> None:
    """Measure the latents' scale, save OUT/final with the averaged weights, evaluate every clip that has a bucket."""
    model.set_latent_statistics(*latent_statistics(model, plan))
    trained = described(run, run.recipe.steps, image_vae_sha256=run.image_vae_sha256)
    final = save_model(run.out / "final", model, trained=trained)
    report = evaluate_rows(model, rows, run.recipe, run.snapshot, pictures=run.out / "reconstructions")
    report["checkpoint"] = str(final)
    (run.out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
    if log:
        summary = {
            f"{split}_{name}": value for split, values in report["summary"].items() for name, value in values.items()
        }
        log.write("evaluation", step=run.recipe.steps, **summary)


@torch.no_grad()
def narrow_posterior(model: TAE, logvar: float) -> None:
    """Start with posteriors of this log variance: at 0, its default, noise as wide as the signal drowns the first steps."""
    last = model.quant_conv or model.encoder.conv_out
    assert isinstance(last.bias, nn.Parameter)
    last.bias[model.config.latent_channels :] = logvar


@torch.no_grad()
def latent_statistics(model: TAE, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-channel mean and standard deviation of the raw latents of every planned row's window, [C] each, float64 sums."""
    device = next(model.parameters()).device
    channels = model.config.latent_channels
    count, total, squares = 0, torch.zeros(channels).double(), torch.zeros(channels).double()
    for index, bucket in plan.bucket_of.items():
        try:
            signal = to_signal(read_window(plan.rows[index], bucket))
        except UnreadableVideo:
            continue  # counted by the loop already
        z = model.encode_posterior(torch.from_numpy(signal)[None].to(device)).mean.double()
        count += z[:, 0].numel()
        total = total + z.sum(dim=(0, 2, 3, 4)).cpu()
        squares = squares + z.square().sum(dim=(0, 2, 3, 4)).cpu()
    if not count:
        raise ValueError("no clip could be read to measure the latents on")
    mean = total / count
    return mean, (squares / count - mean**2).clamp_min(1e-12).sqrt()
