"""Tensor-parallel styles: how a module's parameters are laid out over the tp group, and what is exchanged around it.

Parameters are DTensors and stay so in state dicts, optimizer and moving average; the module's own code sees the local
part as a plain tensor. A replicated parameter has on each worker the gradient of that worker's tokens or heads, which
is declared Partial: whoever reads the gradient (FSDP2, before it reduces over its own group) sums it over tp first.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle

from training.parallel.collectives import gather, reduce_scatter


class Replicated(ParallelStyle):
    """Every worker holds the module's own parameters whole and uses them on its own tokens or heads."""

    placement: Placement = Replicate()
    gradient: Placement = Partial()

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, parameter in list(module.named_parameters(recurse=False)):
            # src_data_rank=None: every worker has drawn or loaded the whole tensor and cuts out its part by itself.
            whole = distribute_tensor(parameter.data, device_mesh, [self.placement], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(whole, requires_grad=parameter.requires_grad))
            module.__class__ = _with_local(type(module), name, self.gradient)  # type: ignore[arg-type]
        return module


class Column(Replicated):
    """A linear layer's outputs (heads, hidden units) shared out; its input is whole."""

    placement = Shard(0)
    gradient = Shard(0)


class Row(Replicated):
    """A linear layer's inputs shared out, the outputs summed; each worker keeps the sum for its own tokens [B, L, D]."""

    placement = Shard(1)
    gradient = Shard(1)

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        module = super()._apply(module, device_mesh)
        module.register_forward_hook(lambda _module, _args, output: reduce_scatter(output, device_mesh, dim=1))
        return module


class WholeInput(ParallelStyle):
    """Tokens [B, L, D] of the tp group are gathered once before the module; self-attention passes them twice."""

    def __init__(self, second_is_text: bool = False):
        super().__init__()
        self.second_is_text = second_is_text

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def gathered(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            tokens = gather(args[0], device_mesh, dim=1)
            if len(args) > 1 and not self.second_is_text:
                return (tokens, tokens, *args[2:])
            return (tokens, *args[1:])

        module.register_forward_pre_hook(gathered)
        return module


@cache
def _with_local(cls: type[nn.Module], name: str, gradient: Placement) -> type[nn.Module]:
    """`cls` with an attribute that reads parameter `name` as this worker's plain tensor."""

    def local(self: nn.Module) -> Tensor | None:
        parameter = self._parameters[name]
        if isinstance(parameter, DTensor) and parameter.device_mesh.ndim == 1:
            return parameter.to_local(grad_placements=[gradient])
        return parameter  # sharded by FSDP2, which is the case outside of a forward pass only

    return type(cls.__name__, (cls,), {name: property(local), "__module__": __name__})


def replicate_the_rest(model: nn.Module, mesh: DeviceMesh) -> None:
    """Every parameter that no style has laid out is replicated, never left a plain tensor: its gradient is summed."""
    style = Replicated()
    for module in model.modules():
        own = module.named_parameters(recurse=False)
        if any(not isinstance(parameter, DTensor) for _, parameter in own):
            with torch.no_grad():
                style._apply(module, mesh)
