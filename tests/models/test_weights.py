"""Networks go to disk and come back the same."""

import hashlib
import json

import pytest
import torch

from models.autoencoders.tae import TAE, TAEConfig
from models.discriminator import DiscriminatorConfig, PatchDiscriminator
from models.text.tokens import TextTokens
from models.video.transformer import TransformerConfig, VideoTransformer
from models.weights import load_model, read_config, save_model, weights_sha256


def test_a_transformer_comes_back_the_same(tmp_path, redrawn):
    config = TransformerConfig(width=16, layers=1, heads=2, ffn_width=24, text_widths=(4,), max_rows=4, max_cols=4)
    model = redrawn(VideoTransformer(config))
    save_model(tmp_path, model, tae_sha256="abc")
    state = torch.random.get_rng_state()
    loaded = load_model(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state), "loading draws nothing"
    assert loaded.config == config and not loaded.training and read_config(tmp_path)["tae_sha256"] == "abc"
    inputs = torch.randn(1, 16, 1, 4, 4), torch.rand(1), [TextTokens(torch.randn(1, 2, 4), torch.ones(1, 2).bool())]
    assert torch.equal(loaded(*inputs), model(*inputs))
    assert all(p.requires_grad and not p.is_meta for p in loaded.parameters())
    assert weights_sha256(tmp_path) == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


def test_an_autoencoder_carries_its_latent_scale(tmp_path):
    tae = TAE(TAEConfig(channels=4, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=4, groups=2))
    tae.set_latent_statistics(torch.arange(4.0), torch.arange(1.0, 5.0))
    save_model(tmp_path, tae)
    loaded = load_model(tmp_path)
    assert loaded.config == tae.config and loaded.config.latent_std == (1.0, 2.0, 3.0, 4.0)
    video = torch.rand(1, 3, 8, 16, 16)
    assert torch.equal(loaded.encode(video), tae.encode(video))


def test_the_critic_saves_and_judges_pictures_and_videos(tmp_path):
    critic = PatchDiscriminator(DiscriminatorConfig(width=8))
    save_model(tmp_path, critic)
    loaded = load_model(tmp_path)
    for frames in (1, 16):
        video = torch.rand(2, 3, frames, 32, 32)
        logits = loaded(video)
        assert logits.shape[:2] == (2, 1) and torch.equal(logits, critic(video))
    loaded(video).mean().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_folders_and_classes_that_are_not_ours_are_refused(tmp_path):
    with pytest.raises(ValueError, match="save_model"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"class": "os.system", "config": {}}))
    with pytest.raises(ValueError, match="not a class of the models package"):
        load_model(tmp_path)
    document = {"class": "models.video.transformer.VideoTransformer", "config": {"widht": 3}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="widht"):
        load_model(tmp_path)
