"""Train without Ray: what torchrun, Slurm or a plain shell starts once per device.

    cinemill train tae ... --out OUT --prepare
    torchrun --nproc-per-node 4 --max-restarts 3 -m training.launch OUT

A restart continues from the newest checkpoint, on any number of processes. SIGTERM to a worker, or a file STOP in OUT,
saves a checkpoint and leaves. An error that would come again is not tried again.
"""

import argparse
import os
import signal
import sys
from typing import Literal

import torch
import torch.distributed as dist

from training.cluster import FAILURE_FILE, LASTING, tell_failure, train_here
from training.runs import load_run
from training.world import World

STOPPED = (
    75  # exit code of a run that was asked to leave before its end: "try again later". Under torchrun, which would: 0
)


def main() -> int:
    """One worker, told by the environment who it is: RANK, WORLD_SIZE, LOCAL_RANK, OMP_NUM_THREADS."""
    parser = argparse.ArgumentParser(prog="python -m training.launch", description=__doc__)
    parser.add_argument("out", help="the run's folder, written by `cinemill train ... --prepare`")
    arguments = parser.parse_args()
    world = _join()
    signal.signal(signal.SIGTERM, lambda *_: asked.add("stop"))
    run = load_run(arguments.out)
    failure = run.out / FAILURE_FILE
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) and failure.exists():
        print(failure.read_text(), file=sys.stderr)
        return 1
    failure.unlink(missing_ok=True)
    try:
        finished = train_here(run, world, _asked)
        return 0 if finished or "TORCHELASTIC_RUN_ID" in os.environ else STOPPED
    except LASTING as error:
        tell_failure(run.out, error)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


asked: set[Literal["stop"]] = set()


def _asked() -> Literal["stop"] | None:
    return "stop" if asked else None


def _join() -> World:
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if size > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return World(rank=rank, size=size, device=device)


if __name__ == "__main__":
    sys.exit(main())
