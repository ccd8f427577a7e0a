"""A run that starts from an image autoencoder's weights is that autoencoder until its first step."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.autoencoders.image_vae import ImageVAE, load_diffusers_vae
from models.autoencoders.tae import TAE, ImageVAEConfig, TAEConfig
from models.weights import file_sha256, read_config
from training.autoencoder import set_up_autoencoder
from training.cluster import train_here
from training.data.pixels import read_window, to_signal
from training.data.plan import Plan
from training.evaluation.validation import choose_clips
from training.metrics import read_metrics
from training.prepare import prepare_run
from training.recipes import load_tae_recipe
from training.runs import load_run
from training.world import World

CONFIG = ImageVAEConfig(channels=8, multipliers=(1, 1, 2, 2), blocks=1, latent_channels=8, groups=4, quant_convs=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seeded weights in the layout of a published AutoencoderKL; a test of the models says that the layout is right."""
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    save_file(ImageVAE(CONFIG).state_dict(), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text('{"norm_num_groups": 4, "scaling_factor": 0.18215}')
    return folder


@pytest.fixture
def recipe(tmp_path, folder, tae_recipe):
    """From a file that says nothing of the model: its sizes are the weights'."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: tae_demo\nimage_vae: {folder}\nsteps: 2\nvalidate_every: 2\n")
    return replace(load_tae_recipe(str(path)), buckets=tae_recipe.buckets, batch=tae_recipe.batch)


def test_a_file_without_a_model_takes_the_sizes_of_the_weights(recipe, folder):
    assert (recipe.model.channels, recipe.model.multipliers, recipe.model.groups) == (8, (1, 1, 2, 2), 4)
    assert (recipe.model.latent_channels, recipe.model.quant_convs, recipe.model.patch) == (8, True, 1)
    assert recipe.base == "tae_demo" and recipe.image_vae == str(folder)


def test_its_validation_before_the_first_step_is_the_image_autoencoders_own(recipe, folder, rows, make_lake, tmp_path):
    """A still's loss is the image autoencoder's; of 8 moving frames it shows the first one 8 times."""
    out = tmp_path / "run"
    run = prepare_run("tae", make_lake(rows), recipe, out)
    assert run.image_vae_sha256 == file_sha256(folder / "diffusion_pytorch_model.safetensors")
    assert load_run(out) == run
    assert train_here(run, World())

    vae = load_diffusers_vae(folder)
    before = read_metrics(out, "validation")[0]
    held_out = next(row for row in rows if row["split"] != "train")
    video = recipe.buckets.assign(held_out)
    assert before["step"] == 0 and [clip["bucket"] for clip in before["clips"]] == [video.image().name, video.name]
    for clip, bucket in zip(before["clips"], (video.image(), video), strict=True):
        frames = torch.from_numpy(to_signal(read_window(held_out, bucket)))[None]
        with torch.no_grad():
            shown = vae.decode_raw(vae.encode_posterior(frames[:, :, 0]).mean)
        assert clip["numbers"]["loss"] == pytest.approx(float((shown[:, :, None] - frames).abs().mean()), rel=1e-4)
    assert read_config(out / "final")["trained"]["image_vae_sha256"] == run.image_vae_sha256


def test_its_posterior_stays_the_image_autoencoders(recipe, folder, small_snapshot, tmp_path):
    run = prepare_run("tae", small_snapshot, recipe, tmp_path / "run")
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        posterior = set_up_autoencoder(run, World(), None).training.model.encode_posterior(pictures[:, :, None])
        alone = load_diffusers_vae(folder).encode_posterior(pictures)

    torch.testing.assert_close(posterior.mean[:, :, 0], alone.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(posterior.logvar[:, :, 0], alone.logvar, atol=1e-5, rtol=1e-5)


def test_other_weights_are_another_run_and_changed_ones_are_refused(recipe, folder, small_snapshot, tmp_path):
    out, copy = tmp_path / "run", tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    recipe = replace(recipe, image_vae=str(copy))
    run = prepare_run("tae", small_snapshot, recipe, out)
    torch.manual_seed(1)
    save_file(ImageVAE(CONFIG).state_dict(), copy / "diffusion_pytorch_model.safetensors")

    with pytest.raises(ValueError, match=r"holds a run of another image_vae .*; choose another --out"):
        prepare_run("tae", small_snapshot, recipe, out, resume=True)
    with pytest.raises(ValueError, match="has other weights than when this run began"):
        set_up_autoencoder(run, World(), None)


def test_wrong_folders_and_sizes_are_one_error_before_anything_is_written(
    recipe, tae_recipe, folder, small_snapshot, tmp_path
):
    out, odd = tmp_path / "run", tmp_path / "odd"
    odd.mkdir()
    state = ImageVAE(CONFIG).state_dict()
    save_file(state | {"encoder.extra.weight": torch.zeros(1)}, odd / "diffusion_pytorch_model.safetensors")
    for changed, message in (
        ({"image_vae": str(tmp_path)}, r"holds no diffusion_pytorch_model\.safetensors; pass the vae folder"),
        ({"image_vae": str(odd)}, "holds no image autoencoder that a TAE can grow from"),
        ({"model": tae_recipe.model}, r"mine cannot start from .*: its model has multipliers \(1, 1, 1, 1\), not"),
        ({"model": replace(recipe.model, latent_channels=16)}, "its model has latent_channels 16, not 8;"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as caught:
            prepare_run("tae", small_snapshot, replace(recipe, **changed), out)
        assert len(str(caught.value).splitlines()) == 1
    (odd / "config.json").write_text('{"norm_num_groups": 4}')
    with pytest.raises(ValueError, match=r"encoder\.extra\.weight is \(1,\), where a network of its sizes has none"):
        prepare_run("tae", small_snapshot, replace(recipe, image_vae=str(odd)), out)
    assert not out.exists()


def test_the_papers_recipe_builds_plans_and_validates_without_its_memory(rows):
    recipe = load_tae_recipe("tae_paper")
    long = [row | {"fps": 24.0} for row in rows]
    plan = Plan([row for row in long if row["split"] == "train"], recipe, recipe.seed)
    batch = plan.step(3)
    with torch.device("meta"):
        tae = TAE(recipe.model)
        latents = tae.encode(torch.empty(1, 3, 32, 256, 256))

    assert latents.shape == (1, 16, 4, 32, 32)
    assert sum(p.numel() for p in tae.parameters()) == 114_062_049
    assert [sample.bucket.name for sample in batch].count("32f16fps-256x256") == 96
    assert [sample.bucket.name for sample in batch].count("1f-256x256") == 32
    assert (recipe.objective.outlier_weight, recipe.objective.outlier_scale) == (1e5, 3.0)
    held_out = choose_clips([row for row in long if row["split"] != "train"], recipe, recipe.validate_clips)
    assert {bucket.frames for _, bucket in held_out} == {1, 32}


def test_the_documented_file_is_the_papers_recipe_with_the_sizes_of_the_weights(folder, tmp_path):
    docs = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    path = tmp_path / "tae.yaml"
    path.write_text(docs.split("```yaml\n")[1].split("```")[0].replace("/weights/stable-diffusion/vae", str(folder)))
    recipe, named = load_tae_recipe(str(path)), load_tae_recipe("tae_paper")

    assert recipe.model == TAEConfig(**asdict(CONFIG))
    same = {"name": named.name, "base": None, "image_vae": None, "model": named.model}
    assert replace(recipe, **same) == named
