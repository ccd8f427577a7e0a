"""A prompt becomes a video: Euler steps on the chosen schedule, guidance, tiled decoding. What CLI, API and evaluation call."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from curation.clips import write_video
from models.autoencoders.tae import TAE
from models.sampler import sample, schedule
from models.text.prompt import tagged
from models.tiling import decode_tiled
from models.video.transformer import VideoTransformer
from models.weights import load_model, read_config, weights_sha256
from training.data.buckets import Bucket
from training.data.keys import Key
from training.data.pixels import to_frames
from training.data.text import CaptionEncoder
from training.encode import latent_shape
from training.recipes import VideoRecipe
from training.runs import find_model, trained_recipe


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A written video and the settings that make it again."""

    path: Path
    prompt: str
    frames: int
    height: int
    width: int
    fps: float
    steps: int
    guidance: float
    schedule: str
    seed: int


def generate(
    checkpoint: str | Path,
    prompt: str,
    out: str | Path,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    seed: int = 0,
    schedule: str = "linear-quadratic",
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    fps: float | None = None,
    tae: str | Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Generated:
    """Write an MP4 for `prompt`. Sizes left out are the checkpoint's first bucket's; others must be ones it was trained on.

    The same checkpoint, settings and seed give the same frames on the same device. Wrong settings raise ValueError
    before anything is computed or written.
    """
    path = Path(out)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"--out {out} should end in .mp4")
    generator = Generator.load(checkpoint, tae)
    bucket, rate = generator.choose(frames, height, width, fps)
    pictures = generator.sample(
        prompt, bucket, rate, steps=steps, guidance=guidance, seed=seed, schedule_name=schedule, on_step=on_step
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, pictures, rate or 1.0)  # a picture is one second of video
    return Generated(
        path=path,
        prompt=prompt,
        frames=bucket.frames,
        height=bucket.height,
        width=bucket.width,
        fps=rate,
        steps=steps,
        guidance=guidance,
        schedule=schedule,
        seed=seed,
    )


class Generator:
    """A transformer with the autoencoder and text encoders it was trained with, ready to sample from."""

    def __init__(
        self,
        folder: Path,
        model: VideoTransformer,
        tae: TAE,
        tae_sha256: str,
        encode: CaptionEncoder,
        recipe: VideoRecipe,
    ):
        self.folder, self.model, self.tae, self.tae_sha256 = folder, model, tae, tae_sha256
        self.encode, self.recipe = encode, recipe

    @classmethod
    def load(cls, checkpoint: str | Path, tae: str | Path | None = None, device: str | None = None) -> "Generator":
        """From a run, a checkpoint or a final folder. Refuses another autoencoder or text encoder than it was trained with."""
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        folder = find_model(checkpoint, "video")
        trained = read_config(folder)["trained"]
        tae_folder = find_tae(folder, trained["tae_sha256"], tae)
        recipe = trained_recipe(folder)
        assert isinstance(recipe, VideoRecipe)
        encode = CaptionEncoder.of(recipe.text_encoders, device=device)
        for now, then in zip(encode.identities(), trained["text_encoders"], strict=True):
            if now["sha256"] != then["sha256"]:
                raise ValueError(
                    f"{folder} was trained with the text encoder {then['name']} {then['sha256'][:12]}; "
                    f"the one installed here is {str(now['sha256'])[:12]}. Install the package of that version"
                )
        model, autoencoder = load_model(folder, device), load_model(tae_folder, device)
        assert isinstance(model, VideoTransformer) and isinstance(autoencoder, TAE)
        return cls(folder, model, autoencoder, trained["tae_sha256"], encode, recipe)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.model.parameters()).device

    def buckets(self) -> list[Bucket]:
        """The shapes of video this checkpoint was trained on, the default first; a text-to-image stage's are pictures."""
        trained_on_videos = self.recipe.batch.videos > 0
        return [bucket for bucket in self.recipe.buckets.buckets() if (bucket.frames > 1) == trained_on_videos]

    def choose(
        self, frames: int | None, height: int | None, width: int | None, fps: float | None
    ) -> tuple[Bucket, float]:
        """The first trained bucket with these sizes, and the frame rate; ValueError lists what there is."""
        wanted = {"frames": frames, "height": height, "width": width}
        for bucket in self.buckets():
            if any(value is not None and getattr(bucket, name) != value for name, value in wanted.items()):
                continue
            low, high = self._rates(bucket)
            if fps is None or low - 1e-6 <= fps <= high + 1e-6:
                return bucket, fps if fps is not None else high
        offered = "; ".join(
            f"{b.frames} frames of {b.width}x{b.height} at {_range(*self._rates(b))} fps" for b in self.buckets()
        )
        asked = ", ".join(f"{name} {value}" for name, value in (wanted | {"fps": fps}).items() if value is not None)
        raise ValueError(f"{self.folder} was not trained on {asked}; it was on {offered}")

    @torch.no_grad()
    def sample(
        self,
        prompt: str,
        bucket: Bucket,
        fps: float,
        *,
        steps: int = 50,
        guidance: float = 7.5,
        seed: int = 0,
        schedule_name: str = "linear-quadratic",
        on_step: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Frames uint8 [T, H, W, 3] for one prompt."""
        times = schedule(schedule_name, steps)
        noise = Key(seed=seed, purpose="noise", step=0).normal(latent_shape(bucket, self.model.config.latent_channels))
        text = [tokens.to(self.device) for tokens in self.encode([tagged(prompt, fps if self.recipe.fps_tag else 0.0)])]
        empty = [tokens.to(self.device) for tokens in self.encode([""])]
        latents = sample(
            self.model,
            torch.from_numpy(noise)[None].to(self.device),
            times,
            text,
            empty=empty,
            guidance=guidance,
            on_step=None if on_step is None else lambda done, _: on_step(done + 1, steps),
        )
        return to_frames(decode_tiled(self.tae, latents, bucket.frames)[0].float().cpu().numpy())

    def _rates(self, bucket: Bucket) -> tuple[float, float]:
        """Slowest and fastest frame rate that clips of this bucket had in training; 0 for a picture."""
        if bucket.frames == 1:
            return 0.0, 0.0
        if bucket.fps:
            return bucket.fps, bucket.fps
        rules = [rule for rule in self.recipe.buckets.durations if rule.frames == bucket.frames and rule.fps is None]
        slowest = min(rule.frames / (rule.max_seconds or rule.min_seconds) for rule in rules)
        return slowest, max(rule.frames / rule.min_seconds for rule in rules)


def find_tae(folder: Path, sha256: str, given: str | Path | None) -> Path:
    """The autoencoder a video checkpoint names: the given one, or the copy its run keeps."""
    if given is not None:
        found = find_model(given, "tae")
        if weights_sha256(found) != sha256:
            raise ValueError(
                f"{folder} was trained on latents of the autoencoder {sha256[:12]}; {given} is {weights_sha256(found)[:12]}"
            )
        return found
    for place in (folder / "tae", folder.parent / "tae", folder.parent.parent / "tae"):
        if (place / "config.json").is_file() and weights_sha256(place) == sha256:
            return place
    raise ValueError(
        f"the autoencoder {sha256[:12]} that {folder} was trained with is not beside it; pass its folder with --tae"
    )


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:.3g} to {high:.3g}"
