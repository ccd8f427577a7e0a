"""Named training runs. The demo's train on two CPU cores; the paper's carry its numbers, each with its section.

A YAML or TOML file is a recipe too: `base: tae_demo` and the fields that differ. Unknown fields are errors.
"""

import difflib
import hashlib
import json
import os
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from models.autoencoders.image_vae import read_image_vae_config
from models.autoencoders.tae import SIZES as TAE_SIZES
from models.autoencoders.tae import TAEConfig
from models.video.transformer import SIZES as TRANSFORMER_SIZES
from models.video.transformer import TransformerConfig
from training.data.buckets import Bucket, BucketTable, DurationRule, Size, demo_buckets, paper_buckets
from training.data.plan import BatchSize
from training.objectives.adversarial import AdversarialConfig
from training.objectives.autoencoder import AutoencoderObjective
from training.optim import OptimizerConfig, Plateau

Recipe = TypeVar("Recipe", "TAERecipe", "VideoRecipe")


@dataclass(frozen=True, kw_only=True)
class TAERecipe:
    """One run of the temporal autoencoder."""

    name: str
    base: str | None = None  # the named recipe that a file builds on
    model: TAEConfig
    objective: AutoencoderObjective
    optimizer: OptimizerConfig
    buckets: BucketTable
    batch: BatchSize
    steps: int
    checkpoint_every: int
    keep_checkpoints: int = 3
    micro_batch: int | None = None  # samples computed at once on a worker; None: all of a shape
    seed: int = 0
    adversarial: AdversarialConfig | None = None  # no critic
    image_vae: str | None = None  # diffusers VAE folder that a fresh run starts from; None: from nothing
    initial_logvar: float = -6.0  # of the posterior, in a run from nothing
    fps_tag: bool = False  # the autoencoder reads no captions
    autocast: bool = False
    pixel_memory_bytes: int = 1 << 30  # sets whose decoded clips fit are decoded once
    validate_every: int | None = None  # steps between measurements of the held-out clips; None: none
    validate_clips: int = 64  # of each bucket, at most

    def __post_init__(self) -> None:
        if not self.batch.videos:
            raise ValueError("an autoencoder's batch holds at least one video; images alone teach it nothing of time")
        _check_plateau(self)


@dataclass(frozen=True, kw_only=True)
class VideoRecipe:
    """One run of the video transformer on latents of a trained autoencoder."""

    name: str
    base: str | None = None
    model: TransformerConfig
    text_encoders: tuple[str, ...]
    optimizer: OptimizerConfig
    buckets: BucketTable
    batch: BatchSize
    steps: int
    checkpoint_every: int
    keep_checkpoints: int = 3
    text_dropout: float = 0.1
    micro_batch: int | None = None
    seed: int = 0
    fps_tag: bool = True
    autocast: bool = False
    validate_every: int | None = None
    validate_clips: int = 64
    sample_every: int | None = None  # steps between pictures of what a few captions become
    grow: Literal["extend", "interpolate"] = "extend"  # larger position tables than those of the stage before

    def __post_init__(self) -> None:
        _check_plateau(self)

    def assign(self, row: Mapping[str, Any]) -> Bucket | str:
        """The shape a row is trained in, a single frame in a text-to-image stage, or why it is in none."""
        bucket = self.buckets.assign(row)
        return bucket if isinstance(bucket, str) or self.batch.videos else bucket.image()


def _check_plateau(recipe: "TAERecipe | VideoRecipe") -> None:
    if recipe.optimizer.plateau and not recipe.validate_every:
        raise ValueError("optimizer.plateau reads validation losses; set validate_every, in steps")


def tae_demo() -> TAERecipe:
    """About two minutes on two cores: 64 px, two seconds at 8 fps."""
    return TAERecipe(
        name="tae_demo",
        model=replace(TAE_SIZES["demo"], channels=24),  # 0.77 M parameters; 32 cost 1.4 times as much for 0.1 dB
        objective=AutoencoderObjective(),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, schedule="cosine", warmup_steps=20, final_share=0.05, ema_decay=0.99
        ),
        buckets=demo_buckets(),
        batch=BatchSize(videos=3, images=1),  # section 2.4: one image to three videos
        steps=800,  # 0.15 to 0.33 s each on two cores; 500 give 1 dB less
        checkpoint_every=200,
        validate_every=100,
    )


def tae_paper() -> TAERecipe:
    """The paper's autoencoder (section 3.1.1): 8 x 8 x 8 to 16 channels, one image to three videos, outlier penalty 1e5.

    Its sizes are Stable Diffusion 3.5's image autoencoder's, which it should start from: `base: tae_paper` and `image_vae`.
    Not given, and ours: picture size and window (256 px and the 32 frames of a tile of its inference, at 16 per second), batch,
    rate, steps, optimizer, which reconstruction loss, and the weights of the perceptual (latent diffusion's 1), KL
    (1e-6 on sums) and adversarial parts.
    """
    window = DurationRule(min_seconds=2.0, max_seconds=None, frames=32, fps=16.0)
    return TAERecipe(
        name="tae_paper",
        model=TAE_SIZES["moviegen"],
        objective=AutoencoderObjective(perceptual_weight=1.0),
        adversarial=AdversarialConfig(start_step=10_000),
        optimizer=OptimizerConfig(learning_rate=1e-4, ema_decay=0.999, warmup_steps=1000),
        buckets=BucketTable(durations=(window,), sizes=(Size(height=256, width=256),), min_native_fps=16.0),
        batch=BatchSize(videos=96, images=32),  # section 3.1.1: one image to three videos
        steps=60_000,  # of its ablation: 50,000 without the outlier penalty and 10,000 with it
        checkpoint_every=1000,
        keep_checkpoints=5,
        micro_batch=1,
        autocast=True,
        validate_every=1000,
    )


def video_demo() -> VideoRecipe:
    """About a minute and a half on two cores: overfits a handful of captioned clips."""
    return VideoRecipe(
        name="video_demo",
        model=TRANSFORMER_SIZES["demo"],
        text_encoders=("minilm",),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, schedule="cosine", warmup_steps=20, final_share=0.05, ema_decay=0.99
        ),
        buckets=demo_buckets(),
        batch=BatchSize(videos=8),
        steps=600,  # 0.12 to 0.23 s each on two cores
        checkpoint_every=200,
        validate_every=100,
        sample_every=200,
    )


def _demo_stage(name: str, **differences: Any) -> VideoRecipe:
    """The paper's stages in miniature: what changes between them is what changes in the paper, sizes are a demo's."""
    values: dict[str, Any] = {
        "text_encoders": ("minilm",),
        "optimizer": OptimizerConfig(learning_rate=1e-3, warmup_steps=10, ema_decay=0.99),
        "buckets": demo_buckets(),
        "checkpoint_every": 100,
        "validate_every": 20,
        "sample_every": 20,
    }
    return VideoRecipe(name=name, **(values | differences))


def video_demo_t2i() -> VideoRecipe:
    """Pictures of 64 px: 16 tokens, tables of 4 x 4 places and one moment."""
    return _demo_stage(
        "video_demo_t2i",
        model=replace(TRANSFORMER_SIZES["demo"], max_frames=1, max_rows=4, max_cols=4),
        batch=BatchSize(videos=0, images=8),
        steps=100,
    )


def video_demo_joint() -> VideoRecipe:
    """Videos of 16 frames, one picture to ten; spatial tables doubled, the rate halved when the held-out loss stalls."""
    return _demo_stage(
        "video_demo_joint",
        model=replace(TRANSFORMER_SIZES["demo"], max_frames=2, max_rows=8, max_cols=8),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10, ema_decay=0.99, plateau=Plateau(patience=3)),
        batch=BatchSize(videos=10, images=1),
        steps=200,
    )


def video_demo_high() -> VideoRecipe:
    """Twice the picture's side: tables interpolated, a lower rate. The paper's step is threefold, from 256 to 768 px."""
    return _demo_stage(
        "video_demo_high",
        model=replace(TRANSFORMER_SIZES["demo"], max_frames=2, max_rows=16, max_cols=16),
        grow="interpolate",
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=10, ema_decay=0.99),
        buckets=demo_buckets(side=128),
        batch=BatchSize(videos=10, images=1),
        steps=60,
    )


def video_demo_sft() -> VideoRecipe:
    """A small batch and a cosine to zero. Run it with several seeds, then average."""
    return replace(
        video_demo_high(),
        name="video_demo_sft",
        optimizer=OptimizerConfig(learning_rate=3e-4, schedule="cosine", warmup_steps=5, ema_decay=0.99),
        batch=BatchSize(videos=4),
        steps=40,
    )


def _paper_video(name: str, places: int, learning_rate: float, **differences: Any) -> VideoRecipe:
    """The 30B model of Table 1 with spatial tables of so many places.

    The paper's text encoders (UL2, Long-prompt MetaCLIP, ByT5) are not public or not here; a sentence encoder and a byte
    encoder stand where its prompt-level and character-level ones do. Optimizer, decay, warm-up and average are not given
    for video; AdamW with weight decay 0.1 and EMA 0.999 are its audio model's.
    """
    frames = 1 if not differences["batch"].videos else 32  # section 4.3: the time table is added for 32 latent frames
    model = replace(
        TRANSFORMER_SIZES["30b"], text_widths=(384, 256), max_frames=frames, max_rows=places, max_cols=places
    )
    optimizer = OptimizerConfig(learning_rate=learning_rate, weight_decay=0.1, ema_decay=0.999, warmup_steps=500)
    values: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer,
        "text_encoders": ("minilm", "quoted-bytes"),
        "keep_checkpoints": 5,
        "checkpoint_every": 1000,
        "validate_every": 1000,
        "micro_batch": 1,
        "autocast": True,  # section 5: bf16, remembered, not printed
    }
    return VideoRecipe(name=name, **(values | differences))


def video_t2i_256() -> VideoRecipe:
    """Text-to-image at 256 px (Table 3). The paper reads 1 B images; here they are middle frames of the snapshot's clips."""
    return _paper_video(
        "video_t2i_256",
        16,
        1e-4,
        buckets=replace(paper_buckets(256), sizes=(Size(height=256, width=256),)),  # aspects come with the next stage
        batch=BatchSize(videos=0, images=9216),
        steps=210_000,
    )


def video_256() -> VideoRecipe:
    """Joint text-to-image and text-to-video at 256 px, part 1 (Table 3): 6e-5, halved when the validation loss stalls."""
    recipe = _paper_video(
        "video_256",
        32,
        6e-5,
        buckets=paper_buckets(256),
        batch=BatchSize(videos=1396, images=140),  # 1536 samples, one image to ten videos
        steps=113_000,
    )
    return replace(recipe, optimizer=replace(recipe.optimizer, warmup_steps=2000, plateau=Plateau()))


def video_256_2() -> VideoRecipe:
    """Part 2: the batch doubled, which cut the paper's validation loss sharply."""
    return replace(video_256(), name="video_256_2", batch=BatchSize(videos=2793, images=279), steps=72_000)


def video_768() -> VideoRecipe:
    """Joint training at 768 px, part 1 (Table 3); spatial tables grow threefold."""
    return _paper_video(
        "video_768",
        96,
        6e-5,
        grow="interpolate",
        buckets=paper_buckets(768),
        batch=BatchSize(videos=1396, images=140),
        steps=19_600,
    )


def video_768_2() -> VideoRecipe:
    """Part 2: the rate halved. Table 3 prints the rates at 768 px, so no plateau decides them."""
    recipe = video_768()
    return replace(recipe, name="video_768_2", optimizer=replace(recipe.optimizer, learning_rate=3e-5), steps=15_200)


def video_768_3() -> VideoRecipe:
    """Part 3: a third of the rate and of the batch."""
    recipe = video_768()
    return replace(
        recipe,
        name="video_768_3",
        optimizer=replace(recipe.optimizer, learning_rate=1e-5),
        batch=BatchSize(videos=465, images=47),
        steps=39_700,
    )


def video_sft() -> VideoRecipe:
    """Fine-tuning on the best clips: a small batch and a cosine, at 16 and 24 fps only (section 5).

    Rate, batch and steps are not given and are ours. Run it on several sets and with several settings, then average.
    """
    recipe = video_768()
    return replace(
        recipe,
        name="video_sft",
        optimizer=replace(recipe.optimizer, learning_rate=1e-5, schedule="cosine", warmup_steps=100),
        buckets=replace(
            recipe.buckets,
            durations=(
                DurationRule(min_seconds=16.0, max_seconds=None, frames=256, fps=16.0),
                DurationRule(min_seconds=10.67, max_seconds=16.0, frames=256, fps=24.0),
            ),
        ),
        batch=BatchSize(videos=64),
        steps=2_000,
        validate_every=100,
    )


TAE_RECIPES: dict[str, Callable[[], TAERecipe]] = {"tae_demo": tae_demo, "tae_paper": tae_paper}
STAGES: dict[str, tuple[Callable[[], VideoRecipe], ...]] = {  # each starts from the weights of the one before
    "demo": (video_demo_t2i, video_demo_joint, video_demo_high, video_demo_sft),
    "paper": (video_t2i_256, video_256, video_256_2, video_768, video_768_2, video_768_3, video_sft),
}
VIDEO_RECIPES: dict[str, Callable[[], VideoRecipe]] = {
    "video_demo": video_demo,
    **{stage.__name__: stage for stages in STAGES.values() for stage in stages},
}
_NAMED: dict[type, dict[str, Any]] = {  # what a file may write as a word
    TAEConfig: TAE_SIZES,
    TransformerConfig: TRANSFORMER_SIZES,
    BucketTable: {"demo": demo_buckets(), "paper_256": paper_buckets(256), "paper_768": paper_buckets(768)},
}


def load_tae_recipe(name_or_file: str) -> TAERecipe:
    """A named recipe, or one from a .yaml, .yml or .toml file; ValueError says what is wrong with it."""
    return _load(TAERecipe, TAE_RECIPES, VIDEO_RECIPES, name_or_file)


def load_video_recipe(name_or_file: str) -> VideoRecipe:
    """As `load_tae_recipe`, for the video transformer."""
    return _load(VideoRecipe, VIDEO_RECIPES, TAE_RECIPES, name_or_file)


def recipe_from(cls: type[Recipe], values: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """A recipe from plain values, on top of `base` where fields are left out."""
    return _build(cls, values, base, where="")


def recipe_hash(recipe: TAERecipe | VideoRecipe) -> str:
    """BLAKE2b of every field: equal hashes train equally."""
    return hashlib.blake2b(json.dumps(asdict(recipe), sort_keys=True).encode(), digest_size=16).hexdigest()


def _load(cls: type[Recipe], ours: Mapping[str, Callable], others: Mapping[str, Callable], name_or_file: str) -> Recipe:
    if name_or_file in ours:
        return ours[name_or_file]()
    verb = {TAERecipe: "tae", VideoRecipe: "video"}
    if name_or_file in others:
        other = next(v for c, v in verb.items() if c is not cls)
        raise ValueError(
            f"{name_or_file} is a recipe of `cinemill train {other}`; here one of {', '.join(ours)} or a file"
        )
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise ValueError(
            f"no training recipe {name_or_file!r}{_nearest(name_or_file, ours)}; known: {', '.join(ours)}, or a .yaml or .toml file"
        )
    if not path.is_file():
        raise ValueError(f"no recipe file {name_or_file}")
    values = _with_whole_paths(_read(path))
    named = values.get("base")
    if named is not None and named not in ours:
        raise ValueError(f"{path}: no recipe {named!r} to build on{_nearest(str(named), ours)}")
    if values.get("image_vae") and "model" not in values:
        values["model"] = asdict(read_image_vae_config(values["image_vae"]))
    return recipe_from(cls, {"name": path.stem} | values, ours[named]() if named else None)


def _with_whole_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Folders relative to where the command runs, made absolute: workers run elsewhere, and checkpoints are moved."""
    encoders, vae = values.get("text_encoders"), values.get("image_vae")
    if isinstance(vae, str):
        values["image_vae"] = os.path.abspath(vae)
    if isinstance(encoders, list):
        halves = [str(name).partition(":") for name in encoders]
        values["text_encoders"] = [
            f"{k}:{os.path.abspath(folder)}" if folder else k + colon for k, colon, folder in halves
        ]
    return values


def _read(path: Path) -> dict[str, Any]:
    text = path.read_text()
    if path.suffix == ".toml":
        values: Any = tomllib.loads(text)
    else:
        import yaml

        values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no fields; write e.g. `base: tae_demo` and `steps: 400`")
    return values


def _build(cls: type, values: Any, base: Any, where: str) -> Any:
    """An instance of dataclass `cls`, checking every name and type; messages carry the dotted place."""
    if isinstance(values, str) and cls in _NAMED:
        if values not in _NAMED[cls]:
            raise ValueError(
                f"{where}: no {cls.__name__} {values!r}{_nearest(values, _NAMED[cls])}; known: {', '.join(_NAMED[cls])}"
            )
        return _NAMED[cls][values]
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or cls.__name__} takes fields, not {values!r}")
    hints = typing.get_type_hints(cls)
    known = {field.name: hints[field.name] for field in fields(cls)}
    for name in values:
        if name not in known:
            raise ValueError(f"unknown field {_dotted(where, name)!r}{_nearest(name, known)}")
    built = {
        name: _value(known[name], value, getattr(base, name, None), _dotted(where, name))
        for name, value in values.items()
    }
    try:
        return replace(base, **built) if base is not None else cls(**built)
    except TypeError as error:  # a required field is missing
        raise ValueError(
            f"{where or 'recipe'}: {str(error).split('__init__() ')[-1]}; start from `base: NAME`"
        ) from error


def _value(hint: Any, value: Any, base: Any, where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    arguments = typing.get_args(hint)
    if value is not None and type(None) in arguments:  # `X | None` of something is X
        hint = next(argument for argument in arguments if argument is not type(None))
    if is_dataclass(hint):
        return _build(typing.cast(type, hint), value, base, where)
    if typing.get_origin(hint) is tuple and is_dataclass(arguments[0]) and isinstance(value, list | tuple):
        item = typing.cast(type, arguments[0])
        return tuple(_build(item, entry, None, f"{where}[{number}]") for number, entry in enumerate(value))
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{where}={value!r}: {error.errors()[0]['msg']}") from error


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; the nearest known one is {close[0]!r}" if close else ""
