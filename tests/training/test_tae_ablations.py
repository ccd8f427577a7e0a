"""The ablations of the autoencoder run, and what they plant is what the penalty sees."""

import torch

from benchmarks.tae_ablations import CONFIG, compare_penalties, compare_starts, groups, plant, table, windows
from models.autoencoders.outlier import outlier_penalty
from models.autoencoders.tae import TAE


def test_both_tables_come_out(monkeypatch):
    trained, held_out = windows()
    assert trained.shape == held_out.shape == (6, 3, 16, 64, 64)
    starts, tae = compare_starts(trained, held_out, 2)
    assert [row.steps for row in starts[:3]] == [0, 2, 2] and starts[3].steps > 2
    assert abs(starts[3].teraflops - starts[1].teraflops) < starts[3].teraflops / 4  # as many operations
    rows = compare_penalties(tae, trained, held_out, 1)
    assert [row.arm for row in rows][-2:] == ["penalty off", "penalty on, 1e5"]
    assert table(rows, latents=True).count("\n") == 1 + len(rows)


def test_a_planted_outlier_pays_and_the_rest_is_left_alone():
    torch.manual_seed(0)
    tae, clips = TAE(CONFIG), torch.rand(2, 3, 16, 64, 64) * 2 - 1
    planted = plant(tae, clips)
    with torch.no_grad():
        before, after = (outlier_penalty(model.encode_posterior(clips).mean) for model in (tae, planted))
    assert after > before
    changed = [name for name, p in tae.state_dict().items() if not torch.equal(p, planted.state_dict()[name])]
    assert changed == ["encoder.conv_out.weight"]


def test_batches_are_three_videos_and_one_image():
    clips = torch.rand(6, 3, 16, 8, 8)
    videos, image = groups(7, clips)
    again, _ = groups(7, clips)
    assert videos.data.shape[0] == 3 and image.data.shape == (1, 3, 1, 8, 8)
    assert torch.equal(videos.data, again.data)
    assert len({sample.row for group in (videos, image) for sample in group.samples}) == 4
