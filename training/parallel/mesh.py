"""How workers are laid out: who reads which samples, who holds which part of the weights and of the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from models.video.transformer import TransformerConfig
from training.data.buckets import Bucket
from training.data.plan import BatchSize

Recompute = Literal["none", "full", "save-attention"]


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How one model is spread over workers. Whatever it is, a step computes the same; a resumed run may change it.

    Workers that these do not use up hold further copies: dp_replicate = workers / (dp_shard cp tp).
    """

    dp_shard: int = 1  # workers that read different samples and share out the weights (FSDP2)
    cp: int = 1  # workers that share out a sample's tokens; self-attention gathers keys and values
    tp: int = 1  # workers that share out every layer's heads and hidden units, and the tokens in between
    recompute: Recompute = "none"  # in the backward pass, block by block; save-attention keeps attention's output
    compile: bool = False  # each block by torch.compile

    def __post_init__(self) -> None:
        for name in ("dp_shard", "cp", "tp"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1; 1 means not in this way")
        if self.recompute not in get_args(Recompute):
            raise ValueError(f"recompute={self.recompute!r} is not one of {', '.join(get_args(Recompute))}")

    @classmethod
    def parse(cls, text: str) -> "ParallelConfig":
        """From words such as `dp_shard=2,tp=2,recompute=full,compile`; the empty string is one worker's layout."""
        known = {field.name: field.type for field in fields(cls)}
        config = cls()
        for word in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = word.partition("=")
            if name not in known:
                raise ValueError(f"parallel: no setting {name!r}; known: {', '.join(known)}")
            if name == "compile":
                if value not in ("", "true", "false"):
                    raise ValueError(f"parallel: compile={value!r} is neither true nor false")
                config = replace(config, compile=value != "false")
            elif name == "recompute":
                config = replace(config, recompute=value)  # type: ignore[arg-type]  # checked by __post_init__
            elif value.isdecimal():
                config = replace(config, **{name: int(value)})  # type: ignore[arg-type]
            else:
                raise ValueError(f"parallel: {word!r} is no number of workers; write e.g. {name}=2")
        return config

    def __str__(self) -> str:
        words = [f"{name}={getattr(self, name)}" for name in ("dp_shard", "cp", "tp") if getattr(self, name) > 1]
        words += [f"recompute={self.recompute}"] * (self.recompute != "none") + ["compile"] * self.compile
        return ",".join(words)

    @property
    def workers_per_share(self) -> int:
        """Workers that compute one share of the batch together."""
        return self.cp * self.tp

    @property
    def shards(self) -> bool:
        """Whether a worker holds less than the whole model."""
        return self.dp_shard * self.cp * self.tp > 1

    def dp_replicate(self, workers: int) -> int:
        """Copies of the model among so many workers; ValueError where they do not divide."""
        size = self.dp_shard * self.cp * self.tp
        if workers % size:
            raise ValueError(
                f"{workers} workers do not divide into groups of dp_shard {self.dp_shard} x cp {self.cp} x tp {self.tp} "
                f"= {size}; start {-(-workers // size) * size} workers"
            )
        return workers // size

    def check(self, model: TransformerConfig, buckets: Sequence[Bucket], batch: BatchSize | None, workers: int) -> None:
        """Raise ValueError unless this many workers can train this model on these shapes; touches no device.

        Without `batch`, any number of samples will do.
        """
        shares = self.dp_replicate(workers) * self.dp_shard
        if batch is not None and shares > max(batch.videos, batch.images):
            raise ValueError(
                f"{shares} shares of the batch (dp_replicate x dp_shard) for {batch.videos} videos and {batch.images} "
                "images: some workers would never compute anything that counts; raise cp or tp, or start fewer workers"
            )
        if model.heads % self.tp:
            raise ValueError(f"tp={self.tp} does not divide the model's {model.heads} heads{_nearest(model.heads)}")
        if model.ffn_width % self.tp:
            raise ValueError(f"tp={self.tp} does not divide ffn_width={model.ffn_width}{_nearest(model.ffn_width)}")
        for bucket in buckets:
            if bucket.tokens % (self.cp * self.tp):
                raise ValueError(
                    f"bucket {bucket.name} has {bucket.tokens} tokens, which do not divide over cp {self.cp} x tp {self.tp}; "
                    "lower one of them, or choose picture sizes with more factors of two"
                )


def _nearest(number: int) -> str:
    return f"; choose a divisor: {', '.join(str(d) for d in range(1, min(number, 64) + 1) if number % d == 0)}"


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """The workers' groups, outermost first: (dp_replicate, dp_shard, cp, tp), tp inside a machine.

    Weights are the same over cp, so they are sharded over it too: they live on (dp_replicate, fsdp, tp) with
    fsdp = dp_shard x cp. Both meshes number the workers alike.
    """

    weights: DeviceMesh  # (dp_replicate, fsdp, tp)
    tokens: DeviceMesh  # (dp_replicate, dp_shard, cp, tp)

    @classmethod
    def of(cls, config: ParallelConfig, workers: int, device_type: str) -> "Mesh":
        """Over all workers of the process group; every worker calls it."""
        replicate = config.dp_replicate(workers)
        weights = (replicate, config.dp_shard * config.cp, config.tp)
        tokens = (replicate, config.dp_shard, config.cp, config.tp)
        return cls(
            weights=init_device_mesh(device_type, weights, mesh_dim_names=("dp_replicate", "fsdp", "tp")),
            tokens=init_device_mesh(device_type, tokens, mesh_dim_names=("dp_replicate", "dp_shard", "cp", "tp")),
        )

    @property
    def tp(self) -> DeviceMesh:
        """This worker's tensor-parallel group."""
        return self.weights["tp"]

    @property
    def cp(self) -> DeviceMesh:
        """This worker's context-parallel group."""
        return self.tokens["cp"]

    @property
    def fsdp(self) -> DeviceMesh:
        """What FSDP2 shards over, and replicates over where there are copies."""
        return self.weights["dp_replicate", "fsdp"] if self.weights["dp_replicate"].size() > 1 else self.weights["fsdp"]
