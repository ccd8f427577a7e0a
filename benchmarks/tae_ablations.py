"""What two choices of the autoencoder buy, on the sample videos: the outlier penalty, and the start from an image autoencoder.

    python -m benchmarks.tae_ablations --steps 240

Two windows of 16 frames at 8 per second, 64 x 64 px, of each video: the first is trained on, the last is held out (they share one
frame of the bee's 4 seconds). The demo's model
(0.77 M parameters), batches of three videos and one image, cosine from 1e-3. Every arm sees the same batches and the same noise.

* **Start.** An image autoencoder is trained on single frames and inflated with centre taps. Against it: the same network from
  nothing for as many video steps, and for as many operations (the image training's spent on video steps instead).
* **Outlier penalty.** Outliers are planted in the trained model: the unit before the encoder's last convolution that stands out most
  is wired to every latent channel, so strongly that its highest place lies 20 standard deviations out. The decoder alone is
  trained on these latents until it reads them, so that reconstruction no longer asks for another encoder; then the whole
  is fine-tuned with the penalty and without.
"""

import argparse
import copy
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from curation.clips.frames import probe, span_pictures
from models.autoencoders.image_vae import ImageVAE
from models.autoencoders.linear import LinearCodec, psnr
from models.autoencoders.outlier import outlier_penalty
from models.autoencoders.tae import SIZES, TAE, ImageVAEConfig
from training.autoencoder import narrow_posterior
from training.data.buckets import Bucket
from training.data.groups import Group
from training.data.pixels import to_signal
from training.data.plan import Sample
from training.objectives.autoencoder import AutoencoderObjective

SAMPLES = Path(__file__).parents[1] / "samples"
VIDEOS = (
    "bee_720p.mp4",
    "beetle_bw_360p.mp4",
    "bottles_static_360p.mp4",
    "flower_timelapse_540p_vp8.webm",
    "roof_handheld_360p.mp4",
    "toy_elf_480p.mp4",
)
BUCKET = Bucket(frames=16, fps=8.0, height=64, width=64)
CONFIG = replace(SIZES["demo"], channels=24)
IMAGE_CONFIG = ImageVAEConfig(channels=24, multipliers=(1, 1, 2, 2), blocks=1, groups=8, patch=4)
RATE, INITIAL_LOGVAR, SIGMAS = 1e-3, -6.0, 20.0


@dataclass(frozen=True)
class Result:
    """One row of a table; PSNR in dB."""

    arm: str
    steps: int
    teraflops: float  # of training, forward passes times three
    trained: float  # median over the windows trained on
    held_out: float
    worst: float  # of the held-out windows
    peak: float = 0.0  # largest distance of a latent position from its frame's mean, in |std|; the penalty starts at 3
    share: float = 0.0  # of the positions, beyond 3


def windows() -> tuple[Tensor, Tensor]:
    """The first and the last window of each video, [N, 3, 16, 64, 64] each, in [-1, 1]."""
    first, last = [], []
    for name in VIDEOS:
        facts = probe(str(SAMPLES / name))
        every = max(1, round(facts.fps / BUCKET.fps))
        forever = 1 << 62
        pictures = span_pictures(str(SAMPLES / name), facts.stream_index, -forever, forever, 64, 64)
        frames = np.stack([picture for number, picture in enumerate(pictures) if number % every == 0])
        first.append(torch.from_numpy(to_signal(frames[: BUCKET.frames])))
        last.append(torch.from_numpy(to_signal(frames[-BUCKET.frames :])))
    return torch.stack(first), torch.stack(last)


def groups(step: int, clips: Tensor) -> list[Group]:
    """Batch `step`: three videos and one image, a function of the step alone."""
    generator = np.random.default_rng(step)
    rows = generator.permutation(len(clips))[:4]
    frame = int(generator.integers(BUCKET.frames))
    samples = [
        Sample(slot=i, row=int(row), clip_id=VIDEOS[row], bucket=BUCKET, caption="", seed=0, step=step)
        for i, row in enumerate(rows)
    ]
    image = clips[rows[3:], :, frame : frame + 1]
    return [
        Group(samples=tuple(samples[:3]), data=clips[rows[:3]], weights=torch.ones(3)),
        Group(samples=tuple(samples[3:]), data=image, weights=torch.ones(1)),
    ]


def train_video(tae: TAE, objective: AutoencoderObjective, clips: Tensor, steps: int, first: int = 0) -> TAE:
    """`steps` updates on batches `first`, `first` + 1, ...; returns the model."""
    optimizer, schedule = _optimizer(tae, steps)
    for step in range(first, first + steps):
        optimizer.zero_grad()
        for group in groups(step, clips):
            losses, _ = objective(tae, group)
            (losses.sum() / 4).backward()
        nn.utils.clip_grad_norm_(tae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return tae


def train_images(clips: Tensor, steps: int, batch: int = 16) -> ImageVAE:
    """The image autoencoder on single frames of the training windows: L1 and a trace of KL."""
    torch.manual_seed(0)
    vae = ImageVAE(IMAGE_CONFIG)
    with torch.no_grad():
        vae.encoder.conv_out.bias[CONFIG.latent_channels :] = INITIAL_LOGVAR
    optimizer, schedule = _optimizer(vae, steps)
    frames = clips.transpose(1, 2).flatten(0, 1)  # [N T', 3, H', W']
    noise = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = np.random.default_rng(step).permutation(len(frames))[:batch]
        posterior = vae.encode_posterior(frames[rows])
        z = posterior.sample(torch.randn(posterior.mean.shape, generator=noise))
        loss = (vae.decode_raw(z) - frames[rows]).abs().mean() + 1e-8 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return vae


def _optimizer(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.05 * RATE)


@torch.no_grad()
def plant(tae: TAE, clips: Tensor) -> TAE:
    """A copy whose latents have outliers: one hidden unit shouts through every latent channel."""
    tae, seen = copy.deepcopy(tae), []
    handle = tae.encoder.conv_out.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    std = tae.encode_posterior(clips).mean.std()
    handle.remove()
    hidden = seen[0].flatten(2).transpose(0, 1).flatten(1)  # [channels, positions]
    reach = (hidden.amax(1) - hidden.mean(1)) / hidden.std(1).clamp(min=1e-6)
    unit = int(reach.argmax())
    gain = SIGMAS * std / (hidden[unit].max() - hidden[unit].mean())
    tae.encoder.conv_out.weight[: CONFIG.latent_channels, unit, 1, 1] += gain
    return tae


@torch.no_grad()
def measure(arm: str, tae: TAE, trained: Tensor, held_out: Tensor, steps: int, teraflops: float) -> Result:
    """PSNR of the posterior mean's reconstruction and the reach of its latents."""
    known, new = ([_psnr(tae, clip) for clip in clips] for clips in (trained, held_out))
    z = tae.encode_posterior(trained).mean.movedim(1, 2).flatten(0, 1).flatten(2)  # [frames, C, positions]
    distance = (z - z.mean(-1, keepdim=True)).norm(dim=1) / z.std(-1, correction=0).norm(dim=1, keepdim=True)
    middle = statistics.median
    share = float((distance > 3).float().mean())
    return Result(arm, steps, teraflops, middle(known), middle(new), min(new), float(distance.max()), share)


def _psnr(tae: TAE, clip: Tensor) -> float:
    return float(psnr(clip[None], tae.decode(tae.encode(clip[None]), clip.shape[1])))


def flops_per_step() -> tuple[float, float]:
    """Teraflops of a video step and of an image step, three forward passes each."""
    with torch.device("meta"):
        tae, vae = TAE(CONFIG), ImageVAE(IMAGE_CONFIG)
        video, image, frames = torch.empty(3, 3, 16, 64, 64), torch.empty(1, 3, 1, 64, 64), torch.empty(16, 3, 64, 64)
    with FlopCounterMode(display=False) as counter:
        for x in (video, image):
            tae.decode(tae.encode(x))
    of_video = 3e-12 * counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        vae.decode_raw(vae.encode_posterior(frames).mean)
    return of_video, 3e-12 * counter.get_total_flops()


def compare_starts(trained: Tensor, held_out: Tensor, steps: int) -> tuple[list[Result], TAE]:
    """From nothing against inflated from an image autoencoder; and the inflated model, for the other table."""
    video, image = flops_per_step()
    image_steps = 2 * steps
    longer = steps + round(image_steps * image / video)
    objective = AutoencoderObjective()
    vae = train_images(trained, image_steps)
    inflated = TAE.from_image_vae(vae)
    results = [measure(f"image, {image_steps} image steps", inflated, trained, held_out, 0, image_steps * image)]
    inflated = train_video(inflated, objective, trained, steps)
    results.append(
        measure("image, then video", inflated, trained, held_out, steps, image_steps * image + steps * video)
    )
    for name, count in (("scratch, as many video steps", steps), ("scratch, as many operations", longer)):
        torch.manual_seed(0)
        tae = TAE(CONFIG)
        narrow_posterior(tae, INITIAL_LOGVAR)
        train_video(tae, objective, trained, count)
        results.append(measure(name, tae, trained, held_out, count, count * video))
    return results, inflated


def compare_penalties(tae: TAE, trained: Tensor, held_out: Tensor, steps: int) -> list[Result]:
    """Planted outliers, fine-tuned with the penalty and without."""
    video, _ = flops_per_step()
    planted = plant(tae, trained)
    assert outlier_penalty(planted.encode_posterior(trained).mean) > 0, "nothing was planted"
    results = [
        measure("before planting", tae, trained, held_out, 0, 0.0),
        measure("planted", planted, trained, held_out, 0, 0.0),
    ]
    planted.encoder.requires_grad_(False)
    train_video(planted, AutoencoderObjective(outlier_weight=0.0), trained, steps, first=100_000)
    planted.encoder.requires_grad_(True)
    cost = 0.76 * steps * video  # the frozen encoder, 36 % of a forward pass, runs no backward one
    results.append(measure("planted, decoder adapted", planted, trained, held_out, steps, cost))
    for name, weight in (("penalty off", 0.0), ("penalty on, 1e5", 1e5)):
        tuned = copy.deepcopy(planted)
        train_video(tuned, AutoencoderObjective(outlier_weight=weight), trained, steps, first=200_000)
        results.append(measure(name, tuned, trained, held_out, steps, steps * video))
    return results


def table(results: Iterable[Result], latents: bool = False) -> str:
    """Markdown."""
    lines = ["| arm | video steps | TFLOP | PSNR trained | PSNR held out | worst |" + (" peak | beyond 3 |" * latents)]
    lines.append("|---|---|---|---|---|---|" + "---|---|" * latents)
    for r in results:
        line = f"| {r.arm} | {r.steps} | {r.teraflops:.1f} | {r.trained:.2f} | {r.held_out:.2f} | {r.worst:.2f} |"
        lines.append(line + (f" {r.peak:.2f} | {100 * r.share:.2f} % |" if latents else ""))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=240, help="video steps of each arm; 240 take about five minutes of one core"
    )
    parser.add_argument("--save", type=Path, help="folder for the inflated, trained model")
    arguments = parser.parse_args()
    trained, held_out = windows()
    codec = LinearCodec.fit(trained)
    linear = [statistics.median(psnr(x, codec.decode(codec.encode(x), 16)).tolist()) for x in (trained, held_out)]
    print(f"Linear 8x8x8 -> 16 fitted on the training windows: {linear[0]:.2f} dB trained, {linear[1]:.2f} held out\n")
    starts, tae = compare_starts(trained, held_out, arguments.steps)
    print(table(starts), end="\n\n", flush=True)
    print(table(compare_penalties(tae, trained, held_out, arguments.steps // 2), latents=True))
    if arguments.save:
        from models.weights import save_model

        save_model(arguments.save, tae)


if __name__ == "__main__":
    main()
