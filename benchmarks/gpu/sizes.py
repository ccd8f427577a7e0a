"""How large everything is that is measured: the paper's shapes, or shapes small enough to try the code on a CPU."""

from dataclasses import dataclass, replace

from models.autoencoders.tae import SIZES as TAE_SIZES
from models.autoencoders.tae import TAEConfig
from models.video.transformer import SIZES as TRANSFORMER_SIZES
from models.video.transformer import TransformerConfig
from training.data.buckets import Bucket


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shapes of every section, and how long one measurement may repeat itself."""

    transformer: TransformerConfig  # of blocks and of the stack
    text_tokens: int  # of each text encoder, padded
    clips: tuple[Bucket, ...]  # that blocks and the stack see, fewest tokens first
    copy_bytes: int
    square: int  # side of a square matrix product
    attention_tokens: tuple[int, ...]
    tae: TAEConfig
    neighbours: dict[str, dict[str, object]]  # changes to the configs of other autoencoders
    videos: tuple[
        tuple[int, int], ...
    ]  # (frames, side in pixels) of the autoencoders; other libraries take a frame more
    learner: TransformerConfig  # trains in the correctness and recovery sections
    learner_clip: Bucket
    seconds: float  # of repetitions of one measurement
    repetitions: int  # where they fit in that

    @property
    def all_text(self) -> int:
        """Text tokens of all encoders together, what cross-attention reads."""
        return self.text_tokens * len(self.transformer.text_widths)


FULL = Sizes(
    transformer=replace(TRANSFORMER_SIZES["30b"], layers=4),
    text_tokens=256,
    clips=(Bucket(frames=256, height=256, width=256), Bucket(frames=256, height=768, width=768)),  # 8,192 and 73,728
    copy_bytes=4 << 30,
    square=8192,
    attention_tokens=(2048, 8192, 32768, 73728),
    tae=TAE_SIZES["moviegen"],
    neighbours={},
    videos=((32, 256), (32, 512), (32, 768)),
    learner=TransformerConfig(width=768, layers=4, heads=6, ffn_width=2048, text_widths=(256,)),
    learner_clip=Bucket(frames=64, height=256, width=256),  # 2,048 tokens
    seconds=2.0,
    repetitions=10,
)

SMALL = Sizes(
    transformer=TransformerConfig(width=64, layers=2, heads=2, ffn_width=128, text_widths=(32, 24)),
    text_tokens=4,
    clips=(Bucket(frames=8, height=32, width=32), Bucket(frames=16, height=64, width=64)),  # 4 and 32
    copy_bytes=1 << 20,
    square=64,
    attention_tokens=(16, 32),
    tae=TAEConfig(channels=8, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=4, groups=4, patch=4),
    neighbours={
        "Wan": {"base_dim": 8},
        "HunyuanVideo": {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4},
        "CogVideoX": {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4},
        "LTX": {},
    },
    videos=((8, 32),),
    learner=TransformerConfig(width=32, layers=2, heads=2, ffn_width=64, text_widths=(16,)),
    learner_clip=Bucket(frames=8, height=64, width=64),
    seconds=0.05,
    repetitions=3,
)
