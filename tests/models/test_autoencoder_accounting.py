"""The autoencoder's closed forms against the built module and the counter."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.attention import use_backend
from models.autoencoders.accounting import decode_flops, encode_flops, tae_activations, tae_parameters
from models.autoencoders.tae import SIZES, TAE, TAEConfig

CONFIGS = {
    **SIZES,
    "quant": replace(SIZES["moviegen"], latent_channels=4, quant_convs=True),
    "five levels": TAEConfig(channels=8, multipliers=(1, 1, 2, 2, 4), blocks=1, groups=4, attention=False),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_size_counts_as_the_closed_form(name):
    with torch.device("meta"):
        tae = TAE(CONFIGS[name])
    assert tae_parameters(CONFIGS[name]) == sum(p.numel() for p in tae.parameters())


def test_the_paper_size_has_its_stated_count():
    assert tae_parameters(SIZES["moviegen"]) == 114_062_049


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("frames", [1, 12, 16])
def test_operations_agree_with_the_counter_within_one_percent(name, frames):
    """Under the math kernel, on meta: the counter sees no attention in the fused ones."""
    with torch.device("meta"):
        tae, video = TAE(CONFIGS[name]), torch.empty(1, 3, frames, 64, 96)
    with use_backend("math"), FlopCounterMode(display=False) as encoding:
        latents = tae.encode(video)
    with use_backend("math"), FlopCounterMode(display=False) as decoding:
        tae.decode(latents, frames)
    assert encode_flops(CONFIGS[name], frames, 64, 96) == pytest.approx(encoding.get_total_flops(), rel=0.01)
    assert decode_flops(CONFIGS[name], frames, 64, 96) == pytest.approx(decoding.get_total_flops(), rel=0.01)


@pytest.mark.parametrize(("name", "frames"), [("demo", 16), ("demo", 1), ("five levels", 12), ("moviegen", 8)])
def test_what_autograd_saves_is_the_closed_form(name, frames):
    """Distinct storages handed to autograd, float32. Left out of the form: statistics of norms and softmax, borders."""
    tae, saved = TAE(CONFIGS[name]), {}
    own = {parameter.untyped_storage()._cdata for parameter in tae.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        latents = tae.encode_posterior(torch.randn(1, 3, frames, 64, 64)).mean
        video = tae.decode_raw(latents, frames)
    assert video.requires_grad
    assert 4 * tae_activations(CONFIGS[name], frames, 64, 64) == pytest.approx(sum(saved.values()), rel=0.03)
