"""Lay a model out over the workers: tensor parallel, tokens, recomputation, compilation, FSDP2, in this order."""

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import parallelize_module

from models.video.transformer import VideoTransformer
from training.parallel.context import split_tokens
from training.parallel.mesh import Mesh, ParallelConfig
from training.parallel.recompute import recompute_block
from training.parallel.styles import replicate_the_rest
from training.parallel.table import TABLE


def parallelize(model: VideoTransformer, config: ParallelConfig, mesh: Mesh | None, *, bf16: bool = False) -> None:
    """Change the model in place; every worker holds the same whole model before, and DTensors of it after.

    Call it before the optimizer and the moving average are made. `mesh` is None for one worker, or several that each
    hold the whole model. With bf16 the blocks' weights travel in bfloat16 and gradients are reduced in float32; the
    weights themselves, optimizer and average stay as they are. The optimizer's gradients come out summed, not averaged.
    """
    if config.shards and mesh is None:
        raise ValueError(f"the layout {config} needs a process group of several workers")
    if mesh is not None and config.tp > 1:
        parallelize_module(model, mesh.tp, TABLE)
        replicate_the_rest(model, mesh.tp)
    if mesh is not None and config.workers_per_share > 1:
        split_tokens(model, mesh)
    for block in model.blocks:
        recompute_block(block, config.recompute)
        if config.compile:
            block.compile(fullgraph=True)
    if mesh is not None and config.shards:
        _shard(model, mesh, bf16)


def _shard(model: VideoTransformer, mesh: Mesh, bf16: bool) -> None:
    # The rest (time embedding, positions, modulation, first and last projection) travels in its own precision: 0.3 of 30 B.
    narrow = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    whole = MixedPrecisionPolicy(cast_forward_inputs=False)
    for block in model.blocks:
        fully_shard(block, mesh=mesh.fsdp, mp_policy=narrow if bf16 else whole)
    fully_shard(model, mesh=mesh.fsdp, mp_policy=whole)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Sums: the loop divides by the global number of samples that count. As plain sums, since gloo has no others.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
