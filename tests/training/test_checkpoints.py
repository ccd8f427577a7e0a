"""A checkpoint is there whole, or it is not there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from models.autoencoders.tae import TAE
from training.checkpoints import list_checkpoints, load_checkpoint, newest, save_checkpoint
from training.loop import Training
from training.optim import OptimizerConfig

OPTIMIZER = OptimizerConfig(learning_rate=1e-2)


@pytest.fixture
def training(tae_recipe):
    torch.manual_seed(0)
    made = Training.start(TAE(tae_recipe.model), OPTIMIZER)
    for parameter in made.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    made.optimizer.step()
    made.average.update(made.model)
    return made


def save(out: Path, step: int, training: Training, keep: int = 3):
    return save_checkpoint(
        out,
        step,
        model=training.model,
        average=training.average,
        optimizer=training.optimizer,
        state={"unreadable": []},
        keep=keep,
    )


def test_what_is_saved_comes_back(training, tmp_path, tae_recipe):
    save(tmp_path, 5, training)
    torch.manual_seed(9)
    other = Training.start(TAE(tae_recipe.model), OPTIMIZER, newest(tmp_path))

    assert other.step == 5
    for name, value in training.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value)
        assert torch.equal(other.average.values[name], training.average.values[name])
    assert other.average.updates == training.average.updates
    ours, theirs = training.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert all(torch.equal(ours[i]["exp_avg_sq"], theirs[i]["exp_avg_sq"]) for i in ours)


def test_the_newest_with_a_commit_wins_and_the_last_few_stay(training, tmp_path):
    for step in (2, 4, 6, 8):
        save(tmp_path, step, training, keep=2)

    assert [c.step for c in list_checkpoints(tmp_path)] == [6, 8]
    (tmp_path / "checkpoints" / "step-00000008" / "COMMIT").unlink()
    assert newest(tmp_path).step == 6


def test_a_folder_with_a_short_file_does_not_count(training, tmp_path):
    save(tmp_path, 2, training)
    later = save(tmp_path, 4, training)
    weights = later.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    assert newest(tmp_path).step == 2


def test_leftovers_of_a_killed_save_are_ignored_and_replaced(training, tmp_path):
    save(tmp_path, 2, training)
    debris = tmp_path / "checkpoints" / "step-00000004.partial"
    debris.mkdir()
    (debris / "COMMIT").write_text("{}")
    (debris / "junk").write_text("half a file")

    assert newest(tmp_path).step == 2
    assert not (save(tmp_path, 4, training).path / "junk").exists()
    assert not debris.exists()
    assert newest(tmp_path).step == 4


def test_no_checkpoint_is_none(tmp_path):
    assert newest(tmp_path) is None


KILLED = """
import sys
from pathlib import Path
import torch
from models.autoencoders.tae import TAE, TAEConfig
from training.checkpoints import save_checkpoint
from training.loop import Training
from training.optim import OptimizerConfig
torch.set_num_threads(1)
model = TAE(TAEConfig(channels=16, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=4, groups=4, patch=4))
training = Training.start(model, OptimizerConfig(learning_rate=1e-2))
print("ready", flush=True)
for step in range(1, 100000):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float(step))
    save_checkpoint(Path(sys.argv[1]), step, model=model, average=training.average, optimizer=training.optimizer,
                    state={"unreadable": []}, keep=2)
"""


@pytest.mark.parametrize("milliseconds", [60, 140])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, milliseconds):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    while newest(tmp_path) is None:
        time.sleep(0.01)
    time.sleep(milliseconds / 1000)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    found = newest(tmp_path)
    assert found is not None
    config = json.loads((found.path / "config.json").read_text())["config"]
    from models.autoencoders.tae import TAEConfig

    model = TAE(TAEConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}))
    fresh = Training.start(model, OPTIMIZER)
    load_checkpoint(found, model=fresh.model, average=fresh.average, optimizer=fresh.optimizer)
    values = torch.cat([p.flatten() for p in fresh.model.parameters()])
    assert (values == found.step).all(), "every weight is from the step that the folder names"
