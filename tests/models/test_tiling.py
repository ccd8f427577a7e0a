"""Tiles join without a seam, in time and in space, and meet as the paper counts them."""

import pytest
import torch
import torch.nn.functional as F

from models.autoencoders.linear import psnr
from models.autoencoders.tae import TAE, TAEConfig
from models.tiling import cross_fade, decode_tiled, encode_tiled, over_axis


@pytest.fixture(scope="module")
def tae() -> TAE:
    torch.manual_seed(0)
    return TAE(TAEConfig(channels=4, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=4, groups=2, attention=False))


class Repeat:
    """A decoder whose right answer is known: each latent entry shown 8 times."""

    def __init__(self):
        self.seen: list[int] = []

    def __call__(self, x):
        self.seen.append(x.shape[2])
        return x.repeat_interleave(8, dim=2)


def test_32_latents_become_256_frames_in_15_tiles():
    decode = Repeat()
    latents = torch.arange(32.0).reshape(1, 1, 32, 1, 1)
    frames = over_axis(latents, 2, tile=4, overlap=2, overlap_out=16, apply=decode)
    assert decode.seen == [4] * 15
    torch.testing.assert_close(frames, latents.repeat_interleave(8, dim=2))  # overlapping tiles agree: nothing to blend


@pytest.mark.parametrize(("length", "tiles"), [(1, [1]), (4, [4]), (5, [4, 3]), (7, [4, 4, 3])])
def test_the_last_short_tile_is_decoded_as_it_is(length, tiles):
    decode = Repeat()
    assert over_axis(torch.zeros(1, 1, length, 1, 1), 2, 4, 2, 16, decode).shape[2] == 8 * length
    assert decode.seen == tiles


def test_a_blend_starts_at_the_earlier_tile_and_ends_at_the_later():
    earlier, later = torch.zeros(1, 1, 16, 1, 1), torch.ones(1, 1, 16, 1, 1)
    blend = cross_fade(earlier, later, dim=2).flatten()
    assert blend[0] == 0.5 / 16 and blend[-1] == 1 - 0.5 / 16
    assert (blend.diff() > 0).all()


def test_tiles_that_disagree_are_faded_from_one_to_the_next():
    calls = iter(range(10))
    frames = over_axis(
        torch.zeros(1, 1, 8, 1, 1), 2, 4, 2, 16, lambda x: torch.full((1, 1, 8 * x.shape[2], 1, 1), float(next(calls)))
    ).flatten()
    assert frames[:16].eq(0).all() and frames[-16:].eq(2).all()
    assert frames[16] < 0.05 and frames[31] > 0.95  # first overlap frame: earlier tile; last: later tile
    assert (frames.diff() >= 0).all()


def test_up_to_one_tile_tiled_and_whole_are_the_same(tae):
    video = torch.rand(1, 3, 32, 16, 16) * 2 - 1
    with torch.no_grad():
        whole = tae.encode(video)
        assert torch.equal(encode_tiled(tae, video), whole)
        assert torch.equal(decode_tiled(tae, whole, 32), tae.decode(whole, 32))


def test_constant_latents_decode_to_the_same_frames_in_tiles(tae, redrawn):
    """Also with trained temporal layers: in a still video a tile's border looks like its middle."""
    redrawn(tae, std=0.2)
    latents = torch.randn(1, 4, 1, 3, 3).expand(-1, -1, 9, -1, -1).contiguous()
    with torch.no_grad():
        torch.testing.assert_close(decode_tiled(tae, latents, 70), tae.decode(latents, 70), atol=1e-4, rtol=1e-4)


def test_tiles_of_space_cover_the_frame_and_agree_away_from_their_borders():
    torch.manual_seed(0)
    config = TAEConfig(channels=4, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=4, groups=2, attention=False)
    tae = TAE(config)
    video = torch.rand(1, 3, 9, 64, 104) * 2 - 1
    with torch.no_grad():
        latents = encode_tiled(tae, video, tile_pixels=48, overlap_pixels=16)
        assert latents.shape == tae.encode(video).shape
        assert decode_tiled(tae, latents, 9, tile_pixels=48, overlap_pixels=16).shape == video.shape
        grey = torch.zeros(1, 3, 8, 64, 104)
        assert encode_tiled(tae, grey, tile_pixels=104, overlap_pixels=16).shape == (1, 4, 1, 8, 13)
    with pytest.raises(ValueError, match="multiples of 8"):
        encode_tiled(tae, video, tile_pixels=50)


def test_spatial_seams_are_faded_in_both_directions():
    ramp = (torch.arange(10.0)[:, None] * 10 + torch.arange(12.0)).reshape(1, 1, 1, 10, 12)

    def columns(x):
        return over_axis(x, 4, 5, 2, 2, lambda y: y)

    torch.testing.assert_close(over_axis(ramp, 3, 4, 1, 1, columns), ramp)


def drifting(frames, side, generator):
    """A soft coloured texture that moves by a pixel or two a frame, [1, 3, frames, side, side]."""
    coarse = torch.randn(1, 3, side // 4, side // 4, generator=generator)
    texture = F.interpolate(coarse, scale_factor=4.0, mode="bilinear", align_corners=False).clamp(-2, 2) / 2
    step = 1 + int(torch.randint(2, (1,), generator=generator))
    return torch.stack([texture.roll((step * t, t), (2, 3)) for t in range(frames)], dim=2)


@pytest.fixture(scope="module")
def trained() -> TAE:
    """A few seconds of training: temporal taps that have left the identity, on video that moves."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    tae = TAE(TAEConfig(channels=16, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=8, groups=4, patch=4))
    optimizer = torch.optim.AdamW(tae.parameters(), lr=3e-3)
    for _ in range(60):
        video = drifting(16, 32, generator)
        loss = (tae.decode_raw(tae.encode_posterior(video).mean) - video).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with (
        torch.no_grad()
    ):  # stirred until frames mix as in a TAE trained on real clips: 57 and 48 dB here, 51 and 46 there
        for name, parameter in tae.named_parameters():
            if "temporal" in name:
                parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    return tae.eval()


def test_tiles_of_time_keep_their_contract_of_40_db(trained):
    video = drifting(100, 32, torch.Generator().manual_seed(1))
    with torch.no_grad():
        latents = trained.encode(video)
        whole = trained.decode(latents, 100)
        decoded = decode_tiled(trained, latents, 100)
        both = decode_tiled(trained, encode_tiled(trained, video), 100)
        butted = over_axis(latents, 2, 4, 0, 0, trained.decode)[:, :, :100]
    assert not torch.equal(whole, decoded), "the taps are still the identity, and nothing was tested"
    assert psnr(whole, decoded) > 40 and psnr(whole, both) > 40
    assert psnr(whole, decoded) > psnr(whole, butted) + 5  # the overlap is worth 7 dB, and faded the wrong way nothing
    assert abs(psnr(video, whole) - psnr(video, both)) < 0.1


def test_tiles_of_space_keep_their_contract_of_20_db(trained):
    video = drifting(8, 128, torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = trained.decode(trained.encode(video), 8)
        latents = encode_tiled(trained, video, tile_pixels=64, overlap_pixels=32)
        assert psnr(whole, decode_tiled(trained, latents, 8, tile_pixels=64, overlap_pixels=32)) > 20
