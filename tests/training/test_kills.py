"""Workers and nodes die, move and multiply in the middle of a run; every later loss is the undisturbed run's."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.checkpoints import newest
from training.cluster import train_here, train_tae
from training.generate import generate
from training.lock import AnotherJob
from training.metrics import read_metrics
from training.parallel.mesh import ParallelConfig
from training.prepare import prepare_run
from training.recipes import TAERecipe
from training.runs import load_run
from training.world import World

ROOT = Path(__file__).parents[2]
STEPS = 24


@pytest.fixture(scope="session")
def recipe(tae_recipe: TAERecipe) -> TAERecipe:
    """Long enough to be killed in the middle, a checkpoint every 4 steps."""
    return replace(tae_recipe, name="tae_killed", steps=STEPS, checkpoint_every=4, validate_every=None)


@pytest.fixture(scope="session")
def straight(small_snapshot: str, recipe: TAERecipe, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run that nobody disturbs, on one worker with one thread."""
    out = tmp_path_factory.mktemp("straight") / "run"
    prepare_run("tae", small_snapshot, recipe, out)
    assert torchrun(out, 1).wait(timeout=300) == 0
    return losses(out)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out, "step")]


def torchrun(out: Path, processes: int, *words: str) -> subprocess.Popen[bytes]:
    """One gloo worker a process, one thread each, all on loopback."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-addr=127.0.0.1",
        f"--master-port={free_port()}", *words, "-m", "training.launch", str(out),
    ]  # fmt: skip
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(out: Path, condition: Callable[[list[dict[str, Any]]], Any], process: Any = None, seconds: float = 300):
    """The first true answer of `condition` to the run's lines so far."""
    deadline = time.monotonic() + seconds
    while True:
        if found := condition(read_metrics(out)):
            return found
        assert process is None or process.poll() is None, process.stdout.read().decode()[-3000:]
        assert time.monotonic() < deadline, f"waited {seconds} s in vain; the last line is {read_metrics(out)[-1:]}"
        time.sleep(0.01)


def at_step(step: int) -> Callable[[list[dict[str, Any]]], int | None]:
    """The first worker's process id once that step is done."""

    def found(lines: list[dict[str, Any]]) -> int | None:
        if not any(line["event"] == "step" and line["step"] >= step for line in lines):
            return None
        return next(line["pid"] for line in reversed(lines) if line["event"] in ("start", "resume"))

    return found


def test_a_worker_killed_at_any_step_of_torchrun_resumes_to_the_last_bit(small_snapshot, recipe, straight, tmp_path):
    out = tmp_path / "run"
    prepare_run("tae", small_snapshot, recipe, out)
    process = torchrun(out, 1, "--max-restarts=1")
    os.kill(wait_for(out, at_step(random.randint(5, STEPS - 2)), process), signal.SIGKILL)
    said, _ = process.communicate(timeout=300)

    assert process.returncode == 0, said.decode()[-3000:]
    assert losses(out) == straight
    resumed = read_metrics(out, "resume")
    assert len(resumed) == 1 and resumed[0]["at_step"] % 4 == 0


def test_sigterm_saves_leaves_and_is_continued(small_snapshot, recipe, straight, tmp_path):
    out = tmp_path / "run"
    prepare_run("tae", small_snapshot, replace(recipe, checkpoint_every=1000), out)
    process = torchrun(out, 1, "--max-restarts=3")
    os.kill(wait_for(out, at_step(3), process), signal.SIGTERM)
    process.communicate(timeout=300)

    assert process.returncode == 0 and read_metrics(out, "resume") == [], "left, and not started again"
    stopped = read_metrics(out, "stopped")[0]["at_step"]
    assert [line["at_step"] for line in read_metrics(out, "checkpoint")] == [stopped]
    assert torchrun(out, 1).wait(timeout=300) == 0
    assert losses(out) == straight


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_workers_then_two_three_and_one_compute_one_workers_losses(small_snapshot, recipe, straight, tmp_path):
    """Every change of number is a hard kill of a random worker's process."""
    out = tmp_path / "run"
    prepare_run("tae", small_snapshot, recipe, out)
    for number, processes in enumerate((4, 2, 3)):
        process = torchrun(out, processes)
        os.kill(wait_for(out, at_step(6 * number + 5), process), signal.SIGKILL)
        process.communicate(timeout=300)
    assert torchrun(out, 1).wait(timeout=300) == 0

    assert [line["workers"] for line in read_metrics(out) if line["event"] in ("start", "resume")] == [4, 2, 3, 1]
    assert losses(out) == pytest.approx(straight, rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sharded_transformer_is_killed_and_continued_in_other_layouts(small_snapshot, video_recipe, recipe, tmp_path):
    """Sharded data parallel on 4, context and tensor parallel on 4, two copies of two shards, and one alone."""
    tae = tmp_path / "tae"
    assert train_here(prepare_run("tae", small_snapshot, replace(recipe, steps=4), tae), World())
    whole = replace(video_recipe, steps=STEPS, checkpoint_every=4, sample_every=8, validate_every=8)
    alone, out = tmp_path / "alone", tmp_path / "run"
    prepare_run("video", small_snapshot, whole, alone, tae=tae)
    assert torchrun(alone, 1).wait(timeout=300) == 0
    for number, (layout, processes) in enumerate((("dp_shard=3", 3), ("cp=2,tp=2", 4), ("dp_shard=2", 2))):
        parallel = ParallelConfig.parse(layout)
        prepare_run("video", small_snapshot, whole, out, tae=tae, resume=number > 0, parallel=parallel)
        process = torchrun(out, processes)
        os.kill(wait_for(out, at_step(6 * number + 5), process), signal.SIGKILL)
        process.communicate(timeout=300)
    prepare_run("video", small_snapshot, whole, out, tae=tae, resume=True, parallel=ParallelConfig(tp=2))
    assert torchrun(out, 2).wait(timeout=300) == 0

    assert losses(out) == pytest.approx(losses(alone), rel=1e-4)
    assert [line["loss"] for line in read_metrics(out, "validation")] == pytest.approx(
        [line["loss"] for line in read_metrics(alone, "validation")], rel=1e-4
    )
    assert generate(out, "a film called bee", tmp_path / "clip.mp4", steps=2).path.stat().st_size > 0
    assert len(list((out / "grid").rglob("*.png"))) == len(list((alone / "grid").rglob("*.png"))) > 0


@pytest.mark.slow
def test_a_sharded_transformer_in_bfloat16_validates_and_draws_too(small_snapshot, video_recipe, recipe, tmp_path):
    tae = tmp_path / "tae"
    assert train_here(prepare_run("tae", small_snapshot, replace(recipe, steps=4), tae), World())
    narrow = replace(video_recipe, autocast=True, validate_every=2, sample_every=3)
    prepare_run("video", small_snapshot, narrow, tmp_path / "run", tae=tae, parallel=ParallelConfig(dp_shard=2))
    process = torchrun(tmp_path / "run", 2)
    said, _ = process.communicate(timeout=300)

    assert process.returncode == 0, said.decode()[-3000:]
    assert len(read_metrics(tmp_path / "run", "validation")) == 4
    assert len(list((tmp_path / "run" / "grid").rglob("*.png"))) == 6


@pytest.mark.slow
def test_torchrun_is_told_once_too(small_snapshot, recipe, tmp_path):
    wild = replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=1e30, warmup_steps=0, clip_norm=1e30))
    prepare_run("tae", small_snapshot, wild, tmp_path / "run")
    process = torchrun(tmp_path / "run", 1, "--max-restarts=2")
    said, _ = process.communicate(timeout=300)

    assert process.returncode == 1
    assert len(read_metrics(tmp_path / "run", "not_finite")) == 1
    assert b"is no finite number, on clips" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_ray_worker_resumes_to_the_last_bit(ray_cluster, small_snapshot, recipe, tmp_path):
    train_tae(small_snapshot, recipe, tmp_path / "straight")
    out = tmp_path / "run"
    killer = threading.Thread(
        target=lambda: os.kill(wait_for(out, at_step(random.randint(5, STEPS - 2))), signal.SIGKILL), daemon=True
    )
    killer.start()
    train_tae(small_snapshot, recipe, out)

    assert not killer.is_alive()
    assert losses(out) == losses(tmp_path / "straight")
    assert len(read_metrics(out, "resume")) == 1


@pytest.mark.slow
def test_one_error_is_told_once_and_not_tried_again(ray_cluster, small_snapshot, recipe, tmp_path):
    """A learning rate that ends in no number does so each time: Ray is not asked to start again and again."""
    from training.cluster import RunFailed

    wild = replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=1e30, warmup_steps=0, clip_norm=1e30))
    with pytest.raises(RunFailed, match=r"NotFinite: the (loss|gradient) of step \d+ is no finite number, on clips"):
        train_tae(small_snapshot, wild, tmp_path / "run")
    assert len(read_metrics(tmp_path / "run", "not_finite")) == 1


def test_a_folder_belongs_to_one_job(small_snapshot, recipe, tmp_path, monkeypatch):
    out = tmp_path / "run"
    run = prepare_run("tae", small_snapshot, recipe, out)
    monkeypatch.setattr("training.lock.WAIT_SECONDS", 0.5)
    process = torchrun(out, 1)
    wait_for(out, at_step(1), process)
    os.kill(pid := wait_for(out, at_step(1), process), signal.SIGSTOP)
    try:
        with pytest.raises(ValueError, match="another job is training in"):
            prepare_run("tae", small_snapshot, recipe, out, resume=True)
        with pytest.raises(AnotherJob, match="another job is training in"):
            train_here(run, World())
    finally:
        os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)


class Nodes:
    """A Ray of several nodes of one core, each with its own loopback address, each to be lost alone."""

    def __init__(self) -> None:
        self.address = f"127.0.0.2:{free_port()}"
        self.temporary = f"/tmp/cinemill-train-{os.getpid()}"  # Ray's socket paths must stay short
        self.environment = os.environ | {
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        port = self.address.rpartition(":")[2]
        self.nodes = {
            "127.0.0.2": self._start(
                "127.0.0.2", "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.temporary}"
            )
        }
        time.sleep(8)

    def add(self, host: str) -> None:
        self.nodes[host] = self._start(host, f"--address={self.address}")

    def lose(self, host: str) -> None:
        """SIGKILL for the node's processes: it loses its power."""
        process = self.nodes.pop(host)
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents.setdefault(int(entry.read_text().rsplit(")", 1)[1].split()[1]), []).append(
                    int(entry.parent.name)
                )
            except OSError:
                continue
        doomed = [process.pid]
        for one in doomed:
            doomed += parents.get(one, [])
        for one in doomed:
            try:
                os.kill(one, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()

    def id_of(self, host: str) -> str:
        """Ray's name of a node."""
        code = (
            f"import ray; ray.init(address={self.address!r}, log_to_driver=False, logging_level=40); "
            f"print([n['NodeID'] for n in ray.nodes() if n['NodeManagerAddress'] == {host!r}][0])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.split()[-1]

    def close(self) -> None:
        for host in list(self.nodes)[::-1]:
            self.lose(host)
        subprocess.run(["rm", "-rf", self.temporary], check=False)

    def _start(self, host: str, *words: str) -> subprocess.Popen[bytes]:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
        command = [*ray, "--object-store-memory=100000000", f"--node-ip-address={host}", *words]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, env=self.environment, stdout=quiet, stderr=quiet, start_new_session=True)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_elastic_run_loses_a_node_goes_on_with_one_worker_and_grows_again(
    nodes, small_snapshot, recipe, straight, tmp_path
):
    nodes.add("127.0.0.3")
    time.sleep(8)
    out = tmp_path / "run"
    endless = replace(recipe, steps=100_000, optimizer=replace(recipe.optimizer, schedule="constant"))
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(endless)))))
    command = [
        sys.executable, "-m", "api.cli", "train", "tae", "--manifest", small_snapshot, "--recipe", str(file),
        "--out", str(out), "--workers", "1-2", "--address", nodes.address,
    ]  # fmt: skip
    run = subprocess.Popen(command, cwd=ROOT, env=nodes.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def workers_now(number: int) -> Callable[[list[dict[str, Any]]], bool]:
        return lambda lines: [x["workers"] for x in lines if x["event"] in ("start", "resume")][-1:] == [number]

    wait_for(out, workers_now(2), run)
    wait_for(out, at_step(9), run)
    nodes.lose("127.0.0.3")
    wait_for(out, workers_now(1), run)
    restarted = read_metrics(out, "resume")[-1]["at_step"]
    nodes.add("127.0.0.4")
    wait_for(out, workers_now(2), run)
    grown = read_metrics(out, "resume")[-1]["at_step"]
    wait_for(out, at_step(grown + 8), run)
    (out / "STOP").touch()
    run.communicate(timeout=300)

    disturbed, alone = losses(out), tmp_path / "alone"
    until = min(len(disturbed), restarted + 300)
    run_alone = prepare_run("tae", small_snapshot, endless, alone)
    assert not train_here(run_alone, World(), lambda: "stop" if len(losses(alone)) >= until else None)
    assert [line["step"] for line in read_metrics(out, "step")] == list(range(1, len(disturbed) + 1))
    batches = [[line["batch"] for line in read_metrics(folder, "step")][:until] for folder in (out, alone)]
    assert batches[0] == batches[1], "the same clips, captions and noise, whoever was there"
    # Sums over two workers round otherwise than one's, and at a constant rate the difference grows: 1e-4 at step 40 here.
    assert disturbed[:24] == pytest.approx(losses(alone)[:24], rel=1e-4)
    assert disturbed[:until] == pytest.approx(losses(alone)[:until], rel=0.2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_that_is_about_to_go_is_answered_with_a_checkpoint(nodes, small_snapshot, recipe, tmp_path):
    """A drain with a deadline is what a spot machine's notice becomes in Ray."""
    nodes.add("127.0.0.3")
    time.sleep(8)
    out = tmp_path / "run"
    rare = replace(recipe, steps=100_000, checkpoint_every=50_000)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(rare)))))
    command = [
        sys.executable, "-m", "api.cli", "train", "tae", "--manifest", small_snapshot, "--recipe", str(file),
        "--out", str(out), "--workers", "1-2", "--address", nodes.address,
    ]  # fmt: skip
    run = subprocess.Popen(command, cwd=ROOT, env=nodes.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for(out, at_step(5), run)
    drain = [
        sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--address={nodes.address}", "--node-id",
        nodes.id_of("127.0.0.3"), "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
        "--deadline-remaining-seconds", "60",
    ]  # fmt: skip
    subprocess.run(drain, env=nodes.environment, check=True, capture_output=True)
    saved = wait_for(out, lambda lines: [line for line in lines if line["event"] == "checkpoint"], run)
    resumed = wait_for(out, lambda lines: [line for line in lines if line["event"] == "resume"], run)
    (out / "STOP").touch()
    run.communicate(timeout=300)

    assert saved[0]["at_step"] < 50_000, "long before its turn"
    assert resumed[0]["at_step"] == saved[0]["at_step"] and resumed[0]["workers"] == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_that_never_comes_back_is_told_and_costs_no_checkpoint(nodes, small_snapshot, recipe, tmp_path):
    nodes.add("127.0.0.3")
    time.sleep(8)
    out = tmp_path / "run"
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(replace(recipe, steps=100_000))))))
    command = [
        sys.executable, "-m", "api.cli", "train", "tae", "--manifest", small_snapshot, "--recipe", str(file),
        "--out", str(out), "--workers", "2", "--address", nodes.address,
    ]  # fmt: skip
    environment = nodes.environment | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3"}
    run = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(out, at_step(14), run)
    nodes.lose("127.0.0.3")
    said, _ = run.communicate(timeout=600)

    assert run.returncode == 1
    assert "the cluster has no room for 2 workers" in said and "--resume" in said, said[-2000:]
    assert newest(load_run(out).storage).step >= 8, "a save at step 12 may still have been going on"
