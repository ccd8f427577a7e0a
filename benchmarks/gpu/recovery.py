"""Killed while it trains and continued: later losses are those of a run that was left alone.

`python -m benchmarks.gpu.recovery FOLDER` trains with our loop and Saver, from the newest checkpoint in FOLDER if there is
one; the section runs it three times.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu.correctness import deterministic
from benchmarks.gpu.report import Report
from benchmarks.gpu.sizes import FULL, SMALL
from benchmarks.gpu.synthetic import OPTIMIZER, RandomBatches, build, objective
from models.attention import use_backend
from training.checkpoints import newest
from training.loop import LoopConfig, Training, run_loop
from training.metrics import MetricsLog, read_metrics
from training.storage import LocalStorage
from training.world import World

STEPS, EVERY, HELD_AT = 14, 4, 10  # in all; between checkpoints; where the run waits to be killed, two past one
LIMIT = 1e-6  # of a loss, relative; 0 is to the last bit
START_SECONDS = 60.0  # that a process may take to start and do its steps


def run(report: Report) -> None:
    """Alone, killed, resumed."""
    with tempfile.TemporaryDirectory(prefix="cinemill-gpu-") as place:
        alone, broken = Path(place) / "alone", Path(place) / "broken"
        report.check("losses after a kill and a resume, relative", lambda: recovered(report, alone, broken), LIMIT)


def recovered(report: Report, alone: Path, broken: Path) -> float:
    """The largest relative difference of a loss after the resume."""
    _finish(_start(report, alone))
    victim = _start(report, broken, "--hold")
    _wait_for_step(victim, broken)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    killed_at = len(read_metrics(broken, "step"))
    _finish(_start(report, broken))
    resumed_at = read_metrics(broken, "resume")[0]["at_step"]
    expected, found = ({line["step"]: line["loss"] for line in read_metrics(out, "step")} for out in (alone, broken))
    if not (0 < resumed_at < killed_at < STEPS == len(expected) == len(found)):
        raise AssertionError(f"killed at {killed_at}, resumed at {resumed_at}, {len(found)} of {STEPS} steps told")
    later = range(resumed_at + 1, STEPS + 1)
    worst = max(abs(found[step] / expected[step] - 1) for step in later)
    report.row(
        "kill and resume",
        killed_after=killed_at,
        resumed_from=resumed_at,
        steps_compared=len(later),
        loss_alone=expected[STEPS],
        loss_resumed=found[STEPS],
        to_the_last_bit="yes" if worst == 0 else "no",
    )
    return worst


def _start(report: Report, out: Path, *more: str) -> subprocess.Popen[bytes]:
    small = ["--small"] if report.sizes is SMALL else []
    command = [sys.executable, "-m", "benchmarks.gpu.recovery", str(out), "--device", str(report.device), *small, *more]
    return subprocess.Popen(command, env=os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})


def _finish(process: subprocess.Popen[bytes]) -> None:
    try:
        code = process.wait(START_SECONDS)
    finally:
        process.kill()
    if code:
        raise RuntimeError(f"the training process left with exit code {code}; its words are in this section's log")


def _wait_for_step(process: subprocess.Popen[bytes], out: Path) -> None:
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < START_SECONDS:
        if len(read_metrics(out, "step")) >= HELD_AT:
            return
        time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"the run to be killed did not reach step {HELD_AT}; its words are in this section's log")


def train(out: Path, device: torch.device, *, small: bool, hold: bool) -> None:
    """Up to the last step, from the newest checkpoint; with `hold` stand still after step 10, checkpoint 8 being written."""
    sizes = SMALL if small else FULL
    config, world, storage = sizes.learner, World(device=device), LocalStorage(out / "checkpoints")
    checkpoint = newest(storage)
    training = Training.start(build(config, device), OPTIMIZER, checkpoint)
    log = MetricsLog(out, tensorboard=False)
    if checkpoint:
        log.write("resume", at_step=checkpoint.step)
    loop = LoopConfig(steps=STEPS, optimizer=OPTIMIZER, checkpoint_every=EVERY, autocast=True)

    def after_step(step: int) -> None:
        while hold and step == HELD_AT:
            time.sleep(1)

    with deterministic(), use_backend("flash", "math"):
        run_loop(
            training,
            objective(config, sizes.text_tokens, device),
            RandomBatches(model=config, clip=sizes.learner_clip, device=device, samples=2),
            loop,
            out=out,
            storage=storage,
            world=world,
            num_rows=2,
            state={},
            log=log,
            after_step=after_step,
        )
    log.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--hold", action="store_true")
    arguments = parser.parse_args()
    train(arguments.out, torch.device(arguments.device), small=arguments.small, hold=arguments.hold)


if __name__ == "__main__":
    main()
