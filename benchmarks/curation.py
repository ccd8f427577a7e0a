"""What curation costs beside decoding alone: CPU seconds of whole processes, in rounds, each against the decode of its own round.

python benchmarks/curation.py [FOLDER] [--rounds 3] [--memory] [--json]

Every pass runs over all readable videos of FOLDER (samples/ by default) in a fresh process, so that what is measured has its
start in it. The ladder stops one of every two videos of like cost, by container, packets or keyframes in turn.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):  # run as a file: here, `curation` would be this file
    sys.path[0] = os.path.dirname(sys.path[0])

import av
import numpy as np

from curation.clips.errors import UnreadableVideo
from curation.clips.frames import Scan, count_frames, packet_seconds, probe
from curation.clips.strip import make_strip
from curation.ladder import ask_container, ask_keyframes, climb
from curation.prison import Prison, peak_memory
from curation.recipes import Recipe, Rule
from curation.sources.footage import find_footage

PASSES = ("demux", "keyframes", "decode", "strip_core", "strip", "ladder")


def _keyframes(path: str) -> None:
    for _ in Scan(path, looks=False, samples=False, keyframes_only=True):
        pass


def _stopped_by(rung: str) -> Recipe:
    """A recipe that no video passes, for a reason that this rung can see."""
    if rung == "packets":
        return Recipe(name="none", scene_min_seconds=1e6)
    signal = {"container": "short_side", "keyframes": "brightness"}[rung]
    rule = Rule(name=f"visual.{signal}", signal=signal, comparison=">=", threshold=1e6)
    return Recipe(name="none", scene_min_seconds=0, clip_min_seconds=0, rules=(rule,))


def assign(paths: Sequence[str]) -> dict[str, str]:
    """Which rung shall stop each video: of every two neighbours in cost one is stopped, by container, packets or keyframes in turn.

    Where keyframes cannot tell (too few of them, too far apart) packets stop it instead.
    """
    rungs = {}
    for pair in range(0, len(paths) - 1, 2):
        path, other = paths[pair : pair + 2] if pair // 2 % 2 else paths[pair : pair + 2][::-1]
        rung = ("container", "packets", "keyframes")[pair // 2 % 3]
        if rung == "keyframes" and ask_keyframes(path, _stopped_by(rung)) is None:
            rung = "packets"
        rungs |= {path: rung, other: "frames"}
    return rungs | dict.fromkeys(paths[len(rungs) :], "frames")


def _ladder(path: str, rung: str) -> None:
    recipe = Recipe(name="all", scene_min_seconds=0, clip_min_seconds=0) if rung == "frames" else _stopped_by(rung)
    if ask_container(probe(path), recipe) is None and climb(path, recipe) is None:
        make_strip(path)


def run_pass(name: str, rungs: dict[str, str]) -> None:
    """One way over all videos; what a child process of the benchmark does."""
    ways: dict[str, Callable[[str, str], object]] = {
        "demux": lambda path, _: packet_seconds(path),
        "keyframes": lambda path, _: _keyframes(path),
        "decode": lambda path, _: count_frames(path),
        "strip_core": lambda path, _: make_strip(path, looks=False, samples=False),
        "strip": lambda path, _: make_strip(path),
        "ladder": _ladder,
    }
    for path, rung in rungs.items():
        ways[name](path, rung)


def cpu_seconds(name: str, rungs: dict[str, str]) -> float:
    """CPU seconds, user and system, of a fresh process that runs a pass."""

    def used() -> float:
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    before = used()
    command = [sys.executable, os.path.abspath(__file__), "--pass", name]
    subprocess.run(command, input=json.dumps(rungs).encode(), check=True)
    return used() - before


def by_cost(folder: str) -> list[str]:
    """Readable videos, the dearest to decode first: frames x pixels."""
    cost = {}
    for footage in find_footage([folder])[0]:
        scan = Scan(footage.uri, looks=False, samples=False)
        try:
            frames = sum(len(batch.pts) for batch in scan)
        except UnreadableVideo:
            continue
        assert scan.facts is not None
        cost[footage.uri] = frames * scan.facts.width * scan.facts.height
    return sorted(cost, key=lambda path: -cost[path])


def ratios(rungs: dict[str, str], rounds: int) -> dict[str, float]:
    """Medians over rounds of each pass's CPU seconds over the same round's decode."""
    table: dict[str, list[float]] = {name: [] for name in PASSES}
    seconds = []
    for _ in range(rounds):
        cost = {name: cpu_seconds(name, rungs) for name in PASSES}
        seconds.append(cost["decode"])
        for name in PASSES:
            table[name].append(cost[name] / cost["decode"])
    medians = {f"{name}_over_decode": statistics.median(values) for name, values in table.items() if name != "decode"}
    return medians | {"decode_cpu_seconds": statistics.median(seconds)}


def _synthetic(path: str, width: int, height: int, fps: int, frames: int) -> None:
    """A moving texture; what matters to memory is its size."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (height // 8, width // 8 + frames), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"preset": "ultrafast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            gray = np.ascontiguousarray(texture[:, 8 * i : 8 * i + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="gray")))
        container.mux(stream.encode())


def _strips(path: str, times: int) -> tuple[int, int]:
    """Peak memory of a decoder child after a tenth of `times` decodes, and after all."""
    early = 0
    for i in range(times):
        make_strip(path)
        if i == times // 10:
            early = peak_memory()
    return early or peak_memory(), peak_memory()


def memory(paths: Sequence[str]) -> dict[str, float]:
    """Peak memory of a decoder child in MiB, and its growth over 1,000 clips."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, size in {"1080p": (1920, 1080, 30, 90), "4k60": (3840, 2160, 60, 120)}.items():
            path = os.path.join(folder, f"{name}.mp4")
            _synthetic(path, *size)
            prison = Prison()
            result[f"peak_mib_{name}"] = prison.run(_strips, path, 1, seconds=600)[1] / 2**20
            prison.close()
    prison = Prison()
    early, late = prison.run(_strips, paths[-1], 1_000, seconds=3600)
    prison.close()
    return result | {"peak_mib_after_100_clips": early / 2**20, "peak_mib_after_1000_clips": late / 2**20}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", nargs="?", default=str(Path(__file__).parent.parent / "samples"))
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--memory", action="store_true", help="also measure memory; minutes")
    words.add_argument("--json", action="store_true")
    words.add_argument("--pass", dest="only", choices=PASSES, help=argparse.SUPPRESS)
    chosen = words.parse_args()
    if chosen.only:
        run_pass(chosen.only, json.load(sys.stdin))
        return
    paths = by_cost(chosen.folder)
    result: dict[str, float] = {"videos": len(paths), "rounds": chosen.rounds} | ratios(assign(paths), chosen.rounds)
    if chosen.memory:
        result |= memory(paths)
    if chosen.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:>28}  {value:.3g}" if isinstance(value, float) else f"{name:>28}  {value}")


if __name__ == "__main__":
    main()
