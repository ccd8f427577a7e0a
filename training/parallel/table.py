"""The transformer's tensor-parallel plan: module name -> style. What is not named here is replicated."""

from torch.distributed.tensor.parallel import ParallelStyle

from training.parallel.styles import Column, Row, WholeInput

TABLE: dict[str, ParallelStyle] = {
    "blocks.*.self_attention": WholeInput(),
    "blocks.*.self_attention.to_q": Column(),
    "blocks.*.self_attention.to_k": Column(),
    "blocks.*.self_attention.to_v": Column(),
    "blocks.*.self_attention.to_out": Row(),
    "blocks.*.cross_attention": WholeInput(second_is_text=True),
    "blocks.*.cross_attention.to_q": Column(),
    "blocks.*.cross_attention.to_k": Column(),
    "blocks.*.cross_attention.to_v": Column(),
    "blocks.*.cross_attention.to_out": Row(),
    "blocks.*.feed_forward": WholeInput(),
    "blocks.*.feed_forward.gate": Column(),
    "blocks.*.feed_forward.up": Column(),
    "blocks.*.feed_forward.down": Row(),
}
