"""A batch of n is n batches of one, in outputs and in gradients, in float64: nothing leaks from one sample to another."""

import pytest
import torch

from models.autoencoders.tae import TAE, TAEConfig
from models.text.tokens import TextTokens
from models.video.transformer import TransformerConfig, VideoTransformer

BATCH = 3
EXACT = {"atol": 1e-11, "rtol": 1e-9}


def gradients(model, losses):
    """Of the sum of the losses; every parameter's."""
    model.zero_grad(set_to_none=True)
    for loss in losses:
        loss().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("frames", [1, 3])
def test_the_transformer_with_texts_of_different_lengths(redrawn, frames):
    """Together the texts are padded to the longest of the batch; alone each has its own length."""
    config = TransformerConfig(
        width=32, layers=2, heads=2, ffn_width=48, text_widths=(8, 6), max_frames=4, max_rows=4, max_cols=6
    )
    model = redrawn(VideoTransformer(config).double(), std=0.2)
    latents, time = torch.randn(BATCH, 16, frames, 8, 10).double(), torch.rand(BATCH).double()
    lengths = ((5, 2, 9), (1, 4, 3))
    each = [
        [TextTokens(torch.randn(1, n, w).double(), torch.ones(1, n, dtype=torch.bool)) for n in of_encoder]
        for of_encoder, w in zip(lengths, config.text_widths, strict=True)
    ]
    together = []
    for tokens in each:
        padded = [t.padded(max(t.states.shape[1] for t in tokens)) for t in tokens]
        together.append(TextTokens(torch.cat([t.states for t in padded]), torch.cat([t.mask for t in padded])))
    weights = torch.randn(latents.shape).double()

    def alone(i):
        return model(latents[i : i + 1], time[i : i + 1], [tokens[i] for tokens in each])

    whole = gradients(model, [lambda: (model(latents, time, together) * weights).sum()])
    parts = gradients(model, [lambda i=i: (alone(i)[0] * weights[i]).sum() for i in range(BATCH)])
    with torch.no_grad():
        answer = model(latents, time, together)
        torch.testing.assert_close(answer, torch.cat([alone(i) for i in range(BATCH)]), **EXACT)
    assert whole.keys() == parts.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.any() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, parts[name], **EXACT, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("frames", [1, 9])
def test_the_autoencoder(redrawn, frames):
    config = TAEConfig(channels=8, multipliers=(1, 1, 1, 2), blocks=1, latent_channels=4, groups=4, quant_convs=True)
    model = redrawn(TAE(config).double(), std=0.2)
    video = torch.rand(BATCH, 3, frames, 16, 24).double() * 2 - 1
    noise = torch.randn(BATCH, 4, -(-frames // 8), 2, 3).double()
    weights = torch.randn(video.shape).double()

    def rebuild(rows):
        posterior = model.encode_posterior(video[rows])
        return model.decode_raw(posterior.sample(noise[rows]), frames), posterior.kl()

    def loss(rows):
        rebuilt, kl = rebuild(rows)
        return (rebuilt * weights[rows]).sum() + kl.sum()

    one = [slice(i, i + 1) for i in range(BATCH)]
    whole = gradients(model, [lambda: loss(slice(None))])
    parts = gradients(model, [lambda rows=rows: loss(rows) for rows in one])
    with torch.no_grad():
        for together, alone in zip(rebuild(slice(None)), zip(*map(rebuild, one), strict=True), strict=True):
            torch.testing.assert_close(together, torch.cat(alone), **EXACT)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(
            gradient, parts[name], atol=1e-9, rtol=1e-9, msg=lambda said, name=name: f"{name}: {said}"
        )
