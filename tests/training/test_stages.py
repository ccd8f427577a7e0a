"""From stage to stage: the paper's numbers, weights handed on, tables grown, and a whole chain on real clips."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from api.report.training_run import build_run_page
from models.weights import load_model, read_config
from training.averaging import average_models
from training.cluster import train_here
from training.data.buckets import demo_buckets
from training.data.plan import BatchSize, Plan
from training.evaluation.sample_grid import read_grid
from training.generate import generate
from training.metrics import read_metrics
from training.prepare import prepare_run
from training.recipes import STAGES, load_video_recipe
from training.runs import load_run
from training.stages import growth, load_start
from training.world import World


@pytest.mark.parametrize("chain", STAGES)
def test_every_stage_can_start_from_the_one_before(chain):
    recipes = [make() for make in STAGES[chain]]
    factors = [growth(a.model, b.model, b.name) for a, b in pairwise(recipes)]

    assert factors == {"demo": [2, 2, 1], "paper": [2, 1, 3, 1, 1, 1]}[chain]
    assert [r.grow for r, f in zip(recipes[1:], factors, strict=True) if f > 1] == ["extend", "interpolate"]
    for recipe in recipes:
        shapes = recipe.buckets.buckets() if recipe.batch.videos else [b.image() for b in recipe.buckets.buckets()]
        for bucket in shapes:
            assert bucket.height // 16 <= recipe.model.max_rows and bucket.width // 16 <= recipe.model.max_cols
            assert -(-bucket.frames // 8) <= recipe.model.max_frames
    assert recipes[-1].optimizer.schedule == "cosine"


def test_the_papers_stages_see_as_many_samples_as_table_3_says():
    seen = {}
    for make in STAGES["paper"][:-1]:
        recipe = make()
        seen[recipe.name] = recipe.steps * (recipe.batch.videos + recipe.batch.images) / 1e6
        if recipe.batch.videos:
            assert recipe.batch.videos / recipe.batch.images == pytest.approx(10, rel=0.011)

    assert seen["video_t2i_256"] == pytest.approx(1940, rel=0.003)
    assert (seen["video_256"], seen["video_256_2"]) == (pytest.approx(173.6, abs=0.1), pytest.approx(221.2, abs=0.1))
    at_768 = [seen[name] for name in ("video_768", "video_768_2", "video_768_3")]
    assert at_768 == pytest.approx([30.1, 23.3, 20.3], abs=0.1)
    rates = [make().optimizer.learning_rate for make in STAGES["paper"][:-1]]
    assert rates == [1e-4, 6e-5, 6e-5, 6e-5, 3e-5, 1e-5]


def test_a_text_to_image_batch_goes_through_every_clip_before_it_repeats_one(rows, video_recipe):
    plan = Plan(rows, replace(video_recipe, batch=BatchSize(videos=0, images=2)), seed=3)

    assert plan.batches_per_epoch == 2 and plan.leftovers == {}
    drawn = [sample for step in range(2) for sample in plan.step(step)]
    assert sorted(sample.row for sample in drawn) == [0, 1, 2, 3]
    assert {(sample.bucket.frames, sample.caption[:4]) for sample in drawn} == {(1, "a fi")}, "a picture has no rate"


@pytest.fixture(scope="module")
def tae_run(small_snapshot, tae_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("tae") / "run"
    torch.set_num_threads(1)
    assert train_here(prepare_run("tae", small_snapshot, tae_recipe, out), World())
    return out


def stages_of(video_recipe):
    """The chain of the demo at the size of the tests."""

    def tiny(name, side, frames, places, **more):
        model = replace(video_recipe.model, max_frames=frames, max_rows=places, max_cols=places)
        buckets = demo_buckets(frames=8, fps=8.0, side=side)
        return replace(
            video_recipe, name=name, model=model, buckets=buckets, steps=2, validate_every=1, sample_every=1, **more
        )

    return [
        tiny("t2i", 32, 1, 2, batch=BatchSize(videos=0, images=3)),
        tiny("joint", 32, 1, 4),
        tiny("high", 64, 1, 8, grow="interpolate"),
    ]


def test_a_chain_of_stages_hands_its_weights_on_and_ends_in_an_average(small_snapshot, video_recipe, tae_run, tmp_path):
    before = None
    for recipe in stages_of(video_recipe):
        out = tmp_path / recipe.name
        run = prepare_run("video", small_snapshot, recipe, out, tae=tae_run, start=before)
        assert train_here(run, World())
        assert load_run(out) == run
        losses = read_metrics(out, "validation")
        assert [line["step"] for line in losses] == [0, 1, 2]
        if recipe.name == "joint":  # the pictures' loss is where the stage before left it: tables were extended
            left = read_metrics(before, "validation")[-1]
            start = load_model(before / "final")
            grown = load_start(before / "final", recipe)
            assert torch.equal(grown.positions.row[:2], start.positions.row)
            assert losses[0]["loss/1f-32x32"] == pytest.approx(left["loss/1f-32x32"], rel=0.02)
        before = out
    grids = [read_grid(tmp_path / name) for name in ("t2i", "high")]
    assert [[(step, len(paths)) for step, paths in grid] for grid in grids] == [[(1, 3), (2, 3)]] * 2
    assert (
        '<td class="number">step 2</td><td><img src="data:image/jpeg' in build_run_page(tmp_path / "high").read_text()
    )
    pictures = generate(tmp_path / "t2i", "a bee", tmp_path / "bee.mp4", steps=2)
    assert (pictures.frames, pictures.height) == (1, 32)

    recipe = replace(stages_of(video_recipe)[-1], name="sft", batch=BatchSize(videos=2))
    outs = [tmp_path / f"sft{seed}" for seed in (0, 1)]
    for seed, out in enumerate(outs):
        run = prepare_run("video", small_snapshot, replace(recipe, seed=seed), out, tae=tae_run, start=before)
        assert train_here(run, World())
    made = generate(average_models(outs, tmp_path / "mean"), "a bee", tmp_path / "mean.mp4", steps=2)
    assert (made.frames, made.height) == (8, 64)


def test_a_stage_that_cannot_start_from_another_is_refused(small_snapshot, video_recipe, tae_run, tmp_path):
    t2i, joint, _ = stages_of(video_recipe)
    start = tmp_path / "t2i"
    assert train_here(prepare_run("video", small_snapshot, t2i, start, tae=tae_run), World())

    def begin(recipe, out=tmp_path / "out", **more):
        return prepare_run("video", small_snapshot, recipe, out, tae=tae_run, **({"start": start} | more))

    for recipe, message in (
        (replace(joint, model=replace(joint.model, layers=2)), "has layers=1, joint 2; only position tables may grow"),
        (replace(joint, model=replace(joint.model, max_rows=3)), "cannot grow to joint's 1 x 3 x 4"),
        (replace(joint, text_encoders=("quoted-bytes",)), "reads text by bytes; joint by quoted-bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            begin(recipe)
    with pytest.raises(ValueError, match="holds a tae model, not a video one"):
        begin(joint, start=tae_run)
    assert not (tmp_path / "out").exists()
    begin(joint)
    with pytest.raises(ValueError, match=r"holds a run of another start \([0-9a-f]{64}, here None\)"):
        begin(joint, start=None, resume=True)
    document = read_config(start / "final")
    document["trained"]["tae_sha256"] = "0" * 64
    (start / "final" / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="latents of the autoencoder 000000000000"):
        begin(joint, out=tmp_path / "new")


def test_a_named_stage_is_a_recipe():
    assert load_video_recipe("video_demo_joint").batch == BatchSize(videos=10, images=1)
