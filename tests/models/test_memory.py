"""Closed forms of activation memory against what autograd really keeps."""

import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from models.memory import RECOMPUTE, activations
from models.text.tokens import TextTokens
from models.video.transformer import SIZES, TransformerConfig, VideoTransformer

CONFIG = TransformerConfig(width=128, layers=3, heads=4, ffn_width=352, text_widths=(24, 16), max_rows=16, max_cols=16)
LENGTHS, BATCH, LATENT = (11, 7), 2, (4, 16, 16)
TOKENS = 4 * 8 * 8
SAVED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default}
BYTES = {torch.float32: 4, torch.bfloat16: 2}


def loss_of(model, dtype):
    text = [
        TextTokens(torch.randn(BATCH, length, w, dtype=dtype), torch.ones(BATCH, length, dtype=torch.bool))
        for length, w in zip(LENGTHS, model.config.text_widths, strict=True)
    ]
    latents, time = torch.randn(BATCH, 16, *LATENT, dtype=dtype), torch.rand(BATCH, dtype=dtype)
    return model(latents, time, text).float().square().flatten(1).mean(1).sum()


def built(config, dtype, recompute):
    """A transformer whose blocks run through torch's own checkpointing."""
    model = VideoTransformer(config).to(dtype)
    kept = partial(
        create_selective_checkpoint_contexts,
        lambda _, op, *args, **more: CheckpointPolicy.MUST_SAVE if op in SAVED else CheckpointPolicy.PREFER_RECOMPUTE,
    )
    how = {"use_reentrant": False} | ({"context_fn": kept} if recompute == "save-attention" else {})
    if recompute != "none":
        for block in model.blocks:
            block.forward = partial(checkpoint, block.forward, **how)
    return model


def storages(tensors):
    return {tensor.untyped_storage()._cdata for tensor in tensors}


class Live(TorchDispatchMode):
    """Bytes of the storages that operations made and somebody still holds: now, and at most. Parameters not counted."""

    def __init__(self, model):
        super().__init__()
        self.apart = storages([*model.parameters(), *(p.grad for p in model.parameters())])
        self.bytes: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage):
        key = storage._cdata
        if key not in self.bytes and key not in self.apart:
            self.bytes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key):
        self.now -= self.bytes.pop(key)


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize(("recompute", "within"), [("none", 0.01), ("full", 0.06)])
def test_what_autograd_saves_is_the_closed_form(dtype, recompute, within):
    """Distinct storages handed to autograd in the forward pass. Left out of the form: time and modulation, [B, D] each."""
    model = built(CONFIG, dtype, recompute)
    own, saved = storages(model.parameters()), {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, dtype)
    closed = activations(CONFIG, TOKENS, LENGTHS, batch=BATCH, recompute=recompute, element_bytes=BYTES[dtype])
    assert loss.isfinite() and closed.kept == pytest.approx(sum(saved.values()), rel=within)


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_what_a_step_holds_is_the_closed_form(dtype, recompute):
    """Every storage alive after the forward pass, and the most there are until the end of the backward pass."""
    model = built(CONFIG, dtype, recompute)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with Live(model) as live:
        loss = loss_of(model, dtype)
        kept = live.now
        loss.backward()
    closed = activations(CONFIG, TOKENS, LENGTHS, batch=BATCH, recompute=recompute, element_bytes=BYTES[dtype])
    assert closed.kept == pytest.approx(kept, rel=0.02 if recompute == "none" else 0.08)
    assert 0.98 * live.most < closed.peak < 1.20 * live.most, "the gradients in passing are an upper estimate"


def test_each_recomputation_holds_less_than_the_one_before():
    kept = [activations(SIZES["30b"], 73_728, (128, 128, 128), recompute=mode) for mode in RECOMPUTE]
    assert (
        kept[0].kept > 10 * kept[1].kept and kept[1].kept > kept[2].kept and kept[0].peak > kept[1].peak > kept[2].peak
    )
    saved = (kept[1].kept - kept[2].kept) / 48 / 2  # one attention output of one layer
    assert saved == pytest.approx(0.84 * 2**30 + 14e6, rel=0.01), "bf16 output and float32 log-sum-exp of 48 heads"


def test_devices_share_tokens_and_heads():
    def peak(**split):
        return activations(SIZES["30b"], 73_728, (128, 128, 128), recompute="full", **split).peak

    whole = peak()
    assert whole / 2 < peak(tp=2) < 0.6 * whole and whole / 2 < peak(cp=2) < 0.6 * whole, "gathered parts do not shrink"
    assert peak(tp=4) < peak(tp=2) and peak(tp=4, cp=2) < peak(tp=4)
    assert peak(batch=2) == 2 * whole


def test_text_lengths_must_match_the_encoders():
    with pytest.raises(ValueError, match="1 text lengths for 2"):
        activations(replace(CONFIG, layers=1), TOKENS, 12)
