"""The planner: what it suggests fits, what cannot fit is refused with the knob that helps, more GPUs are never slower."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from api.cli import main
from models.accounting import attention_flops, flops
from models.autoencoders.tae import SIZES as TAE_SIZES
from models.autoencoders.tae import TAE
from models.memory import RECOMPUTE
from models.video.transformer import SIZES, VideoTransformer
from training.accelerators import ACCELERATORS, GIB, SOURCES
from training.costs import STATE, Layout, TransformerCosts, largest_micro_batch
from training.data.buckets import Bucket
from training.data.plan import BatchSize
from training.planner import DoesNotFit, check_layout, plan_recipes, plan_stage
from training.recipes import STAGES, VIDEO_RECIPES, tae_demo, video_768, video_demo

H200, H100 = ACCELERATORS["h200"], ACCELERATORS["h100"]
CLIP = Bucket(frames=256, height=768, width=768)
SMALL_CLIP = Bucket(frames=256, height=256, width=256)


@pytest.mark.parametrize("name", VIDEO_RECIPES)
@pytest.mark.parametrize(("gpus", "device"), [(8, H200), (64, H100), (512, H200), (6144, H100)])
def test_what_is_suggested_fits(name, gpus, device):
    plan = plan_stage(VIDEO_RECIPES[name](), device, gpus)
    layout = plan.layout
    assert 1 <= layout.gpus <= gpus and (layout.gpus <= 8 or layout.gpus % 8 == 0)
    assert layout.gpus == layout.dp_replicate * layout.dp_shard * layout.cp * layout.tp
    assert plan.recipe.model.heads % layout.tp == 0
    assert layout.groups <= max(plan.recipe.batch.videos, plan.recipe.batch.images), "nobody without a sample"
    for step in plan.steps:
        assert step.bytes <= 0.92 * device.memory
        for shape, size in step.micro_batches.items():
            assert size >= 1 and shape.tokens % (layout.cp * layout.tp) == 0
        assert step.executed_flops > step.model_flops * 0.999
    assert 0 < plan.mfu < 740 / 989
    assert plan.longest.seconds == max(step.seconds for step in plan.steps)
    assert plan.longest.bytes <= 0.92 * device.memory


@pytest.mark.parametrize("name", ["30b", "demo"])
def test_parameters_and_state_are_exact(name):
    """20 bytes a parameter in all, over the GPUs that share them; matrices of blocks over tp too."""
    with torch.device("meta"):
        count = sum(p.numel() for p in VideoTransformer(SIZES[name]).parameters())
    costs = TransformerCosts(SIZES[name], H200, 128, element_bytes=2)
    assert costs.parameters == count
    for layout in (Layout(), Layout(dp_shard=8), Layout(dp_shard=2, cp=2), Layout(dp_replicate=4, dp_shard=4)):
        parts = costs.memory(layout, SMALL_CLIP, 1)
        state = sum(parts[part] for part in STATE)
        assert state == pytest.approx(20 * count / (layout.dp_shard * layout.cp), abs=20)


def test_a_layout_reads_as_a_call_writes_it():
    assert str(Layout(dp_shard=128, cp=2, tp=2, recompute="save-attention")) == (
        "dp_shard=128,cp=2,tp=2,recompute=save-attention"
    )
    assert str(Layout(dp_replicate=4)) == "whole copies"


def test_tensor_parallel_state_is_what_dtensor_would_hold():
    """Over tp = 2 half of every matrix of a block, all of everything else."""
    with torch.device("meta"):
        model = VideoTransformer(SIZES["demo"])
    matrices = sum(
        p.numel() for name, p in model.blocks.named_parameters() if p.ndim == 2 and not name.endswith("bias")
    )
    rest = sum(p.numel() for p in model.parameters()) - matrices
    parts = TransformerCosts(SIZES["demo"], H200, 128, 2).memory(Layout(tp=2), SMALL_CLIP, 1)
    assert parts["weights"] == 4 * (matrices // 2 + rest)


def test_the_rates_are_the_published_caps():
    """Without links and elementwise work a 30B block at 73,728 tokens runs at the caps that cuDNN's kernels allow.

    535, 491 and 418 model TFLOP/s without, with half and with full recomputation (63 % of the work in attention).
    """
    free = replace(H200, bandwidth=1e30)
    costs = TransformerCosts(SIZES["30b"], free, 256, element_bytes=2)
    rates = [costs.model_flops(CLIP) / costs.work(Layout(recompute=mode), CLIP, 1).seconds / 1e12 for mode in RECOMPUTE]
    assert rates == pytest.approx([535, 491, 418], rel=0.01)
    share = attention_flops(SIZES["30b"], CLIP.tokens, (256,) * 3) / flops(SIZES["30b"], CLIP.tokens, (256,) * 3)
    assert share == pytest.approx(0.63, abs=0.01)


def test_executed_flops_are_the_model_s_and_what_they_say():
    costs = TransformerCosts(SIZES["5b"], H200, 128, element_bytes=2)
    model, text = costs.model_flops(CLIP), (128,) * 3
    attention, forward = attention_flops(SIZES["5b"], CLIP.tokens, text), flops(SIZES["5b"], CLIP.tokens, text)
    none, saved, full = (costs.work(Layout(recompute=mode), CLIP, 1).executed_flops for mode in RECOMPUTE)
    assert none == model + attention // 2, "2.5 instead of 2 backward"
    assert full - saved == attention
    assert full - none == pytest.approx(forward, rel=0.01), "blocks are all but the whole forward pass"


def test_a_micro_batch_is_as_large_as_fits():
    costs = TransformerCosts(SIZES["5b"], H200, 128, element_bytes=2)
    layout = Layout(dp_shard=8, recompute="save-attention")
    most = largest_micro_batch(costs, layout, SMALL_CLIP)
    held = [sum(costs.memory(layout, SMALL_CLIP, n).values()) for n in (most, most + 1)]
    assert most > 1 and held[0] <= costs.budget < held[1]
    assert largest_micro_batch(costs, Layout(), CLIP) == 0


@pytest.mark.parametrize("size", ["5b", "30b"])
@pytest.mark.parametrize(
    "batch", [BatchSize(videos=64), BatchSize(videos=1396, images=140), BatchSize(videos=465, images=47)]
)
def test_more_gpus_are_never_slower(size, batch):
    recipe = video_768()
    recipe = replace(recipe, model=replace(SIZES[size], text_widths=(384, 256)), batch=batch)
    seconds = [plan_stage(recipe, H200, 2**k).longest.seconds for k in range(4, 14)]
    assert all(more <= less * 1.000001 for less, more in pairwise(seconds)), seconds


def test_more_memory_and_fewer_tokens_never_hurt():
    recipe = video_768()
    assert plan_stage(recipe, H200, 512).longest.seconds <= plan_stage(recipe, H100, 512).longest.seconds
    steps = plan_stage(recipe, H200, 512).steps
    assert [s.bucket.tokens for s in steps] == sorted((s.bucket.tokens for s in steps), reverse=True)
    assert [s.seconds for s in steps] == sorted((s.seconds for s in steps), reverse=True)


@pytest.mark.parametrize(
    ("recipe", "gpus", "device", "given", "said", "helps"),
    [
        ("video_256", 4, "h200", {}, "most of it is weights, gradients, optimizer and average", {"gpus": 8}),
        ("video_768", 8, "h100", {}, "video_768 does not fit on 8 x h100", {"gpu": "h200"}),
        ("video_768", 64, "h200", {"cp": 1, "tp": 1, "recompute": "none"}, "most of it is activations", {"recompute": "full"}),
        ("video_768", 64, "h100", {"cp": 1, "tp": 1}, "most of it is activations", None),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_with_the_knob_that_helps(recipe, gpus, device, given, said, helps):
    with pytest.raises(DoesNotFit, match=said) as refused:
        plan_recipes(recipe, None, gpus, device, **given)
    message = str(refused.value)
    assert "are usable" in message
    words = message.split("It fits with ")[1].split()  # the advice, taken
    advice = {words[i].removeprefix("--"): words[i + 1] for i in range(0, len(words), 2)}
    call = {"gpus": gpus, "gpu": device, **given} | {k: int(v) if v.isdigit() else v for k, v in advice.items()}
    if helps:
        assert call.items() >= helps.items()
    plan_recipes(recipe, None, call.pop("gpus"), call.pop("gpu"), **call)


def test_a_model_no_number_of_gpus_holds_is_refused():
    tiny = replace(H100, memory=2 * GIB)
    with pytest.raises(DoesNotFit, match=r"(It fits with --gpu h200|No number of GPUs)"):
        plan_stage(video_768(), tiny, 8)


def test_a_layout_is_checked_with_the_recipe_s_own_micro_batch():
    recipe = video_768()
    plan = plan_stage(recipe, H200, 512)
    check_layout(recipe, H200, plan.layout)  # its micro-batch is 1
    most = plan.longest.micro_batches[plan.longest.bucket]
    with pytest.raises(DoesNotFit, match=f"{most + 1} x 256f.* set micro_batch: {most}"):
        check_layout(replace(recipe, micro_batch=most + 1), H200, plan.layout)
    with pytest.raises(DoesNotFit, match="cinemill train plan --recipe video_768 --gpus 2"):
        check_layout(recipe, H200, Layout(dp_replicate=2))
    check_layout(video_demo(), H200, Layout(dp_replicate=2))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("video_768", None, 8, "a100"), "--gpu a100 is not one of h200, h100"),
        ((None, None, 8, "h200"), "either --recipe NAME_OR_FILE or --stages"),
        (("video_768", "paper", 8, "h200"), "either --recipe NAME_OR_FILE or --stages"),
        ((None, "papers", 8, "h200"), "--stages papers is not one of demo, paper"),
        (("video_767", None, 8, "h200"), "nearest known one is 'video_768'"),
        (("video_768", None, 0, "h200"), "0 GPUs train nothing"),
    ],
)
def test_a_wrong_call_says_so(call, said):
    with pytest.raises(ValueError, match=said):
        plan_recipes(*call)
    with pytest.raises(ValueError, match=r"does not split over 8 GPUs with tp 3: .* 48 heads"):
        plan_recipes("video_768", None, 8, "h200", tp=3)


def test_an_autoencoder_is_planned_as_copies():
    with torch.device("meta"):
        count = sum(p.numel() for p in TAE(TAE_SIZES["moviegen"]).parameters())
    recipe = replace(tae_demo(), model=TAE_SIZES["moviegen"], autocast=True)
    plan = plan_stage(recipe, H200, 4)
    assert plan.parameters == count and plan.layout.dp_replicate == plan.layout.gpus
    assert plan.longest.memory["weights"] == 4 * count
    large = replace(recipe, buckets=video_768().buckets)
    with pytest.raises(DoesNotFit, match="activations"):
        plan_stage(large, H200, 4)
    with pytest.raises(ValueError, match="an autoencoder is whole on every GPU"):
        plan_stage(recipe, H200, 4, tp=2)


def test_the_command_prints_the_chain_and_its_json_adds_up(capsys):
    assert main(["train", "plan", "--stages", "paper", "--gpus", "512", "--json", "--price", "3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [stage["recipe"] for stage in printed["stages"]] == [stage.__name__ for stage in STAGES["paper"]]
    assert printed["total"]["cost"] == pytest.approx(3 * printed["total"]["gpu_hours"])
    # 3.1e24 by the paper's own formula (6 N S + 12 L S^2 d); ours leaves out what images in joint batches lack in tokens
    assert printed["total"]["model_flops"] == pytest.approx(3.1e24, rel=0.15)
    assert main(["train", "plan", "--stages", "paper", "--gpus", "512"]) == 0
    table = capsys.readouterr().out
    assert all(stage.__name__ in table for stage in STAGES["paper"]) and "none of them measured" in table
    assert all(f"  {name}: " in table for name in SOURCES)


def test_the_command_prints_one_recipe(capsys):
    assert main(["train", "plan", "--recipe", "video_768", "--gpus", "512"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "29.27 B parameters" in printed and "gathered weights" in printed and "executed PFLOP" in printed
    assert main(["train", "plan", "--recipe", "video_256", "--gpus", "4"]) == 2
    assert "It fits with --gpus 8" in capsys.readouterr().err
    assert plan_stage(video_demo(), H200, 1).layout == Layout()
