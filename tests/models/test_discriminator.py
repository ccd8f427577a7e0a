"""The critic: one logit a patch, pictures as still videos, and it can learn to tell."""

import pytest
import torch

from models.discriminator import DiscriminatorConfig, PatchDiscriminator

TINY = DiscriminatorConfig(width=8, layers=3, groups=4)


@pytest.mark.parametrize(("frames", "patches"), [(1, 1), (8, 2), (16, 4)])
def test_three_layers_give_a_logit_every_eight_by_eight_pixels_and_four_frames(frames, patches):
    critic = PatchDiscriminator(DiscriminatorConfig())
    assert critic(torch.zeros(2, 3, frames, 64, 48)).shape == (2, 1, patches, 8, 6)


def test_a_picture_is_judged_as_a_still_video(redrawn):
    critic = redrawn(PatchDiscriminator(TINY), std=0.2)
    picture = torch.rand(1, 3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        still = critic(picture.expand(-1, -1, 8, -1, -1))
        torch.testing.assert_close(still, critic(picture).expand_as(still), atol=1e-5, rtol=1e-4)


def test_it_sees_motion(redrawn):
    """The same pictures in another order are another video."""
    critic = redrawn(PatchDiscriminator(TINY), std=0.2)
    video = torch.rand(1, 3, 8, 32, 32)
    shuffled = video[:, :, [3, 0, 6, 1, 7, 4, 2, 5]]
    with torch.no_grad():
        assert (critic(video).mean() - critic(shuffled).mean()).abs() > 1e-4


def test_it_learns_to_tell_sharp_from_blurred():
    torch.manual_seed(0)
    critic = PatchDiscriminator(TINY)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=2e-3, betas=(0.5, 0.9))
    losses = []
    for _ in range(30):
        sharp = torch.rand(2, 3, 4, 32, 32) * 2 - 1
        blurred = torch.nn.functional.avg_pool3d(sharp, (1, 5, 5), stride=1, padding=(0, 2, 2))
        loss = torch.relu(1 - critic(sharp)).mean() + torch.relu(1 + critic(blurred)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2, abs=0.5) and losses[-1] < 0.2


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="groups=5"):
        DiscriminatorConfig(width=8, groups=5)
