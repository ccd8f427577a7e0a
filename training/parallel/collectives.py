"""Three ways to exchange tokens, each with the backward pass that its use calls for. Traced by torch.compile.

The rule behind all of them: a tensor that several workers hold alike has on each worker the gradient of that worker's own
work only. Nothing is summed on the way; the sum is taken once, where the tensor was made from a parameter or from tokens.
"""

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard


def gather(x: Tensor, mesh: DeviceMesh, dim: int) -> Tensor:
    """All workers' parts of axis `dim`, in order, for workers that each do other work with them.

    Backward: reduce-scatter, since every worker's work adds to the gradient of every part.
    """
    parts = DTensor.from_local(x, mesh, [Shard(dim)], run_check=False)
    return parts.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])


def reduce_scatter(x: Tensor, mesh: DeviceMesh, dim: int) -> Tensor:
    """This worker's part, along axis `dim`, of the sum of all workers' x. Backward: all-gather."""
    terms = DTensor.from_local(x, mesh, [Partial()], run_check=False)
    return terms.redistribute(placements=[Shard(dim)]).to_local()


def join(x: Tensor, mesh: DeviceMesh, dim: int) -> Tensor:
    """All workers' parts of axis `dim`, in order, for workers that all do the *same* with them.

    Backward: the worker's own part, and no communication, since all hold the same gradient.
    """
    parts = DTensor.from_local(x, mesh, [Shard(dim)], run_check=False)
    return parts.redistribute(placements=[Replicate()]).to_local()
