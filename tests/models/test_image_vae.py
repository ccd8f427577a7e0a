"""The image autoencoder against a second, functional reading of the published layout, and the TAE against it."""

import pytest
import torch
import torch.nn.functional as F

from models.autoencoders.image_vae import ImageVAE, load_diffusers_vae
from models.autoencoders.tae import TAE, ImageVAEConfig

WIDTHS, GROUPS, BLOCKS = (8, 16, 16, 16), 4, 2


def published_weights(latent_channels: int, quant: bool) -> dict[str, torch.Tensor]:
    """Seeded weights under the names and shapes of an AutoencoderKL file."""
    generator, state = torch.Generator().manual_seed(0), {}

    def draw(name, *shape):
        fan_in = torch.Size(shape[1:]).numel()
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * fan_in**-0.5
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1

    def norm(name, width):
        state[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=generator)
        state[f"{name}.bias"] = 0.2 * torch.randn(width, generator=generator)

    def resnet(name, inputs, outputs):
        norm(f"{name}.norm1", inputs)
        draw(f"{name}.conv1", outputs, inputs, 3, 3)
        norm(f"{name}.norm2", outputs)
        draw(f"{name}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            draw(f"{name}.conv_shortcut", outputs, inputs, 1, 1)

    def middle(name, width):
        resnet(f"{name}.resnets.0", width, width)
        resnet(f"{name}.resnets.1", width, width)
        norm(f"{name}.attentions.0.group_norm", width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            draw(f"{name}.attentions.0.{part}", width, width)

    draw("encoder.conv_in", WIDTHS[0], 3, 3, 3)
    previous = WIDTHS[0]
    for i, width in enumerate(WIDTHS):
        for j in range(BLOCKS):
            resnet(f"encoder.down_blocks.{i}.resnets.{j}", previous if j == 0 else width, width)
        if i < len(WIDTHS) - 1:
            draw(f"encoder.down_blocks.{i}.downsamplers.0.conv", width, width, 3, 3)
        previous = width
    middle("encoder.mid_block", WIDTHS[-1])
    norm("encoder.conv_norm_out", WIDTHS[-1])
    draw("encoder.conv_out", 2 * latent_channels, WIDTHS[-1], 3, 3)
    draw("decoder.conv_in", WIDTHS[-1], latent_channels, 3, 3)
    middle("decoder.mid_block", WIDTHS[-1])
    previous = WIDTHS[-1]
    for i, width in enumerate(reversed(WIDTHS)):
        for j in range(BLOCKS + 1):
            resnet(f"decoder.up_blocks.{i}.resnets.{j}", previous if j == 0 else width, width)
        if i < len(WIDTHS) - 1:
            draw(f"decoder.up_blocks.{i}.upsamplers.0.conv", width, width, 3, 3)
        previous = width
    norm("decoder.conv_norm_out", WIDTHS[0])
    draw("decoder.conv_out", 3, WIDTHS[0], 3, 3)
    if quant:
        draw("quant_conv", 2 * latent_channels, 2 * latent_channels, 1, 1)
        draw("post_quant_conv", latent_channels, latent_channels, 1, 1)
    return state


class Published:
    """What the layout means, computed straight from the tensors."""

    def __init__(self, state):
        self.state = state

    def conv(self, name, x, stride=1):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        if stride == 2:
            return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def norm(self, name, x):
        return F.group_norm(x, GROUPS, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps=1e-6)

    def resnet(self, name, x):
        y = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)))
        y = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", y)))
        return y + (self.conv(f"{name}.conv_shortcut", x) if f"{name}.conv_shortcut.weight" in self.state else x)

    def middle(self, name, x):
        x = self.resnet(f"{name}.resnets.0", x)
        y = self.norm(f"{name}.attentions.0.group_norm", x).flatten(2).mT  # [N, H*W, C]
        q, k, v = (self.linear(f"{name}.attentions.0.to_{part}", y) for part in "qkv")
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        y = self.linear(f"{name}.attentions.0.to_out.0", weights @ v)
        return self.resnet(f"{name}.resnets.1", x + y.mT.reshape(x.shape))

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def encode(self, x):
        x = self.conv("encoder.conv_in", x)
        for i in range(4):
            for j in range(BLOCKS):
                x = self.resnet(f"encoder.down_blocks.{i}.resnets.{j}", x)
            if i < 3:
                x = self.conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", x, stride=2)
        x = self.middle("encoder.mid_block", x)
        x = self.conv("encoder.conv_out", F.silu(self.norm("encoder.conv_norm_out", x)))
        x = self.conv("quant_conv", x) if "quant_conv.weight" in self.state else x
        return x.chunk(2, dim=1)[0]

    def decode(self, z):
        z = self.conv("post_quant_conv", z) if "post_quant_conv.weight" in self.state else z
        x = self.middle("decoder.mid_block", self.conv("decoder.conv_in", z))
        for i in range(4):
            for j in range(BLOCKS + 1):
                x = self.resnet(f"decoder.up_blocks.{i}.resnets.{j}", x)
            if i < 3:
                x = self.conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", F.interpolate(x, scale_factor=2))
        return self.conv("decoder.conv_out", F.silu(self.norm("decoder.conv_norm_out", x)))


@pytest.mark.parametrize(("latent_channels", "quant"), [(4, True), (8, True), (8, False), (16, False)])
def test_published_weights_load_and_mean_what_they_meant(latent_channels, quant):
    state = published_weights(latent_channels, quant)
    vae = ImageVAE.from_diffusers(state, groups=GROUPS)
    assert vae.state_dict().keys() == state.keys()
    pictures = torch.rand(2, 3, 32, 40) * 2 - 1
    published = Published(state)
    with torch.no_grad():
        mean = vae.encode_posterior(pictures).mean
        torch.testing.assert_close(mean, published.encode(pictures), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(vae.decode_raw(mean), published.decode(mean), atol=1e-4, rtol=1e-4)


def test_a_published_folder_loads_with_its_number_of_groups(tmp_path):
    from safetensors.torch import save_file

    state = published_weights(16, quant=False)
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(f'{{"norm_num_groups": {GROUPS}}}')
    vae = load_diffusers_vae(tmp_path)
    assert vae.config.groups == GROUPS and vae.config.multipliers == (1, 2, 2, 2)
    with pytest.raises(ValueError, match="diffusion_pytorch_model"):
        load_diffusers_vae(tmp_path / "elsewhere")


def test_old_names_of_attention_layers_are_understood():
    state = published_weights(4, quant=True)
    old = {}
    for name, tensor in state.items():
        if ".attentions." in name:
            for new, former in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                name = name.replace(f".{new}.", f".{former}.")
            tensor = tensor[..., None, None] if name.endswith("weight") and "group_norm" not in name else tensor
        old[name] = tensor
    assert old.keys() != state.keys()
    loaded = ImageVAE.from_diffusers(old, groups=GROUPS).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_the_published_four_channel_size_has_its_known_parameter_count():
    with torch.device("meta"):
        vae = ImageVAE(ImageVAEConfig(latent_channels=4, quant_convs=True))
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


@pytest.mark.parametrize(("latent_channels", "quant"), [(4, True), (8, True), (8, False), (16, False)])
def test_an_untrained_tae_is_the_image_autoencoder(latent_channels, quant):
    vae = ImageVAE.from_diffusers(published_weights(latent_channels, quant), groups=GROUPS)
    tae = TAE.from_image_vae(vae)
    moving = torch.rand(2, 3, 17, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = tae.encode_posterior(moving).mean
        assert latents.shape[2] == 3
        for k in range(3):  # latent k is the image latent of frame 8k
            alone = vae.encode_posterior(moving[:, :, 8 * k]).mean
            torch.testing.assert_close(latents[:, :, k], alone, atol=1e-5, rtol=1e-5)
        decoded = tae.decode_raw(latents, num_frames=17)
        for frame in range(17):  # and every latent is shown 8 times
            shown = vae.decode_raw(latents[:, :, frame // 8])
            torch.testing.assert_close(decoded[:, :, frame], shown, atol=1e-4, rtol=1e-4)


def test_a_still_video_reproduces_the_image_autoencoder():
    vae = ImageVAE.from_diffusers(published_weights(16, quant=False), groups=GROUPS)
    tae = TAE.from_image_vae(vae)
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        shown = vae.decode_raw(vae.encode_posterior(picture).mean)
        decoded = tae.decode(tae.encode(picture[:, :, None].expand(-1, -1, 9, -1, -1)), num_frames=9)
    torch.testing.assert_close(decoded, shown[:, :, None].expand_as(decoded), atol=1e-4, rtol=1e-4)
