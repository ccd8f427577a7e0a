"""Learning rates, exclusions from decay, and the moving average."""

import pytest
import torch
from torch import nn

from models.video.transformer import VideoTransformer
from training.metrics import MetricsLog, MetricsTail, read_metrics
from training.optim import MovingAverage, OptimizerConfig, build_optimizer, learning_rate


def test_a_cosine_warms_up_and_ends_where_it_says():
    config = OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_steps=10, final_share=0.1)
    rates = [learning_rate(config, step, 110) for step in range(110)]

    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert learning_rate(OptimizerConfig(learning_rate=0.3), 50_000, 60_000) == 0.3


def test_norms_biases_positions_and_modulation_do_not_decay(video_recipe):
    model = VideoTransformer(video_recipe.model)
    decay, no_decay = build_optimizer(model, OptimizerConfig(learning_rate=1.0, weight_decay=0.1)).param_groups
    names = {id(p): name for name, p in model.named_parameters()}

    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.1, 0.0)
    assert {names[id(p)] for p in decay["params"]} >= {"patch_in.weight", "blocks.0.self_attention.to_q.weight"}
    excluded = {names[id(p)] for p in no_decay["params"]}
    assert excluded >= {
        "positions.time",
        "positions.row",
        "positions.column",
        "norm_out.weight",
        "blocks.0.bias",
        "modulation.weight",
    }
    assert len(decay["params"]) + len(no_decay["params"]) == len(names)


def test_the_average_is_float32_and_follows():
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.zeros_(model.weight)
    average = MovingAverage(model, decay=0.9)
    nn.init.ones_(model.weight)
    for _ in range(200):
        average.update(model)

    assert average.values["weight"].dtype == torch.float32
    assert float(average.values["weight"]) == pytest.approx(1.0, abs=1e-6)
    early = MovingAverage(nn.Linear(1, 1), decay=0.9999)
    early.update(nn.Linear(1, 1))
    assert early.updates == 1


def test_lines_come_back_once_each_and_a_torn_one_is_left_out(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("start", at_step=0, workers=1)
    for step, loss in ((1, 0.5), (2, 0.4), (2, 0.3)):
        log.write("step", step=step, loss=loss)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "st')

    assert [line["loss"] for line in read_metrics(tmp_path, "step")] == [0.5, 0.3]
    assert read_metrics(tmp_path)[0]["event"] == "start"
    assert read_metrics(tmp_path / "nowhere") == []
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_tail_gives_each_whole_line_once(tmp_path):
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write("step", step=1)
    old, new = MetricsTail(tmp_path, from_end=False), MetricsTail(tmp_path)
    assert [line["step"] for line in old.new()] == [1]
    assert new.new() == []

    log.write("step", step=2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "step": ')
        file.flush()
        assert [line["step"] for line in old.new()] == [2]
        file.write("3}\n")
    assert [line["step"] for line in old.new()] == [3]
    assert [line["step"] for line in new.new()] == [2, 3]
