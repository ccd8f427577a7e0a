"""A prompt becomes the same clip each time, from the parts the checkpoint names and no others."""

import json
import shutil
from dataclasses import asdict, replace

import av
import numpy as np
import pytest
import torch

from models.autoencoders.tae import TAE
from models.video.transformer import VideoTransformer
from models.weights import save_model, weights_sha256
from training.data.buckets import paper_buckets
from training.data.text import CaptionEncoder
from training.generate import Generator, generate


@pytest.fixture
def run(tmp_path, tae_recipe, video_recipe):
    """A run's folder as training leaves it, with untrained weights."""
    torch.manual_seed(0)
    out = tmp_path / "run"
    tae = TAE(replace(tae_recipe.model, latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4))
    save_model(out / "tae", tae, trained={"kind": "tae", "recipe": asdict(tae_recipe)})
    model = VideoTransformer(video_recipe.model)
    torch.nn.init.normal_(model.patch_out.weight, std=0.5)  # its first answer is 0 otherwise
    trained = {
        "kind": "video",
        "recipe": asdict(video_recipe),
        "tae_sha256": weights_sha256(out / "tae"),
        "text_encoders": CaptionEncoder.of(video_recipe.text_encoders).identities(),
    }
    save_model(out / "final", model, trained=trained)
    return out


def test_the_same_seed_gives_the_same_clip_and_another_seed_another(run):
    generator = Generator.load(run)
    bucket, fps = generator.choose(None, None, None, None)
    first, again, other = (generator.sample("a bee", bucket, fps, steps=4, seed=seed) for seed in (3, 3, 4))
    said = generator.sample("a beetle", bucket, fps, steps=4, seed=3)

    assert first.shape == (8, 32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, said), "the prompt is read"


def test_the_mp4_has_the_frames_the_size_and_the_rate(run, tmp_path):
    steps = []
    made = generate(
        run,
        "a bee",
        tmp_path / "new" / "clip.mp4",
        steps=4,
        guidance=2.0,
        on_step=lambda done, total: steps.append((done, total)),
    )

    with av.open(str(made.path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (len(frames), stream.width, stream.height, float(stream.average_rate)) == (8, 32, 32, 8.0)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (made.frames, made.fps, made.seed) == (8, 8.0, 0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"frames": 16}, "was not trained on frames 16; it was on 8 frames of 32x32 at 8 fps"),
        ({"height": 64, "width": 32}, "not trained on height 64, width 32"),
        ({"fps": 24.0}, "not trained on fps 24.0"),
        ({"steps": 251}, "cannot emulate 250"),
        ({"schedule": "quadratic"}, "use one of linear-quadratic, linear"),
    ],
)
def test_what_it_was_not_trained_on_is_refused_and_nothing_is_written(run, tmp_path, asked, message):
    with pytest.raises(ValueError, match=message):
        generate(run, "a bee", tmp_path / "clip.mp4", **asked)
    with pytest.raises(ValueError, match=r"should end in \.mp4"):
        generate(run, "a bee", tmp_path / "clip.gif")
    assert not (tmp_path / "clip.mp4").exists()


def test_frame_rates_of_whole_clip_buckets_are_ranges(run):
    generator = Generator.load(run)
    generator.recipe = replace(generator.recipe, buckets=paper_buckets(256))

    assert generator.choose(128, 192, 352, 24.0)[1] == 24.0
    assert generator.choose(256, None, None, 16.0)[1] == 16.0
    with pytest.raises(ValueError, match="128 frames of 256x256 at 16 to 32 fps"):
        generator.choose(128, None, None, 33.0)


def test_another_autoencoder_is_refused(run, tmp_path, tae_recipe):
    torch.manual_seed(5)
    other = save_model(tmp_path / "other", TAE(tae_recipe.model), trained={"kind": "tae", "recipe": asdict(tae_recipe)})

    with pytest.raises(ValueError, match="was trained on latents of the autoencoder"):
        Generator.load(run, other)
    shutil.move(run / "tae", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is not beside it; pass its folder with --tae"):
        Generator.load(run)
    assert Generator.load(run, tmp_path / "elsewhere").tae.config.latent_channels == 4


def test_another_text_encoder_is_refused(run):
    path = run / "final" / "config.json"
    config = json.loads(path.read_text())
    config["trained"]["text_encoders"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(config))

    with pytest.raises(
        ValueError, match="was trained with the text encoder bytes 000000000000; the one installed here is"
    ):
        Generator.load(run)


def test_the_wrong_kind_of_model_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="holds a tae model, not a video one"):
        Generator.load(run / "tae")
    with pytest.raises(ValueError, match="holds no trained model"):
        Generator.load(tmp_path)
