"""Lay a model out over the workers: tensor parallel, tokens, recomputation, compilation, FSDP2, in this order."""

import logging
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

from models.video.transformer import VideoTransformer
from training.parallel.context import split_tokens
from training.parallel.mesh import Mesh, ParallelConfig
from training.parallel.recompute import recompute_block
from training.parallel.styles import replicate_the_rest
from training.parallel.table import TABLE
from training.world import World


def parallelize(model: VideoTransformer, config: ParallelConfig, world: World, *, bf16: bool = False) -> None:
    """Change the model in place; every worker holds the same whole model before, and DTensors of it after.

    Call it before the optimizer and the moving average are made. With bf16 the blocks' weights travel in bfloat16 and
    gradients are reduced in float32; the weights themselves, optimizer and average stay as they are. Gradients come out
    summed over all workers, not averaged. A layout that shards nothing leaves plain tensors: `World.sum_` adds their
    gradients. ValueError when the workers do not divide.
    """
    if world.workers_per_share != config.workers_per_share:
        raise ValueError(
            f"a world of {world.workers_per_share} workers per share of the batch, but the layout has "
            f"{config.workers_per_share} (cp x tp)"
        )
    config.dp_replicate(world.size)
    mesh = Mesh.of(config, world.size, world.device.type) if config.shards else None
    if mesh is not None and config.tp > 1:
        # DTensor warns that norms and whole tensors over (fsdp, tp) take two messages, not one. They do, once a step.
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        parallelize_module(model, mesh.tp, TABLE)
        replicate_the_rest(model, mesh.tp)
    if mesh is not None and config.workers_per_share > 1:
        split_tokens(model, mesh)
    for block in model.blocks:
        recompute_block(block, config.recompute)
        if config.compile:
            block.compile(fullgraph=True)
    if mesh is not None:
        _shard(model, mesh, bf16)


def whole_tensors(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor whole and in main memory, one after the other; all workers call it, the first keeps them.

    For weights that leave the run: the others get an empty dict back. Plain tensors are copied as they are.
    """
    whole = {}
    for name, value in values.items():
        tensor = value.detach()
        tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if not dist.is_initialized() or dist.get_rank() == 0:
            whole[name] = tensor.cpu().clone()
    return whole


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
