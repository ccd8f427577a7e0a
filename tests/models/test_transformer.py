"""The video transformer: its sizes, its zero start, its masks, its norms."""

import pytest
import torch

from models import accounting
from models.attention import attend
from models.layers import RMSNorm, TimeEmbedding
from models.text.tokens import TextTokens, stack
from models.video.transformer import SIZES, TransformerConfig, VideoTransformer

TINY = TransformerConfig(
    width=32, layers=2, heads=2, ffn_width=48, text_widths=(8, 6), max_frames=4, max_rows=4, max_cols=6
)


@pytest.fixture
def model(redrawn):
    return redrawn(VideoTransformer(TINY), std=0.2)


@pytest.fixture
def inputs():
    text = [
        TextTokens(torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()),
        TextTokens(torch.randn(2, 3, 6), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()),
    ]
    return torch.randn(2, 16, 3, 8, 10), torch.rand(2), text


@pytest.mark.parametrize(("size", "billions"), [("1b", 0.93), ("5b", 4.95), ("9b", 8.9), ("17b", 17.3), ("30b", 29.2)])
def test_every_size_builds_on_meta_and_counts_as_the_closed_form(size, billions):
    with torch.device("meta"):
        model = VideoTransformer(SIZES[size])
    count = sum(p.numel() for p in model.parameters())
    assert count == accounting.parameters(SIZES[size])
    assert count == pytest.approx(billions * 1e9, rel=0.03)
    if size == "30b":
        assert abs(count - 29.2e9) <= 0.3e9
        with torch.device("meta"):  # the whole forward pass, too, runs without memory
            masks = [torch.empty(1, length, dtype=torch.bool) for length in (256, 256, 100)]
            widths = SIZES[size].text_widths
            text = [TextTokens(torch.empty(*m.shape, w), m) for m, w in zip(masks, widths, strict=True)]
            latents = torch.empty(1, 16, 32, 96, 96)
            assert model(latents, torch.empty(1), text).shape == latents.shape


def test_the_demo_size_is_small():
    count = sum(p.numel() for p in VideoTransformer(SIZES["demo"]).parameters())
    assert count == accounting.parameters(SIZES["demo"])
    assert 2e6 < count < 6e6


def test_its_first_answer_is_zero_velocity_and_its_last_layer_learns(inputs):
    model = VideoTransformer(TINY)
    velocity = model(*inputs)
    assert velocity.shape == inputs[0].shape and not velocity.any()
    (velocity - 1).square().mean().backward()
    assert model.patch_out.weight.grad.any()


def test_every_parameter_gets_a_gradient_once_nothing_is_zero(model, inputs):
    model(*inputs).square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_no_linear_layer_has_a_bias_and_one_mlp_modulates_all_layers(model):
    assert not [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m.bias is not None]
    modulating = [name for name, p in model.named_parameters() if p.shape == (6 * TINY.width, TINY.width)]
    assert modulating == ["modulation.weight"]


def test_padding_of_the_text_is_never_read(model, inputs):
    latents, time, text = inputs
    garbage = [TextTokens(t.states + 100 * torch.randn_like(t.states) * ~t.mask[..., None], t.mask) for t in text]
    longer = [t.padded(9) for t in text]
    with torch.no_grad():
        answer = model(latents, time, text)
        torch.testing.assert_close(model(latents, time, garbage), answer)
        torch.testing.assert_close(model(latents, time, longer), answer, atol=1e-5, rtol=1e-5)
        other = [TextTokens(t.states + t.mask[..., None], t.mask) for t in text]
        assert (model(latents, time, other) - answer).abs().max() > 1e-3  # what is not padding is


def test_attention_looks_both_ways(model, inputs):
    latents, time, text = inputs
    changed = latents.clone()
    changed[:, :, -1] += 1
    with torch.no_grad():
        difference = (model(changed, time, text) - model(latents, time, text)).abs()
    assert difference[:, :, 0].max() > 1e-4


def test_time_changes_the_answer(model, inputs):
    latents, time, text = inputs
    with torch.no_grad():
        assert (model(latents, 1 - time, text) - model(latents, time, text)).abs().max() > 1e-3


def test_queries_and_keys_are_normed_per_head(model, inputs):
    seen = {}
    attention = model.blocks[0].self_attention

    def kernel(q, k, v, mask):
        seen.update(q=q, k=k)
        return attend(q, k, v, mask)

    attention.norm_q.weight.data.fill_(1.0)
    attention.kernel = kernel
    with torch.no_grad():
        model(*inputs)
    rms = seen["q"].square().mean(-1).sqrt()
    torch.testing.assert_close(rms, torch.ones_like(rms), atol=1e-3, rtol=0)
    assert attention.norm_q.weight.shape == (TINY.width // TINY.heads,)


def test_a_patch_is_two_by_two_and_folds_back(model):
    latents = torch.randn(1, 16, 2, 4, 6)
    tokens = model.patchify(latents)
    assert tokens.shape == (1, 2 * 2 * 3, 16 * 4)
    assert torch.equal(model.unpatchify(tokens, (2, 2, 3)), latents)
    conv = torch.nn.functional.conv3d(latents, model.patch_in.weight.reshape(-1, 16, 1, 2, 2), stride=(1, 2, 2))
    torch.testing.assert_close(model.patch_in(tokens), conv.flatten(2).mT, atol=1e-5, rtol=1e-5)


def test_norms_compute_in_at_least_float32():
    norm = RMSNorm(64)
    x = torch.randn(4, 64).bfloat16()
    exact = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-6)
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x), exact.bfloat16())
    assert norm(x.double()).dtype == torch.float64


def test_the_time_embedding_stays_in_float32_under_autocast():
    embed = TimeEmbedding(16)
    near = torch.tensor([0.5, 0.5001])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = embed(near)
    assert out.dtype == torch.float32 and not torch.equal(out[0], out[1])


def test_mistakes_are_named(model, inputs):
    latents, time, text = inputs
    with pytest.raises(ValueError, match="1 text encodings for a model built for 2"):
        model(latents, time, text[:1])
    with pytest.raises(ValueError, match="encoder 0 gives 6 numbers a token; the model was built for 8"):
        model(latents, time, text[::-1])
    with pytest.raises(ValueError, match="multiple of 16 px"):
        model(latents[..., :9], time, text)
    with pytest.raises(ValueError, match="heads=3"):
        TransformerConfig(width=32, heads=3)
    with pytest.raises(ValueError, match="do not belong"):
        TextTokens(torch.zeros(1, 2, 3), torch.zeros(1, 2))


def test_batches_of_tokens_stack_to_the_longest():
    short = TextTokens(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))
    long = TextTokens(torch.ones(2, 4, 3), torch.ones(2, 4, dtype=torch.bool))
    both = stack([short, long])
    assert both.states.shape == (3, 4, 3) and both.mask.sum(1).tolist() == [2, 4, 4]


def test_it_compiles_whole(model, inputs):
    """fullgraph: no break anywhere; the eager back end shows it without the minutes of code generation."""
    torch._dynamo.reset()
    latents, time, text = inputs
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")(latents, time, text)
        torch.testing.assert_close(compiled, model(latents, time, text))
