"""verify-parallel must fail when any rule or any exchange of the layout is broken. Each is broken here, one at a time."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import Replicate

import training.parallel.apply as apply
import training.parallel.context as context
import training.parallel.styles as styles
from models.positions import Positions
from training.parallel import collectives
from training.parallel.verify import LAYOUTS, verify
from training.world import World

REPLICATED = (  # every module of the transformer whose own parameters all tp workers hold whole
    "",  # the transformer's own bias_out
    "patch_in",
    "positions",
    "text_in.0.linear",
    "text_in.0.norm",
    "time_in.first",
    "time_in.second",
    "modulation",
    "blocks.0",  # its bias
    "blocks.0.norm1",
    "blocks.0.norm2",
    "blocks.0.norm3",
    "blocks.0.self_attention.norm_q",
    "blocks.0.self_attention.norm_k",
    "blocks.0.cross_attention.norm_q",
    "blocks.0.cross_attention.norm_k",
    "norm_out",
    "patch_out",
)


def leave_unsummed(name: str) -> None:
    """One replicated module's gradients stay each worker's own."""
    rest = apply.replicate_the_rest

    def broken(model: nn.Module, mesh) -> None:
        style = styles.Replicated()
        style.gradient = Replicate()
        style._apply(model.get_submodule(name), mesh)
        rest(model, mesh)

    apply.replicate_the_rest = broken


def shard_nothing() -> None:
    """Gradients are not summed over cp."""
    apply._shard = lambda model, mesh, bf16: None


def average_gradients() -> None:
    FSDPModule.set_gradient_divide_factor = lambda self, factor: None


def copies_not_added() -> None:
    require = FSDPModule.set_requires_all_reduce
    FSDPModule.set_requires_all_reduce = lambda self, _required: require(self, False)


def gradients_not_added() -> None:
    """Workers that each hold the whole model step by their own samples alone; losses are still added."""
    add = World.sum_
    World.sum_ = lambda self, tensors: add(self, tensors) if len(tensors) == 1 else None


def count_every_worker() -> None:
    """Workers that share a batch's samples each add their losses."""
    add = World.sum_
    World.sum_ = lambda self, tensors: add(World(rank=self.rank, size=self.size), tensors)


def keys_of_own_tokens_only() -> None:
    context.gather = lambda x, mesh, dim: x


def keys_without_reduce_scatter() -> None:
    context.gather = collectives.join


def tokens_without_reduce_scatter() -> None:
    styles.gather = collectives.join


def outputs_not_summed() -> None:
    styles.reduce_scatter = lambda x, mesh, dim: x.chunk(mesh.size(), dim)[mesh.get_local_rank()]


def outputs_without_all_gather() -> None:
    """The sum over tp is right; its gradient reaches each worker for its own tokens only."""

    class OwnGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor, mesh, dim: int) -> Tensor:
            ctx.mesh, ctx.dim = mesh, dim
            return collectives.reduce_scatter(x.detach(), mesh, dim)

        @staticmethod
        def backward(ctx, gradient: Tensor):
            parts = [torch.zeros_like(gradient) for _ in range(ctx.mesh.size())]
            parts[ctx.mesh.get_local_rank()] = gradient
            return torch.cat(parts, ctx.dim), None, None

    styles.reduce_scatter = OwnGradient.apply


def velocity_gradient_summed() -> None:
    """Every worker takes the same loss; summing their gradients counts it once for each."""
    context.join = collectives.gather


def positions_from_zero() -> None:
    """Each worker looks its tokens up as though they were the first."""
    look_up = Positions.forward
    Positions.forward = lambda self, grid, index=None: look_up(self, grid, None if index is None else index - index[0])


def tokens_dealt_in_another_order() -> None:
    """tp cuts first and cp second, while the parts are joined the other way round."""
    begin = context.OwnTokens.__init__

    def broken(self, mesh) -> None:
        begin(self, mesh)
        self.part = mesh.tp.get_local_rank() * mesh.cp.size() + mesh.cp.get_local_rank()

    context.OwnTokens.__init__ = broken


EXCHANGES: dict[str, list[Callable[[], None]]] = {
    "cp 2": [shard_nothing, keys_of_own_tokens_only, keys_without_reduce_scatter, velocity_gradient_summed, positions_from_zero],
    "tp 2": [
        tokens_without_reduce_scatter, outputs_not_summed, outputs_without_all_gather, velocity_gradient_summed,
        positions_from_zero, count_every_worker,
    ],
    "fsdp 2": [average_gradients],
    "dp 2": [gradients_not_added],
    "replicate 2 shard 2": [copies_not_added],
    "tp 2 cp 2": [tokens_dealt_in_another_order],
}  # fmt: skip


def caught(recipe, layout: str, prepare: Callable[[], None]) -> None:
    (line,) = verify(recipe, {layout: LAYOUTS[layout]}, prepare=prepare)

    assert line.failed is None, "numbers must tell, not a crash"
    assert not line.passed
    assert max(line.loss, line.norm, line.worst[1], line.update, line.average) > 1e-4


@pytest.mark.parametrize(("layout", "broken"), [("cp 2", keys_without_reduce_scatter), ("cp 2", positions_from_zero)])
def test_a_broken_exchange_is_caught(video_recipe, layout, broken):
    caught(video_recipe, layout, broken)


def test_a_replicated_gradient_that_is_not_summed_is_caught(video_recipe):
    caught(video_recipe, "tp 2", partial(leave_unsummed, "modulation"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "broken"), [(layout, one) for layout, several in EXCHANGES.items() for one in several]
)
def test_every_broken_exchange_is_caught(video_recipe, layout, broken):
    caught(video_recipe, layout, broken)


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLICATED)
def test_every_replicated_gradient_that_is_not_summed_is_caught(video_recipe, name):
    (line,) = verify(video_recipe, {"tp 2": LAYOUTS["tp 2"]}, prepare=partial(leave_unsummed, name))

    own = [n for n in line.gradients if n.rpartition(".")[0] == name]
    assert own and min(line.gradients[n] for n in own) > 1e-4  # each of them, and no worse hidden behind another


def test_the_list_of_replicated_modules_is_whole(video_recipe):
    from models.video.transformer import VideoTransformer
    from training.parallel.table import TABLE

    laid_out = {pattern.replace("*", "0") for pattern, style in TABLE.items() if isinstance(style, styles.Replicated)}
    model = VideoTransformer(video_recipe.model)
    owners = {name.rpartition(".")[0] for name, _ in model.named_parameters() if not name.startswith("blocks.1")}
    assert owners - laid_out == set(REPLICATED)
