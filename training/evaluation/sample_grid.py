"""What a few captions become while a transformer trains: the same captions and seeds every N steps, as still pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from training.data.buckets import Bucket, sampled_fps
from training.evaluation.reconstruction import enlarge
from training.generate import Generator

FOLDER = "grid"  # in the run's folder: grid/step-XXXXXXXX/CLIP_ID.png
EULER_STEPS = 20  # enough to see what is learned; a finished sample takes 50


class SampleGrid:
    """Called after every step; every `every` of them it draws from the weights at hand, without guidance.

    Workers that share out a model all draw, since it computes on all of them or on none; one keeps the pictures.
    """

    def __init__(
        self,
        generator: Generator,
        clips: Sequence[tuple[Mapping[str, Any], Bucket]],
        out: Path,
        every: int,
        keep: bool = True,
    ):
        self.generator, self.clips, self.out, self.every, self.keep = generator, clips, out, every, keep

    def __call__(self, step: int) -> None:
        if step % self.every:
            return
        model = self.generator.model
        was_training = model.training
        model.eval()
        folder = self.out / FOLDER / f"step-{step:08d}"
        if self.keep:
            folder.mkdir(parents=True, exist_ok=True)
        for seed, (row, bucket) in enumerate(self.clips):
            fps = sampled_fps(row, bucket)
            made = self.generator.sample(row["caption"] or "", bucket, fps, steps=EULER_STEPS, guidance=1.0, seed=seed)
            if self.keep:
                Image.fromarray(enlarge(made)[len(made) // 2]).save(folder / f"{row['clip_id']}.png")
        model.train(was_training)


def read_grid(out: Path) -> list[tuple[int, list[Path]]]:
    """Steps and their pictures, oldest first, the pictures of one caption always at one place."""
    found = []
    for folder in sorted((out / FOLDER).glob("step-*")):
        found.append((int(folder.name.removeprefix("step-")), sorted(folder.glob("*.png"))))
    return found
