"""The paper's numbers, on the meta device: every size, the tokens of its clips, the shapes between its models."""

import pytest
import torch

from models import accounting
from models.autoencoders.tae import SIZES as TAE_SIZES
from models.autoencoders.tae import TAE
from models.sampler import linear_quadratic_schedule
from models.text.tokens import TextTokens
from models.video.transformer import SIZES, VideoTransformer

PARAMETERS = {  # docs/models.md
    "1b": 934_291_968,
    "5b": 4_921_732_096,
    "9b": 8_772_702_208,
    "17b": 17_105_658_880,
    "30b": 29_303_814_144,
}
CLIPS = [  # frames, height, width, latent [T, H, W], tokens
    (1, 256, 256, (1, 32, 32), 256),
    (256, 256, 256, (32, 32, 32), 8_192),
    (256, 192, 352, (32, 24, 44), 8_448),
    (256, 768, 768, (32, 96, 96), 73_728),
    (256, 576, 1024, (32, 72, 128), 73_728),
    (192, 768, 768, (24, 96, 96), 55_296),
    (128, 768, 768, (16, 96, 96), 36_864),
]


@pytest.mark.parametrize("size", PARAMETERS)
def test_every_size_has_its_number_of_parameters_and_answers_in_the_latents_shape(size):
    config = SIZES[size]
    with torch.device("meta"):
        model = VideoTransformer(config)
        latents, time = torch.empty(2, 16, 32, 32, 32), torch.empty(2)
        masks = [torch.empty(2, length, dtype=torch.bool) for length in (512, 256, 100)]
        text = [TextTokens(torch.empty(*m.shape, w), m) for m, w in zip(masks, config.text_widths, strict=True)]
        velocity = model(latents, time, text)

    assert sum(p.numel() for p in model.parameters()) == accounting.parameters(config) == PARAMETERS[size]
    assert velocity.shape == latents.shape
    assert model.patchify(latents).shape == (2, 8_192, 16 * 4)
    assert config.text_widths == (4096, 1280, 1472)  # UL2, MetaCLIP, ByT5


@pytest.mark.parametrize(("frames", "height", "width", "latent", "tokens"), CLIPS)
def test_clips_have_the_papers_latents_and_tokens(frames, height, width, latent, tokens):
    with torch.device("meta"):
        latents = TAE(TAE_SIZES["moviegen"]).encode(torch.empty(1, 3, frames, height, width))
        video = VideoTransformer(SIZES["30b"]).patchify(latents)

    assert latents.shape == (1, 16, *latent)
    assert video.shape == (1, tokens, 64)
    assert accounting.tokens(SIZES["30b"], frames, height, width) == tokens


def test_the_schedule_of_fifty_steps_has_its_values():
    """From the formulas of section 3.4.2 with N = 250: half the steps reach 0.1, the last one is 17 times the first."""
    times = linear_quadratic_schedule(50)

    for step, value in {
        0: 0.0,
        1: 0.004,
        10: 0.04,
        25: 0.1,
        26: 0.10528,
        30: 0.152,
        40: 0.448,
        49: 0.93328,
        50: 1.0,
    }.items():
        assert times[step].item() == pytest.approx(value, abs=1e-12), step
    assert (times[-1] - times[-2]).item() / 0.004 == pytest.approx(16.68)
