"""Activations thrown away in the forward pass and computed again in the backward pass, block by block."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from training.parallel.mesh import Recompute

# Every fused kernel behind scaled_dot_product_attention. The unfused one (math) is made of matrix products and is
# computed again as they are.
_ATTENTION = tuple(
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
)


def recompute_block(block: nn.Module, mode: Recompute) -> None:
    """Wrap the block's forward. "full" keeps its inputs alone; "save-attention" also the attentions' outputs.

    At 73,728 tokens attention is 63 % of a 30B block's FLOPs: computing it again costs 4/3 of a step, only the linear
    layers 1.12, for 0.84 GiB a layer of output kept (less by tp x cp).
    """
    if mode == "none":
        return
    extra: dict[str, Any] = {}
    if mode == "save-attention":
        extra["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    whole = block.forward

    def forward(
        *args: Tensor,
    ) -> Tensor:  # a function of ours, since torch.compile does not look into a partial(checkpoint)
        # No layer draws random numbers, so no generator's state is kept.
        return checkpoint(whole, *args, use_reentrant=False, preserve_rng_state=False, **extra)

    block.forward = forward


def _policy(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE
