"""Recipes say what is wrong with them, and where."""

from dataclasses import asdict, replace

import pytest
import torch

from models.video.transformer import VideoTransformer
from training.prepare import check_memory
from training.recipes import (
    TAE_RECIPES,
    VIDEO_RECIPES,
    TAERecipe,
    VideoRecipe,
    load_tae_recipe,
    load_video_recipe,
    recipe_from,
    recipe_hash,
    tae_demo,
    video_demo,
)


@pytest.mark.parametrize("name", [*TAE_RECIPES, *VIDEO_RECIPES])
def test_every_named_recipe_survives_the_trip_through_plain_values(name):
    recipe = (load_tae_recipe if name in TAE_RECIPES else load_video_recipe)(name)
    again = recipe_from(type(recipe), asdict(recipe))

    assert recipe.name == name
    assert again == recipe
    assert recipe_hash(again) == recipe_hash(recipe)


def test_the_papers_recipes_have_the_papers_numbers():
    small, large = load_video_recipe("video_256"), load_video_recipe("video_768")

    for recipe in (small, large):
        assert (recipe.model.layers, recipe.model.width, recipe.model.ffn_width, recipe.model.heads) == (
            48,
            6144,
            16384,
            48,
        )
        assert recipe.batch.videos + recipe.batch.images == 1536
        assert recipe.batch.videos / recipe.batch.images == pytest.approx(10, rel=0.01)
        assert recipe.optimizer.learning_rate == 6e-5
        assert recipe.buckets.min_native_fps == 16
        positions = max(max(b.height, b.width) for b in recipe.buckets.buckets()) // 16
        assert positions <= recipe.model.max_rows
    assert (small.steps, large.steps) == (113_000, 19_600)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in VideoTransformer(large.model).parameters())
    assert parameters == pytest.approx(29.2e9, abs=0.3e9)


def test_a_model_that_cannot_fit_is_refused_with_its_size():
    check_memory(video_demo(), workers=2)
    with pytest.raises(ValueError, match=r"video_256 trains 29\.\d B parameters, 5\d\d GiB"):
        check_memory(load_video_recipe("video_256"), workers=1)


def test_a_file_changes_fields_of_a_named_recipe(tmp_path):
    for name, text in (
        ("mine.yaml", "base: tae_demo\nsteps: 40\noptimizer:\n  learning_rate: 0.5\nbuckets: demo\n"),
        ("mine.toml", 'base = "tae_demo"\nsteps = 40\nbuckets = "demo"\n[optimizer]\nlearning_rate = 0.5\n'),
    ):
        path = tmp_path / name
        path.write_text(text)
        recipe = load_tae_recipe(str(path))

        base = tae_demo()
        changed = {"steps": 40, "optimizer": replace(base.optimizer, learning_rate=0.5)}
        assert recipe == replace(base, name="mine", base="tae_demo", **changed)


def test_a_word_stands_for_a_named_size_or_table(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("base: video_demo\nmodel: 5b\nbuckets: paper_256\n")
    recipe = load_video_recipe(str(path))

    assert recipe.model.layers == 32
    assert recipe.buckets.min_native_fps == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: tae_demo\nstep: 3\n", "unknown field 'step'; the nearest known one is 'steps'"),
        ("base: tae_demo\noptimizer:\n  learning_rat: 3\n", "unknown field 'optimizer.learning_rat'; the nearest known one is 'learning_rate'"),
        ("base: tae_dmo\n", "no recipe 'tae_dmo' to build on; the nearest known one is 'tae_demo'"),
        ("base: tae_demo\nsteps: many\n", "steps='many'"),
        ("base: tae_demo\noptimizer: 3\n", "optimizer takes fields, not 3"),
        ("base: tae_demo\nmodel: dmo\n", "model: no TAEConfig 'dmo'; the nearest known one is 'demo'"),
        ("base: tae_demo\nbuckets:\n  sizes:\n  - {height: 64, widht: 64}\n", r"unknown field 'buckets.sizes\[0\].widht'; the nearest known one is 'width'"),
        ("steps: 3\n", "start from `base: NAME`"),
        ("base: tae_demo\nbatch:\n  videos: 0\n", "at least one video"),
        ("- 3\n", "holds no fields"),
    ],
)  # fmt: skip
def test_a_wrong_file_says_what_and_where(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)

    with pytest.raises(ValueError, match=message):
        load_tae_recipe(str(path))


def test_a_wrong_name_says_the_nearest_right_one():
    with pytest.raises(ValueError, match="no training recipe 'tae_dmo'; the nearest known one is 'tae_demo'"):
        load_tae_recipe("tae_dmo")
    with pytest.raises(ValueError, match="is a recipe of `cinemill train tae`"):
        load_video_recipe("tae_demo")
    with pytest.raises(ValueError, match=r"no recipe file nowhere\.yaml"):
        load_video_recipe("nowhere.yaml")


def test_the_hash_sees_every_field():
    base = video_demo()
    changed = [
        replace(base, steps=1),
        replace(base, seed=1),
        replace(base, text_dropout=0.2),
        replace(base, optimizer=replace(base.optimizer, eps=1e-7)),
        replace(base, model=replace(base.model, layers=1)),
    ]
    assert len({recipe_hash(recipe) for recipe in [base, *changed]}) == 6
    assert isinstance(base, VideoRecipe) and isinstance(tae_demo(), TAERecipe)
