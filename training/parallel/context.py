"""Each worker computes its own run of a sample's tokens: cut after the patches, joined before the velocity.

Between them only self-attention looks across tokens. Its keys and values are gathered over the cp group; the text is
whole on every worker, so cross-attention needs nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.attention import attend
from models.positions import Grid
from models.video.transformer import VideoTransformer
from training.parallel.collectives import gather, join
from training.parallel.mesh import Mesh

Kernel = Callable[..., Tensor]


class OwnTokens:
    """Which tokens of a sample are this worker's: the cp group cuts first, the tp group cuts each part again."""

    def __init__(self, mesh: Mesh):
        self.part = mesh.cp.get_local_rank() * mesh.tp.size() + mesh.tp.get_local_rank()
        self.parts = mesh.cp.size() * mesh.tp.size()

    def __call__(self, length: int) -> slice:
        """Of a sequence of this length."""
        if length % self.parts:
            raise ValueError(f"{length} tokens do not divide over {self.parts} workers (cp x tp)")
        return slice(self.part * length // self.parts, (self.part + 1) * length // self.parts)


def split_tokens(model: VideoTransformer, mesh: Mesh) -> None:
    """Let the model run on this worker's tokens; from outside it takes and gives whole latents as before."""
    own = OwnTokens(mesh)

    def cut(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0][:, own(args[0].shape[1])],)

    def places(module: nn.Module, args: tuple[Grid]) -> tuple[Grid, Tensor]:
        (grid,) = args
        index = torch.arange(grid[0] * grid[1] * grid[2], device=module.time.device)  # type: ignore[arg-type]
        return grid, index[own(len(index))]

    def joined(_module: nn.Module, _args: Any, patches: Tensor) -> Tensor:
        for group in (mesh.tp, mesh.cp):
            patches = join(patches, group, dim=1) if group.size() > 1 else patches
        return patches

    model.patch_in.register_forward_pre_hook(cut)
    model.positions.register_forward_pre_hook(places)
    model.patch_out.register_forward_hook(joined)
    if mesh.cp.size() > 1:
        for block in model.blocks:
            block.self_attention.kernel = KeysGathered(mesh)  # type: ignore[union-attr]


class KeysGathered:
    """The attention kernel over all tokens' keys and values, for this worker's queries: q, k, v are [B, N, L, K]."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh.cp

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        k, v = gather(torch.stack((k, v)), self.mesh, dim=3).unbind(0)  # one message for both
        return attend(q, k, v, mask)
