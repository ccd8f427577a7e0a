"""A checkpoint is there whole, or it is not there; and it comes back as it was, on any number of workers."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.autoencoders.tae import TAE
from models.weights import load_model, model_document
from training.checkpoints import (
    CheckpointFailed,
    Saver,
    export_model,
    list_checkpoints,
    load_checkpoint,
    newest,
)
from training.cluster import train_here
from training.loop import Training
from training.metrics import read_metrics
from training.optim import OptimizerConfig
from training.prepare import prepare_run
from training.storage import LocalStorage, Storage, open_storage
from training.world import World

OPTIMIZER = OptimizerConfig(learning_rate=1e-2)


@pytest.fixture
def training(tae_recipe) -> Training:
    torch.manual_seed(0)
    made = Training.start(TAE(tae_recipe.model), OPTIMIZER)
    for parameter in made.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    made.optimizer.step()
    made.average.update(made.model)
    return made


@pytest.fixture
def storage(tmp_path) -> Storage:
    return open_storage(tmp_path / "checkpoints")


def save(storage: Storage, step: int, training: Training, keep: int = 3) -> None:
    saver = Saver(storage, keep=keep)
    saver.save(step, training.tensors(), state=training.described(), config=model_document(training.model))
    saver.finish()
    saver.close()


def test_what_is_saved_comes_back(training, storage, tae_recipe):
    save(storage, 5, training)
    torch.manual_seed(9)
    other = Training.start(TAE(tae_recipe.model), OPTIMIZER, newest(storage))

    assert other.step == 5
    for name, value in training.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value)
        assert torch.equal(other.average.values[name], training.average.values[name])
    assert other.average.updates == training.average.updates
    ours, theirs = training.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    for number, state in ours.items():
        assert all(torch.equal(theirs[number][name], value) for name, value in state.items())
        assert state["step"] == 1 and state["exp_avg_sq"].abs().sum() > 0


def test_what_training_does_while_a_checkpoint_is_written_is_not_in_it(training, storage, tae_recipe):
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    steps = [state["step"].clone() for state in training.optimizer.state.values()]
    saver = Saver(storage)
    saver.save(1, training.tensors(), state=training.described(), config=model_document(training.model))
    with torch.no_grad():  # at once, while the thread writes
        for parameter in training.model.parameters():
            parameter.fill_(7.0)
        for state in training.optimizer.state.values():
            state["step"].fill_(99.0)
    saver.finish()
    saver.close()

    other = Training.start(TAE(tae_recipe.model), OPTIMIZER, newest(storage))
    assert all(torch.equal(other.model.state_dict()[name], value) for name, value in before.items())
    assert [state["step"] for state in other.optimizer.state.values()] == steps


def test_the_newest_with_a_commit_wins_and_the_last_few_stay(training, storage, tmp_path):
    for step in (2, 4, 6, 8):
        save(storage, step, training, keep=2)

    assert [c.step for c in list_checkpoints(storage)] == [6, 8]
    (tmp_path / "checkpoints" / "step-00000008" / "COMMIT").unlink()
    assert newest(storage).step == 6


def test_a_folder_with_a_short_or_missing_file_does_not_count(training, storage, tmp_path):
    for step in (2, 4, 6):
        save(storage, step, training)
    weights = tmp_path / "checkpoints" / "step-00000004" / "__0_0.distcp"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "checkpoints" / "step-00000006" / ".metadata").unlink()

    assert newest(storage).step == 2


def test_leftovers_of_a_killed_save_are_ignored_replaced_and_removed(training, storage, tmp_path):
    save(storage, 2, training)
    for step in (3, 4):
        debris = tmp_path / "checkpoints" / f"step-0000000{step}"
        debris.mkdir()
        (debris / "junk").write_text("half a file")

    assert newest(storage).step == 2
    save(storage, 4, training)
    assert storage.folders() == ["step-00000002", "step-00000004"]
    assert "junk" not in storage.sizes("step-00000004")
    assert newest(storage).step == 4


def test_no_checkpoint_is_none(storage):
    assert newest(storage) is None


def test_its_moving_average_becomes_a_model(training, storage, tmp_path):
    save(storage, 2, training)
    model = load_model(export_model(newest(storage), tmp_path / "exported"))

    assert all(torch.equal(value, training.average.values[name]) for name, value in model.state_dict().items())


def test_a_step_saved_again_is_exported_again(training, storage, tmp_path):
    save(storage, 2, training)
    first = export_model(newest(storage), tmp_path / "exported")
    training.average.values = {name: value + 1 for name, value in training.average.values.items()}
    save(storage, 2, training)
    again = export_model(newest(storage), tmp_path / "exported")

    assert first != again and export_model(newest(storage), tmp_path / "exported") == again
    for name, value in load_model(again).state_dict().items():
        assert torch.equal(value, training.average.values[name])


def test_a_checkpoint_that_is_there_survives_an_error_while_old_ones_are_dropped(training, storage, monkeypatch):
    save(storage, 2, training, keep=1)
    whole = LocalStorage.remove

    def refuses(self, folder):
        if folder == "step-00000002":
            raise OSError("the server is busy")
        whole(self, folder)

    monkeypatch.setattr(LocalStorage, "remove", refuses)
    save(storage, 4, training, keep=1)
    assert newest(storage).step == 4


def test_an_unreadable_storage_is_no_empty_one(training, storage, monkeypatch):
    save(storage, 2, training)
    monkeypatch.setattr(LocalStorage, "read", lambda self, name: (_ for _ in ()).throw(OSError("503 slow down")))
    with pytest.raises(OSError, match="503"):
        newest(storage)


def test_a_checkpoint_that_another_version_wrote_is_told_in_a_sentence(training, storage, tmp_path, tae_recipe):
    folder = tmp_path / "checkpoints" / "step-00000003"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "COMMIT").write_text('{"model.safetensors": 7}')
    with pytest.raises(ValueError, match=r"step-00000003 cannot be read: .*remove it to continue"):
        Training.start(TAE(tae_recipe.model), OPTIMIZER, newest(storage))


def test_a_checkpoint_of_another_architecture_is_refused_and_changes_nothing(training, storage, tae_recipe):
    save(storage, 2, training)
    other = Training.start(TAE(replace(tae_recipe.model, channels=16)), OPTIMIZER)
    before = {name: value.clone() for name, value in other.model.state_dict().items()}

    with pytest.raises(
        ValueError, match=r"step-00000002 is a checkpoint of another architecture: .* there and .* here"
    ):
        load_checkpoint(newest(storage), other.tensors())
    assert all(torch.equal(value, before[name]) for name, value in other.model.state_dict().items())


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MiB: a real one, which only root may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("NOT TESTED HERE: mounting a disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_costs_the_save_and_nothing_else(training, small_disk, tae_recipe):
    storage = open_storage(small_disk / "checkpoints")
    save(storage, 2, training)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(16 * 2**20 - sum(storage.sizes("step-00000002").values()) - 65536))

    with pytest.raises(CheckpointFailed, match=r"step 4 could not be written to .*No space left on device.* --resume"):
        save(storage, 4, training)
    assert [c.step for c in list_checkpoints(storage)] == [2]
    assert storage.folders() == ["step-00000002"], "what was written of it is gone again"
    filler.unlink()
    save(storage, 4, training)
    assert Training.start(TAE(tae_recipe.model), OPTIMIZER, newest(storage)).step == 4


KILLED = """
import sys
from pathlib import Path
import torch
from models.autoencoders.tae import TAE, TAEConfig
from models.weights import model_document
from training.checkpoints import Saver
from training.cluster import train_here
from training.loop import Training
from training.metrics import read_metrics
from training.optim import OptimizerConfig
from training.storage import open_storage
torch.set_num_threads(1)
model = TAE(TAEConfig(channels=16, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=4, groups=4, patch=4))
training = Training.start(model, OptimizerConfig(learning_rate=1e-2))
saver = Saver(open_storage(Path(sys.argv[1])), keep=2)
print("ready", flush=True)
for step in range(1, 100000):
    with torch.no_grad():
        for tensor in (*model.parameters(), *training.average.values.values()):
            tensor.fill_(float(step))
    saver.save(step, training.tensors(), state=training.described(), config=model_document(model))
"""


@pytest.mark.parametrize("milliseconds", [60, 140])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, milliseconds):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    storage = open_storage(tmp_path)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    while newest(storage) is None:
        time.sleep(0.01)
    time.sleep(milliseconds / 1000)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    found = newest(storage)
    assert found is not None and json.loads(storage.read(f"{found.folder}/COMMIT"))
    model = load_model(export_model(found, tmp_path / "exported"))
    fresh = Training.start(model, OPTIMIZER, found)
    values = torch.cat([p.flatten() for p in (*fresh.model.parameters(), *fresh.average.values.values())])
    assert (values == found.step).all(), "every weight is from the step that the folder names"


def test_a_bucket_keeps_them_as_a_folder_does(s3, training, tae_recipe, tmp_path):
    storage = open_storage(f"{s3}/checkpoints")
    assert newest(storage) is None
    for step in (2, 4, 6):
        save(storage, step, training, keep=2)
    other = Training.start(TAE(tae_recipe.model), OPTIMIZER, newest(storage))

    assert [c.step for c in list_checkpoints(storage)] == [4, 6]
    assert newest(storage).path == f"{s3}/checkpoints/step-00000006"
    for name, value in training.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value)
        assert torch.equal(other.average.values[name], training.average.values[name])
    exported = load_model(export_model(newest(storage), tmp_path / "exported"))
    assert all(torch.equal(value, training.average.values[name]) for name, value in exported.state_dict().items())
    storage.remove("step-00000006")
    storage.remove("step-00000002")  # long gone
    assert newest(storage).step == 4


def test_a_place_that_cannot_be_written_is_told_before_any_work(s3, small_snapshot, tae_recipe, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="s3:// and gs://"):
        prepare_run("tae", small_snapshot, tae_recipe, tmp_path / "run", checkpoints="ftp://host/run")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ValueError, match=r"--checkpoints s3://lake/run cannot be written: .*Look at the address"):
        prepare_run("tae", small_snapshot, tae_recipe, tmp_path / "run", checkpoints=f"{s3}/run")
    assert not (tmp_path / "run").exists()


def test_a_run_may_change_its_layout_and_its_cache_where_its_checkpoints_are(
    small_snapshot, tae_recipe, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    first = prepare_run("tae", small_snapshot, tae_recipe, tmp_path / "run", checkpoints="kept")
    again = prepare_run(
        "tae",
        small_snapshot,
        tae_recipe,
        tmp_path / "run",
        resume=True,
        checkpoints=str(tmp_path / "kept"),
        cache="shared",
    )
    assert first.checkpoints == again.checkpoints == str(tmp_path / "kept")


def test_two_runs_cannot_share_one_place_for_checkpoints(s3, small_snapshot, tae_recipe, tmp_path):
    uri = f"{s3}/shared"
    prepare_run("tae", small_snapshot, tae_recipe, tmp_path / "one", checkpoints=uri)
    with pytest.raises(ValueError, match=r"s3://lake/shared keeps the checkpoints of another run, .*one"):
        prepare_run("tae", small_snapshot, tae_recipe, tmp_path / "two", checkpoints=uri)


def test_a_run_whose_checkpoints_are_in_a_bucket_continues_from_them(s3, small_snapshot, tae_recipe, tmp_path):
    straight = prepare_run("tae", small_snapshot, tae_recipe, tmp_path / "straight")
    assert train_here(straight, World())
    stopped = prepare_run("tae", small_snapshot, tae_recipe, tmp_path / "run", checkpoints=f"{s3}/run")
    (stopped.out / "STOP").touch()
    assert not train_here(stopped, World())
    assert train_here(
        prepare_run("tae", small_snapshot, tae_recipe, stopped.out, resume=True, checkpoints=f"{s3}/run"), World()
    )

    losses = [[line["loss"] for line in read_metrics(run.out, "step")] for run in (straight, stopped)]
    assert losses[0] == losses[1]
    assert not (stopped.out / "checkpoints").exists()
    assert [c.step for c in list_checkpoints(stopped.storage)][-1] == tae_recipe.steps
