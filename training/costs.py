"""What one micro-step of a model holds and takes on a GPU, given how GPUs share the work.

Arithmetic on sizes: nothing is built and nothing runs. Operations take as long as they do at published kernel rates
(`training.accelerators`); norms, gates and sums as long as moving their bytes. Gathering and scattering weights hides behind
the computing, what cp and tp exchange does not. Launches, stragglers, data and validation take no time here.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from models.accounting import attention_flops, backward_flops, flops, parameters
from models.autoencoders.accounting import decode_flops, encode_flops, tae_activations, tae_parameters
from models.autoencoders.tae import TAEConfig
from models.memory import RECOMPUTE, Recompute, activations
from models.video.transformer import TransformerConfig
from training.accelerators import LINK_EFFICIENCY, USABLE_MEMORY, Accelerator
from training.data.buckets import Bucket

# Shapes: L tokens, D width, F feed-forward width.
STATE = {"weights": 4, "gradients": 4, "optimizer": 8, "moving average": 4}  # bytes a parameter, all float32
OPTIMIZER_SCRATCH = 4  # bytes a parameter that AdamW allocates for its update, when activations are gone
OPTIMIZER_TRAFFIC = 64  # bytes a parameter that clipping, AdamW and the average read and write
ELEMENTWISE = (23, 3)  # [L, D] and [L, F] tensors that a block's norms, gates and sums read or write, fused, forward


@dataclass(frozen=True, kw_only=True)
class Layout:
    """dp_replicate x dp_shard x cp x tp GPUs, tp innermost. Weights are sharded over dp_shard x cp, matrices over tp too."""

    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    recompute: Recompute = "none"

    @property
    def groups(self) -> int:
        """How many groups of cp x tp GPUs compute samples of their own."""
        return self.dp_replicate * self.dp_shard

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.groups * self.cp * self.tp

    @property
    def shards(self) -> int:
        """Among how many GPUs a weight is divided, before tp."""
        return self.dp_shard * self.cp

    def __str__(self) -> str:
        """As a call or a recipe names it; copies are what the GPUs leave over."""
        words = [f"{name}={getattr(self, name)}" for name in ("dp_shard", "cp", "tp") if getattr(self, name) > 1]
        return (
            ",".join([*words, *([f"recompute={self.recompute}"] if self.recompute != "none" else [])]) or "whole copies"
        )


class Work(NamedTuple):
    """One micro-step of one group of cp x tp GPUs."""

    executed_flops: int  # forward, backward with attention kernels' 2.5, and what is computed again
    seconds: float


class Costs(Protocol):
    """The arithmetic of one model on one kind of GPU."""

    parameters: int
    budget: int  # bytes of a GPU that tensors may fill

    def layouts(self, groups: int, cp: int, tp: int, shapes: list[Bucket]) -> list[Layout]: ...
    def model_flops(self, shape: Bucket) -> int: ...
    def memory(self, layout: Layout, shape: Bucket, samples: int) -> dict[str, int]: ...
    def work(self, layout: Layout, shape: Bucket, samples: int) -> Work: ...
    def update_seconds(self, layout: Layout) -> float: ...


def largest_micro_batch(costs: Costs, layout: Layout, shape: Bucket) -> int:
    """How many samples of a shape fit at once; 0 where not even one does."""
    parts = costs.memory(layout, shape, 1)
    if sum(parts.values()) > costs.budget:
        return 0
    sample = parts["activations"] + parts["block in work"]
    fixed = sum(parts[name] for name in (*STATE, "gathered weights"))
    return (costs.budget - fixed) // sample


class TransformerCosts:
    """A video transformer; `text_tokens` is the padded length of each encoder's text."""

    def __init__(self, model: TransformerConfig, accelerator: Accelerator, text_tokens: int, element_bytes: int):
        self.model, self.device, self.bytes = model, accelerator, element_bytes
        self.text = (text_tokens,) * len(model.text_widths)
        d, f = model.width, model.ffn_width
        self.parameters = parameters(model)
        self.split = model.layers * (8 * d * d + 3 * d * f)  # over tp; the rest is on every GPU of a tp group
        self.budget = int(accelerator.memory * USABLE_MEMORY)

    def layouts(self, groups: int, cp: int, tp: int, shapes: list[Bucket]) -> list[Layout]:
        """One for each way to recompute; none where heads, hidden units or a shape's tokens do not split evenly."""
        even = self.model.heads % tp == 0 and self.model.ffn_width % tp == 0 and tp <= self.device.per_node
        if not even or any(shape.tokens % (cp * tp) for shape in shapes):
            return []
        return [Layout(dp_shard=groups, cp=cp, tp=tp, recompute=mode) for mode in RECOMPUTE]

    def model_flops(self, shape: Bucket) -> int:
        """Forward and backward of one sample, attention's backward counted as twice its forward."""
        return flops(self.model, shape.tokens, self.text) + backward_flops(self.model, shape.tokens, self.text)

    def memory(self, layout: Layout, shape: Bucket, samples: int) -> dict[str, int]:
        """Bytes on each GPU when a micro-batch of so many samples is at its fullest, by part; 0 samples: the state alone."""
        whole = self._on_a_gpu(layout)  # parameters before sharding
        owned = whole // layout.shards
        parts = {name: size * owned for name, size in STATE.items()}
        block = self.split // layout.tp // self.model.layers
        if layout.shards > 1:  # two blocks, a block's gradient in both types, the part outside of blocks in float32
            parts["gathered weights"] = (
                self.bytes * 2 * block + (self.bytes + 4) * block + 4 * (self.parameters - self.split)
            )
        else:  # autocast's copies
            parts["gathered weights"] = self.bytes * whole if self.bytes < 4 else 0
        held = activations(
            self.model,
            shape.tokens,
            self.text,
            batch=samples,
            recompute=layout.recompute,
            cp=layout.cp,
            tp=layout.tp,
            element_bytes=self.bytes,
        )
        latents = 4 * 4 * samples * shape.tokens * self.model.patch_values  # data, noise, their mix and the target
        parts["activations"] = held.kept + latents
        parts["block in work"] = held.block + held.passing
        passing = parts["gathered weights"] + held.peak + latents
        parts["optimizer step"] = max(0, OPTIMIZER_SCRATCH * owned - passing)
        return parts

    def work(self, layout: Layout, shape: Bucket, samples: int) -> Work:
        """A forward and a backward pass of so many samples, and what of it is computed twice."""
        tokens, d, f = shape.tokens, self.model.width, self.model.ffn_width
        forward = flops(self.model, tokens, self.text, samples)
        backward = backward_flops(self.model, tokens, self.text, samples)
        attention = attention_flops(self.model, tokens, self.text, samples)
        blocks = 2 * samples * self.model.layers * (tokens * (6 * d * d + 3 * d * f) + sum(self.text) * 2 * d * d)
        linear_again = 0 if layout.recompute == "none" else blocks
        attention_again = attention if layout.recompute == "full" else 0

        linear = forward + backward - 3 * attention + linear_again
        kernels_forward, kernels_backward = attention + attention_again, attention * 5 // 2
        seconds = self._at_ceilings(linear, kernels_forward, kernels_backward) / (layout.cp * layout.tp)
        seconds += self._elementwise(layout, tokens * samples) + self._exchange(layout, tokens * samples)
        return Work(linear + kernels_forward + kernels_backward, max(seconds, self._sharding(layout)))

    def update_seconds(self, layout: Layout) -> float:
        """Clip, AdamW and moving average once a step; with dp_replicate the gradients' sum over the replicas before it."""
        return _update_seconds(self.device, layout, self._on_a_gpu(layout) / layout.shards)

    def _on_a_gpu(self, layout: Layout) -> int:
        return self.split // layout.tp + self.parameters - self.split

    def _at_ceilings(self, linear: int, kernels_forward: int, kernels_backward: int) -> float:
        """Seconds of one GPU."""
        device = self.device
        if self.bytes == 4:
            return (linear + kernels_forward + kernels_backward) / device.float32
        return (
            linear / device.linear
            + kernels_forward / device.attention_forward
            + kernels_backward / device.attention_backward
        )

    def _elementwise(self, layout: Layout, tokens: int) -> float:
        """Seconds of what only moves memory, in fused kernels: forward, twice that backward, and what is done again."""
        wide, hidden = ELEMENTWISE
        values = self.model.layers * tokens * (wide * self.model.width + hidden * self.model.ffn_width)
        passes = 3 if layout.recompute == "none" else 4
        return passes * values * self.bytes / (layout.cp * layout.tp) / self.device.bandwidth

    def _exchange(self, layout: Layout, tokens: int) -> float:
        """Seconds on links that nothing hides: tp gathers and scatters tokens around three layers, cp gathers keys and values."""
        cp, tp = layout.cp, layout.tp
        values = self.model.layers * tokens * self.model.width * self.bytes * (2 if layout.recompute == "none" else 3)
        over_tp = 3 * 2 * values / cp * (tp - 1) / tp
        over_cp = 2 * values / tp * (cp - 1) / cp
        return over_tp / self._link(tp) + over_cp / self._link(cp * tp)

    def _sharding(self, layout: Layout) -> float:
        """Seconds of gathering weights twice and scattering float32 gradients; assumed to hide behind the computing."""
        whole, shards = self._on_a_gpu(layout), layout.shards
        return (2 * self.bytes + 4) * whole * (shards - 1) / shards / self._link(shards * layout.tp)

    def _link(self, gpus: int) -> float:
        return _link(self.device, gpus)


class AutoencoderCosts:
    """A temporal autoencoder: whole on every GPU, reconstruction only (a critic and perceptual features come on top)."""

    def __init__(self, model: TAEConfig, accelerator: Accelerator, element_bytes: int):
        self.model, self.device, self.bytes = model, accelerator, element_bytes
        self.parameters = tae_parameters(model)
        self.budget = int(accelerator.memory * USABLE_MEMORY)

    def layouts(self, groups: int, cp: int, tp: int, shapes: list[Bucket]) -> list[Layout]:
        """Copies that share nothing."""
        return [Layout(dp_replicate=groups)] if cp == tp == 1 else []

    def model_flops(self, shape: Bucket) -> int:
        """Forward and backward of one sample."""
        sizes = shape.frames, shape.height, shape.width
        return 3 * (encode_flops(self.model, *sizes) + decode_flops(self.model, *sizes))

    def memory(self, layout: Layout, shape: Bucket, samples: int) -> dict[str, int]:
        """As the transformer's. In passing: four gradients of the decoder's widest activation, at full resolution."""
        parts = {name: size * self.parameters for name, size in STATE.items()}
        parts["gathered weights"] = self.bytes * self.parameters if self.bytes < 4 else 0
        pixels = samples * shape.frames * shape.height * shape.width
        kept = samples * tae_activations(self.model, shape.frames, shape.height, shape.width)
        widest = self.model.channels * self.model.multipliers[0] * pixels // self.model.patch**2
        parts["activations"] = self.bytes * kept + 3 * 3 * 4 * pixels  # and video, reconstruction, their difference
        parts["block in work"] = 4 * self.bytes * widest
        passing = parts["gathered weights"] + parts["activations"] + parts["block in work"]
        parts["optimizer step"] = max(0, OPTIMIZER_SCRATCH * self.parameters - passing)
        return parts

    def work(self, layout: Layout, shape: Bucket, samples: int) -> Work:
        """Convolutions at the rate of matrix products; what is kept is written and read once forward and once backward."""
        executed = samples * self.model_flops(shape)
        kept = samples * tae_activations(self.model, shape.frames, shape.height, shape.width)
        seconds = executed / (self.device.float32 if self.bytes == 4 else self.device.linear)
        return Work(executed, seconds + 4 * self.bytes * kept / self.device.bandwidth)

    def update_seconds(self, layout: Layout) -> float:
        """Sum of gradients over the copies, clip, AdamW, moving average."""
        return _update_seconds(self.device, layout, self.parameters)


def _update_seconds(device: Accelerator, layout: Layout, owned: float) -> float:
    copies = layout.dp_replicate
    exchanged = 2 * 4 * owned * (copies - 1) / copies / _link(device, layout.gpus)
    return OPTIMIZER_TRAFFIC * owned / device.bandwidth + exchanged


def _link(device: Accelerator, gpus: int) -> float:
    """Bytes a second of a collective among so many neighbouring GPUs."""
    return LINK_EFFICIENCY * (device.node_link if gpus <= device.per_node else device.network)
