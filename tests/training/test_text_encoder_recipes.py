"""The paper's text encoders by their folders in a recipe file, from the file in the documentation to a generated clip."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from api.cli import main
from models.video.transformer import SIZES
from models.weights import read_config
from tests.encoders import ENCODER_WIDTHS
from training.cluster import train_here
from training.prepare import prepare_run
from training.recipes import load_video_recipe
from training.world import World

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
WIDTHS = tuple(ENCODER_WIDTHS.values())


@pytest.fixture
def documented():
    """The text of the recipe file in docs/models.md."""
    return DOCS.read_text().split("```yaml\n")[1].split("```")[0]


@pytest.fixture
def three(encoder_folders, video_recipe):
    """A tiny model that reads by the three."""
    names = tuple(f"{name}:{folder}" for name, folder in encoder_folders.items())
    return replace(
        video_recipe, name="three", text_encoders=names, model=replace(video_recipe.model, text_widths=WIDTHS)
    )


@pytest.fixture(scope="module")
def tae_run(small_snapshot, tae_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("tae") / "run"
    assert train_here(prepare_run("tae", small_snapshot, replace(tae_recipe, steps=1), out), World())
    return out


def test_the_documented_file_is_the_30b_with_the_papers_encoders(documented, tmp_path):
    path = tmp_path / "movie_gen.yaml"
    path.write_text(documented)
    recipe = load_video_recipe(str(path))

    assert recipe.model == SIZES["30b"]
    assert [name.partition(":")[0] for name in recipe.text_encoders] == ["ul2", "metaclip", "byt5"]
    named = load_video_recipe("video_768")
    same = {"name": named.name, "base": None, "model": named.model, "text_encoders": named.text_encoders}
    assert replace(recipe, **same) == named


@pytest.mark.slow
def test_the_documented_file_trains_and_generates(
    documented, encoder_folders, video_recipe, small_snapshot, tae_run, ray_cluster, tmp_path, monkeypatch, capsys
):
    """Its folders and sizes made small, and through the command line: Ray, a folder relative to here, a clip."""
    root = next(iter(encoder_folders.values())).parent
    monkeypatch.chdir(root.parent)
    text = documented.replace("/weights/", f"{root.name}/").replace("[4096, 1280, 1472]", json.dumps(WIDTHS))
    values = yaml.safe_load(text)
    tiny = {"latent_channels": 4, "width": 16, "layers": 1, "heads": 2, "ffn_width": 32}
    places = {"max_frames": 2, "max_rows": 4, "max_cols": 4}
    values |= {"base": "video_demo", "steps": 2, "model": values["model"] | tiny | places, "batch": {"videos": 3}}
    shape = {"durations": [{"min_seconds": 1, "max_seconds": None, "frames": 8, "fps": 8}]}
    values |= {"buckets": shape | {"sizes": [{"height": 32, "width": 32}]}}
    path, out = tmp_path / "tiny.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(values))

    words = ["--manifest", small_snapshot, "--tae", str(tae_run), "--recipe", str(path), "--out", str(out)]
    assert main(["train", "video", *words]) == 0
    encoders = read_config(out / "final")["trained"]["text_encoders"]
    assert [(e["name"], e["width"], e["max_tokens"]) for e in encoders] == [
        ("ul2", WIDTHS[0], 512), ("metaclip", WIDTHS[1], 256), ("byt5", WIDTHS[2], 100),
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    clip = tmp_path / "clip.mp4"
    words = ["--checkpoint", str(out), "--prompt", 'a sign "OPEN"', "--out", str(clip), "--steps", "2", "--json"]
    capsys.readouterr()
    assert main(["generate", *words]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 8 and clip.stat().st_size > 0


def test_wrong_encoders_are_one_sentence_before_anything_is_written(
    three, encoder_folders, small_snapshot, tae_run, tmp_path
):
    out, empty = tmp_path / "run", tmp_path / "ul2"
    empty.mkdir()
    (empty / "config.json").write_bytes((encoder_folders["ul2"] / "config.json").read_bytes())
    (empty / "tokenizer.json").write_bytes((encoder_folders["ul2"] / "tokenizer.json").read_bytes())
    ul2, metaclip, byt5 = three.text_encoders
    for encoders, message in (
        ((ul2, byt5, metaclip), r"text_widths \[32, 24, 40\], and its .* set model.text_widths to \[32, 40, 24\]"),
        ((ul2, metaclip), r"set model.text_widths to \[32, 24\], in the encoders' order"),
        ((f"ul2:{tmp_path}/nowhere", metaclip, byt5), r"holds no config\.json and no tokenizer\.json; pass ul2:FOLDER"),
        ((f"ul2:{empty}", metaclip, byt5), r"holds no weights \(\*\.safetensors or \*\.bin\)"),
        ((ul2, f"metaclip:{tmp_path}", byt5), r"holds no open_clip_config\.json; pass metaclip:FOLDER"),
        (("ul3", metaclip, byt5), "text encoder 'ul3' is not known"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            prepare_run("video", small_snapshot, replace(three, text_encoders=encoders), out, tae=tae_run)
        assert len(str(caught.value).splitlines()) == 1
    assert not out.exists()
