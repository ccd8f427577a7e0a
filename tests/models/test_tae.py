"""The temporal autoencoder: lengths, norms that see one frame, gradients everywhere, scaled latents."""

import pytest
import torch
from torch import nn

from models.autoencoders.layers import Conv, TemporalConv
from models.autoencoders.tae import SIZES, TAE, Posterior, TAEConfig

TINY = TAEConfig(channels=8, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=4, groups=4)


@pytest.fixture(scope="module")
def tae() -> TAE:
    torch.manual_seed(0)
    return TAE(TINY)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (7, 1), (8, 1), (9, 2), (33, 5)])
def test_any_length_encodes_and_comes_back(tae, frames, latents):
    video = torch.rand(2, 3, frames, 16, 24) * 2 - 1
    with torch.no_grad():
        posterior = tae.encode_posterior(video)
        assert posterior.mean.shape == posterior.logvar.shape == (2, 4, latents, 2, 3)
        assert tae.decode_raw(posterior.mean, frames).shape == video.shape
        assert tae.decode_raw(posterior.mean).shape[2] == 8 * latents


@pytest.mark.parametrize("size", SIZES)
def test_every_named_size_compresses_eight_times_each_way(size):
    with torch.device("meta"):
        tae, video = TAE(SIZES[size]), torch.empty(1, 3, 16, 64, 96)
        latents = tae.encode(video)
        assert latents.shape == (1, 16, 2, 8, 12)
        assert tae.decode(latents, 16).shape == video.shape


def test_a_temporal_convolution_follows_every_spatial_one_and_three_steps_halve_time():
    with torch.device("meta"):
        tae = TAE(SIZES["moviegen"])
    assert all(conv.temporal is not None for conv in tae.modules() if isinstance(conv, Conv))
    times = [conv.time for conv in tae.modules() if isinstance(conv, TemporalConv)]
    assert times.count("halve") == times.count("double") == 3
    assert len(tae.encoder.mid_block.temporal_attentions) == len(tae.decoder.mid_block.temporal_attentions) == 1


def test_group_norm_sees_one_frame(tae):
    """A norm over the whole clip would let frame 1 change what frame 0 looks like."""
    video = torch.rand(1, 3, 2, 16, 16)
    other = video.clone()
    other[:, :, 1] = 5 * torch.rand(1, 3, 16, 16)
    inputs: list[torch.Tensor] = []
    norm = tae.encoder.down_blocks[0].resnets[0].norm1
    handle = norm.register_forward_hook(lambda module, args, output: inputs.append(output))
    with torch.no_grad():
        tae.encode(video)
        tae.encode(other)
    handle.remove()
    assert torch.equal(inputs[0][0], inputs[1][0])
    assert not torch.equal(inputs[0][1], inputs[1][1])


def test_time_is_padded_by_its_border_frames_alike_on_both_sides(redrawn):
    conv = redrawn(TemporalConv(4))
    still = torch.randn(1, 4, 3, 3).expand(6, -1, -1, -1)
    out = conv(still, 1)
    torch.testing.assert_close(out, out[:1].expand_as(out))  # zero padding would darken the ends

    moving = torch.randn(6, 4, 3, 3)
    mirrored = TemporalConv(4)
    with torch.no_grad():
        mirrored.weight.copy_(conv.weight.flip(-1))
        mirrored.bias.copy_(conv.bias)
    torch.testing.assert_close(conv(moving, 1), mirrored(moving.flip(0), 1).flip(0))  # non-causal


def test_temporal_layers_keep_the_videos_of_a_batch_apart(redrawn):
    tae = redrawn(TAE(TINY))
    videos = torch.rand(2, 3, 16, 16, 16)
    with torch.no_grad():
        together = tae.encode(videos)
        alone = torch.cat([tae.encode(video[None]) for video in videos])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_every_parameter_of_the_demo_size_learns(redrawn):
    tae = redrawn(TAE(SIZES["demo"]), std=0.05)
    video = torch.rand(1, 3, 16, 32, 32)
    posterior = tae.encode_posterior(video)
    decoded = tae.decode_raw(posterior.sample(torch.randn_like(posterior.mean)), 16)
    (decoded.square().mean() + posterior.kl().mean()).backward()
    idle = [name for name, p in tae.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in idle if "to_k.bias" not in name]  # softmax ignores a shift of all keys


def test_latents_are_normalised_on_the_way_out_and_restored_on_the_way_in(tae):
    scaled = TAE(TINY)
    scaled.load_state_dict(tae.state_dict())
    video = torch.rand(2, 3, 8, 16, 16) * 2 - 1
    with torch.no_grad():
        raw = tae.encode_posterior(video).mean
        scaled.set_latent_statistics(raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4)))
        latents = scaled.encode(video)
        torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(scaled.decode(latents, 8), tae.decode_raw(raw, 8), atol=1e-4, rtol=1e-4)


def test_the_posterior_samples_and_pays_for_its_distance_from_the_unit_gaussian():
    mean, logvar = torch.full((1, 1, 1, 100, 100), 2.0), torch.full((1, 1, 1, 100, 100), -1.0)
    posterior = Posterior(mean, logvar)
    drawn = posterior.sample(torch.randn_like(mean))
    assert abs(drawn.mean() - 2.0) < 0.05 and abs(drawn.var() - torch.tensor(-1.0).exp()) < 0.02
    assert Posterior(torch.zeros(1), torch.zeros(1)).kl() == 0
    torch.testing.assert_close(posterior.kl().mean(), torch.tensor(0.5 * (4 + 0.36788 - 1 + 1)), atol=1e-4, rtol=0)


def test_wrong_shapes_and_sizes_are_refused_with_the_way_out(tae):
    with pytest.raises(ValueError, match="multiples of 8"):
        tae.encode(torch.zeros(1, 3, 8, 20, 16))
    with pytest.raises(ValueError, match="9 to 16 frames, not 17"):
        tae.decode_raw(torch.zeros(1, 4, 2, 2, 2), 17)
    with pytest.raises(ValueError, match="groups="):
        TAEConfig(channels=30)
    with pytest.raises(ValueError, match="levels"):
        TAEConfig(multipliers=(1, 2))
    with pytest.raises(ValueError, match="patch=3"):
        TAEConfig(patch=3)
    with pytest.raises(ValueError, match="latent_mean"):
        TAEConfig(latent_mean=(0.0,))


def test_no_norm_pools_over_time():
    with torch.device("meta"):
        tae = TAE(SIZES["moviegen"])
    assert not [m for m in tae.modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm))]


def test_videos_in_channels_last_go_in_and_out_without_a_copy(redrawn):
    """Inside, frames are channels-last pictures: of a channels_last_3d video they are a view."""
    tae = redrawn(TAE(TINY))
    video = torch.rand(2, 3, 9, 16, 24).to(memory_format=torch.channels_last_3d)
    frames = video.movedim(1, 2).flatten(0, 1)
    assert frames.data_ptr() == video.data_ptr() and frames.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        latents = tae.encode(video)
        assert torch.equal(latents, tae.encode(video.contiguous()))
        assert tae.decode(latents).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("frames", [1, 9])
def test_it_compiles_whole(tae, frames):
    """fullgraph: no break anywhere; the eager back end shows it without the minutes of code generation."""
    torch._dynamo.reset()
    video = torch.rand(1, 3, frames, 16, 16)
    with torch.no_grad():
        latents = torch.compile(tae.encode, fullgraph=True, backend="eager")(video)
        torch.testing.assert_close(latents, tae.encode(video))
        decoded = torch.compile(tae.decode, fullgraph=True, backend="eager")(latents, frames)
        torch.testing.assert_close(decoded, tae.decode(latents, frames))
