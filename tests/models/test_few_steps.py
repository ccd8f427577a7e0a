"""Fifty linear-quadratic steps against a thousand linear ones: on a flow known in closed form and on a trained model.

The paper says the results are indistinguishable. Here they lie within 30 dB; no more is claimed, and plain linear steps
are no worse on such small problems.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from models import flow
from models.sampler import linear_quadratic_schedule, linear_schedule, sample
from models.text.tokens import TextTokens
from models.video.transformer import TransformerConfig, VideoTransformer

CENTRES = torch.tensor([[-2.0, 0.0], [1.0, 1.5], [1.5, -1.0]]).double()
SPREAD = 0.15  # of each centre's Gaussian


def exact_velocity(x, time, condition=None):
    """E[X_1 - (1 - s_min) X_0 | X_t = x] for data from three equally likely Gaussians."""
    t = time[:, None, None]
    sigma = 1 - (1 - flow.S_MIN) * t
    variance = t.square() * SPREAD**2 + sigma.square()
    offset = x[:, None] - t * CENTRES  # [B, 3, 2]
    weights = (-offset.square().sum(-1) / (2 * variance[..., 0])).softmax(-1)
    data = CENTRES + t * SPREAD**2 / variance * offset
    noise = sigma / variance * offset
    return (weights[..., None] * (data - (1 - flow.S_MIN) * noise)).sum(1)


def decibels(reference, other):
    """Of the reference's range against the root mean square difference."""
    return 20 * math.log10(float((reference.amax() - reference.amin()) / (reference - other).square().mean().sqrt()))


def test_on_a_flow_known_in_closed_form():
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)).double()
    many = sample(exact_velocity, noise, linear_schedule(1000))
    few = {
        "linear-quadratic": sample(exact_velocity, noise, linear_quadratic_schedule(50)),
        "linear": sample(exact_velocity, noise, linear_schedule(50)),
    }
    found = {name: decibels(many, x) for name, x in few.items()}

    nearest = (many[:, None] - CENTRES).norm(dim=-1).amin(1)
    assert nearest.square().mean().sqrt().item() == pytest.approx(SPREAD * 2**0.5, rel=0.05), (
        "the flow ends at the data"
    )
    assert found["linear-quadratic"] > 30
    same = (many[:, None] - CENTRES).norm(dim=-1).argmin(1) == (few["linear-quadratic"][:, None] - CENTRES).norm(
        dim=-1
    ).argmin(1)
    assert same.double().mean() > 0.99


@pytest.fixture(scope="module")
def trained():
    """A transformer that has learnt four smooth latent clips by their texts, in a few seconds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = TransformerConfig(
        latent_channels=4,
        width=64,
        layers=2,
        heads=4,
        ffn_width=160,
        text_widths=(8,),
        max_frames=2,
        max_rows=4,
        max_cols=4,
    )
    model = VideoTransformer(config)
    data = F.interpolate(torch.randn(4, 4, 2, 2, 2), size=(2, 8, 8), mode="trilinear", align_corners=False)
    data = (data - data.mean()) / data.std()
    text = TextTokens(torch.randn(4, 3, 8), torch.ones(4, 3, dtype=torch.bool))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(250):
        rows = torch.arange(4).repeat(4)
        noise, time = torch.randn(16, *data.shape[1:]), flow.sample_times(torch.rand(16))
        read = TextTokens(text.states[rows], text.mask[rows])
        velocity = model(flow.interpolate(noise, data[rows], time), time, [read])
        loss = (velocity - flow.velocity_target(noise, data[rows])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), data, text, sum(losses[-20:]) / 20 / losses[0]


def test_on_a_trained_model(trained):
    model, data, text, share = trained
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(1))
    times = {"many": linear_schedule(1000), "few": linear_quadratic_schedule(50), "linear": linear_schedule(50)}
    made = {name: sample(lambda x, t, c: model(x, t, [c]), noise, steps, text) for name, steps in times.items()}
    found = {name: decibels(made["many"], made[name]) for name in ("few", "linear")}

    assert share < 0.3, "nothing was learnt"
    assert decibels(data, made["many"]) > 20, "the samples are not the clips of their texts"
    assert found["few"] > 30
    assert abs(decibels(data, made["few"]) - decibels(data, made["many"])) < 1.5
