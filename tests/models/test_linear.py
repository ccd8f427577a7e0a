"""The linear baseline is the best linear map, and PSNR is PSNR."""

import pytest
import torch

from models.autoencoders.linear import LinearCodec, psnr


def test_what_lies_in_sixteen_dimensions_comes_back_whole():
    mix = torch.linalg.qr(torch.randn(1536, 12)).Q
    patches = torch.randn(300, 12) @ mix.T + 0.3
    clips = patches.reshape(3, 10, 10, 3, 8, 8, 8).permute(0, 3, 4, 1, 5, 2, 6).reshape(3, 3, 8, 80, 80)
    codec = LinearCodec.fit(clips)
    latents = codec.encode(clips)
    assert latents.shape == (3, 16, 1, 10, 10)
    torch.testing.assert_close(codec.decode(latents), clips, atol=1e-3, rtol=1e-3)


def test_no_other_basis_does_better():
    clips = torch.randn(4, 3, 16, 32, 32).cumsum(3).cumsum(4)
    clips = clips / clips.abs().amax()
    codec = LinearCodec.fit([clips[0], clips[1:]])
    assert torch.allclose(codec.basis @ codec.basis.T, torch.eye(16), atol=1e-5)
    error = (codec.decode(codec.encode(clips)) - clips).square().mean()
    turned = LinearCodec(codec.mean, torch.linalg.qr(codec.basis.T + 0.01 * torch.randn(1536, 16)).Q.T)
    assert error < (turned.decode(turned.encode(clips)) - clips).square().mean()


def test_lengths_that_do_not_fill_a_patch_are_cut_back():
    clip = torch.rand(1, 3, 9, 16, 16)
    codec = LinearCodec.fit(clip)
    assert codec.encode(clip).shape == (1, 16, 2, 2, 2)
    assert codec.decode(codec.encode(clip), 9).shape == clip.shape
    with pytest.raises(ValueError, match="at least one"):
        LinearCodec.fit([])


def test_psnr_counts_in_the_range_of_two():
    video = torch.zeros(2, 3, 4, 8, 8)
    off = torch.stack([video[0] + 0.02, video[1] + 0.2])
    torch.testing.assert_close(psnr(video, off), torch.tensor([40.0, 20.0]), atol=1e-3, rtol=0)
