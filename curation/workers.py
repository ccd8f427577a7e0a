"""The one door to Ray in curation: connect, hash footage, and stream shards through a pool of actors."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of Ray's own C++ core; what matters reaches us as exceptions

import ray
import ray.data

from curation.clips.errors import UnreadableVideo, WrongCall
from curation.clips.frames import probe
from curation.clips.storage import local_copy, sha256
from curation.measure import START_SECONDS, Video, facts_row, twice
from curation.prison import Prison
from curation.shard import ShardJob, as_item, from_item, run_shard

LOOPBACK = "127.0.0.2"  # Ray rewrites 127.0.0.1 to the machine's outer address; this one it leaves alone
WORKER_MEMORY = (
    1_300 << 20
)  # measured peak of one worker and its prison; 350 MB of it are libraries that workers share (LOG.md)
IDENTIFIER_MEMORY = 400 << 20  # measured peak: 150 MB, its prison 130
RAY_MEMORY = 600 << 20  # measured: Ray's own processes on one machine
DRIVER_MEMORY = 300 << 20


def connect(address: str | None = None) -> None:
    """Join the Ray at `address`, or start one on this machine's loopback. A Ray that is already joined is used as it is."""
    if ray.is_initialized():
        return
    try:
        with _stderr_closed():
            if address is not None:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(
                    _node_ip_address=LOOPBACK,
                    include_dashboard=False,
                    object_store_memory=256 << 20,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
    except ConnectionError as error:
        raise WrongCall(
            f"no Ray answers at {address}; start one with `ray start --head`, or leave --address out"
        ) from error
    # Ray prints errors of tasks that it tries again to stdout, where --json promises nothing but JSON
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Ray's C++ core greets on file descriptor 2; what goes wrong is raised."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def disconnect() -> None:
    ray.shutdown()


def num_workers() -> int:
    """How many curation workers the cluster holds at once: by cores, and by memory."""
    resources = ray.cluster_resources()
    by_memory = int(resources.get("memory", 0) // WORKER_MEMORY)
    return max(1, min(int(resources.get("CPU", 1)), by_memory))


def _declared(memory: int) -> int:
    """What a stage declares to Ray: what it was measured to hold, or all that a small node has, or Ray would wait for ever."""
    return min(memory, max(int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"]))


def memory_needed(workers: int) -> int:
    """Bytes that a run with so many workers holds at most: Ray, this process, and each worker with its prison."""
    return RAY_MEMORY + DRIVER_MEMORY + workers * WORKER_MEMORY


class Identifier:
    """One actor, one core: reads footage once for its identity, and asks the container (the ladder's first rung) what it holds."""

    def __init__(self) -> None:
        self.prison = Prison()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "uri": row["uri"],
            "sha256": None,
            "size": 0,
            "cause": None,
            "error": None,
            "attempts": 1,
        }
        try:
            with local_copy(row["uri"]) as path:
                found["sha256"], found["size"] = sha256(path)
                facts, found["attempts"] = twice(lambda _: self.prison.run(probe, path, seconds=START_SECONDS))
            found |= facts_row(facts)
        except UnreadableVideo as error:
            found |= {"cause": error.cause, "error": str(error), "attempts": error.attempts}
        except (OSError, WrongCall) as error:
            found |= {"cause": "missing", "error": f"cannot read {row['uri']}: {error}"}
        return found


def identify(uris: Sequence[str]) -> Iterator[dict[str, Any]]:
    """uri, sha256, size, attempts of every video, as they come; with what the container said, or a cause and an error."""
    items = ray.data.from_items([{"uri": uri} for uri in uris], override_num_blocks=min(len(uris), 8 * num_workers()))
    pool = ray.data.ActorPoolStrategy(
        size=min(num_workers(), 1 + len(uris) // 32)
    )  # starting one costs as much as 8 videos
    yield from items.map(Identifier, compute=pool, num_cpus=1, memory=_declared(IDENTIFIER_MEMORY)).iter_rows()  # type: ignore[arg-type]


class CurationWorker:
    """One actor, one core: models load once, decoding happens in its prison."""

    def __init__(self, job: ShardJob):
        self.job = job
        self.prison = Prison()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return run_shard(from_item(item), self.job, self.prison)


def measure_shards(shards: Sequence[Sequence[Video]], job: ShardJob) -> Iterator[dict[str, Any]]:
    """Stream shards through the pool; a summary of each, as they finish. A worker that dies is replaced and its shard done again."""
    items = ray.data.from_items([as_item(shard) for shard in shards], override_num_blocks=len(shards))
    pool = ray.data.ActorPoolStrategy(size=min(num_workers(), len(shards)), max_tasks_in_flight_per_actor=1)
    memory = _declared(WORKER_MEMORY)
    done = items.map(CurationWorker, fn_constructor_args=[job], compute=pool, num_cpus=1, memory=memory)  # type: ignore[arg-type]
    yield from done.iter_rows()


class PrisonWorker:
    """One actor, one core, one prison."""

    def __init__(self, function: Callable[[dict[str, Any], Prison], dict[str, int]]):
        self.function = function
        self.prison = Prison()

    def __call__(self, item: dict[str, Any]) -> dict[str, int]:
        return self.function(json.loads(item["job"]), self.prison)


def run_in_prisons(
    function: Callable[[dict[str, Any], Prison], dict[str, int]], jobs: Sequence[dict[str, Any]]
) -> Iterator[dict[str, int]]:
    """`function(job, prison)` for jobs of plain values, through the pool; a few numbers of each, as they finish."""
    items = ray.data.from_items([{"job": json.dumps(job)} for job in jobs], override_num_blocks=len(jobs))
    pool = ray.data.ActorPoolStrategy(size=min(num_workers(), len(jobs)), max_tasks_in_flight_per_actor=1)
    done = items.map(PrisonWorker, fn_constructor_args=[function], compute=pool, num_cpus=1)  # type: ignore[arg-type]
    yield from done.iter_rows()
