"""Closed forms against counting."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models import accounting
from models.attention import use_backend
from models.text.tokens import TextTokens
from models.video.transformer import SIZES, TransformerConfig, VideoTransformer


def test_tokens_of_the_papers_clips():
    assert accounting.tokens(SIZES["30b"], 256, 768, 768) == 73_728
    assert accounting.tokens(SIZES["30b"], 256, 576, 1024) == 73_728
    assert accounting.tokens(SIZES["30b"], 256, 256, 256) == 8_192
    assert accounting.tokens(SIZES["30b"], 1, 256, 256) == 256
    with pytest.raises(ValueError, match="multiples of 16"):
        accounting.tokens(SIZES["30b"], 256, 360, 640)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("latent", [(4, 16, 16), (1, 16, 16), (3, 6, 10)], ids=["video", "image", "oblong"])
@pytest.mark.parametrize(("widths", "lengths"), [((24, 16), (11, 7)), ((24,), (5,)), ((8, 12, 20), (40, 1, 3))])
def test_flops_agree_with_the_counter_within_one_percent(batch, latent, widths, lengths):
    """Under the math kernel: the counter sees no attention at all in the CPU's fused one."""
    config = TransformerConfig(width=64, layers=2, heads=4, ffn_width=160, text_widths=widths, max_rows=8, max_cols=8)
    model = VideoTransformer(config)
    shapes = [(batch, length, width) for length, width in zip(lengths, widths, strict=True)]
    text = [TextTokens(torch.randn(shape), torch.ones(shape[:2], dtype=torch.bool)) for shape in shapes]
    tokens = latent[0] * latent[1] * latent[2] // 4
    with use_backend("math"), FlopCounterMode(display=False) as counter:
        velocity = model(torch.randn(batch, 16, *latent), torch.rand(batch), text)
        forward = counter.get_total_flops()
        velocity.sum().backward()
    backward = counter.get_total_flops() - forward
    assert accounting.flops(config, tokens, lengths, batch) == pytest.approx(forward, rel=0.01)
    assert accounting.backward_flops(config, tokens, lengths, batch) == pytest.approx(backward, rel=0.01)


def test_the_attention_share_is_what_the_counter_sees_in_the_kernels():
    config = TransformerConfig(width=64, layers=3, heads=4, ffn_width=160, text_widths=(24,), max_rows=8, max_cols=8)
    model, text = VideoTransformer(config), TextTokens(torch.randn(1, 9, 24), torch.ones(1, 9, dtype=torch.bool))
    with use_backend("math"), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 16, 4, 16, 16), torch.rand(1), [text])
    kernels = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    assert accounting.attention_flops(config, 256, 9) == kernels


@pytest.mark.parametrize("size", ["1b", "5b", "9b", "17b", "30b"])
def test_flops_of_the_papers_sizes_agree_on_meta(size):
    """256 frames of 256 px, one forward pass that computes nothing."""
    config, lengths = SIZES[size], (512, 256, 100)
    with torch.device("meta"):
        model = VideoTransformer(config)
        masks = [torch.empty(1, length, dtype=torch.bool) for length in lengths]
        states = [torch.empty(*m.shape, w) for m, w in zip(masks, config.text_widths, strict=True)]
        latents, time = torch.empty(1, 16, 32, 32, 32), torch.empty(1)
    with use_backend("math"), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(latents, time, [TextTokens(s, m) for s, m in zip(states, masks, strict=True)])
    assert accounting.flops(config, 8_192, lengths) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_papers_estimate_per_sample():
    """1.7e15 for a 256 px video and 3.2e16 at 768 px, one training step (forward and backward)."""
    low = 3 * accounting.flops(SIZES["30b"], 8_192, (256, 256, 100))
    high = 3 * accounting.flops(SIZES["30b"], 73_728, (256, 256, 100))
    assert low == pytest.approx(1.7e15, rel=0.15)
    assert high == pytest.approx(3.2e16, rel=0.15)


def test_text_lengths_must_match_the_encoders():
    with pytest.raises(ValueError, match="1 text lengths for 3"):
        accounting.flops(SIZES["30b"], 8_192, 256)
