"""What curating costs beside others: the same capabilities on the same files in one run, in CPU seconds per second of video.

python -m benchmarks.neighbours [FOLDER] [--videos N] [--environments DIR] [--json]     (samples, 5)

Data-Juicer and NeMo Curator are installed into virtual environments of their own (about 3 GB; kept for the next run) and driven by
benchmarks/neighbours_*.py, a fresh process each; what one of them cannot do is a row with its words. ffmpeg and ffprobe are taken from
the PATH; without them some rows are errors. docs/benchmarks.md says how to read the table.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

from benchmarks.metering import spent
from curation.clips.errors import UnreadableVideo
from curation.clips.frames import probe
from curation.clips.strip import make_strip
from curation.sources.footage import find_footage

ROOT = Path(__file__).parent.parent
SECONDS = (5.0, 20.0)  # of one video
SECONDS_PER_VIDEO = 12.0  # of all videos, on average at most
SHORT_SIDE = 256  # pixels; NeMo Curator's motion filter takes none below
TOLERANCE = 1  # frames that a cut may lie beside its label
WORKER_SECONDS = 1800.0  # wall time of one system
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: the capability of a worker, in words."""

    capability: str
    says: str


@dataclass(frozen=True, kw_only=True)
class System:
    """Who is measured. installs: arguments of pip, in order; none for ourselves."""

    name: str
    worker: str
    rows: tuple[Row, ...]
    shots: str = ""  # the capability whose results are cut lists
    installs: tuple[tuple[str, ...], ...] = ()


def _rows(**says: str) -> tuple[Row, ...]:
    return tuple(Row(capability=capability, says=text) for capability, text in says.items())


OURS = System(
    name="Cinemill",
    worker="benchmarks.neighbours_cinemill",
    shots="shots",
    rows=_rows(
        demux="*floor*: all packets read, nothing decoded (PyAV)",
        decode="*floor*: all frames decoded, nothing measured (PyAV)",
        probe="container facts and first frame",
        strip="strip: every signal of every frame",
        strip_and_looks="strip and a JPEG look a second",
        shots="shots (cuts, dissolves, fades), from the strip",
        scores="all visual and motion scores but text, from the strip",
        cut_copy="clips of 5 s as files, stream copy",
        cut_exact="clips of 5 s as files, encoded (x264 crf 12)",
    ),
)
NEIGHBOURS = (
    System(
        name="NeMo Curator 1.4.0",
        worker="benchmarks.neighbours_nemo",
        installs=(
            ("torch==2.13.0",),
            ("--no-deps", "nemo-curator==1.4.0"),  # its own list would bring far more than these stages import
            (
                *("cosmos-xenna==0.2.0", "av==17.1.0", "ray[default,data]>=2.57", "opencv-python-headless", "pandas"),
                *("pyarrow", "loguru", "absl-py", "fsspec", "einops", "easydict", "attrs", "hydra-core", "omegaconf"),
                *("lmdb", "nvtx", "gpustat", "comment_parser", "tqdm", "datasets"),
            ),
        ),
        rows=_rows(
            metadata="metadata (`populate_metadata`, ffprobe)",
            motion_vectors="motion vectors read, 2 fps, a part of the video",
            motion_scores="motion vectors read and scored on the CPU, 2 fps, a part of the video",
            frames_2fps="2 frames a second, full-size RGB",
            transcode_vp9="clips of 5 s as files, encoded (libvpx-vp9 crf 31)",
        ),
    ),
    System(
        name="Data-Juicer 1.6.1",
        worker="benchmarks.neighbours_data_juicer",
        shots="scene_list",
        installs=(
            # PyAV as it pins it: from 14 on, closing a codec context is gone and its readers fail
            (
                *("py-data-juicer==1.6.1", "av==13.1.0", "opencv-python-headless", "scenedetect-headless"),
                "ray[default,data]",
            ),
        ),
        rows=_rows(
            duration="duration (ffprobe)",
            resolution="resolution",
            aspect="aspect ratio",
            motion_256="motion score, 2 fps, short side 256",
            motion_native="motion score, 2 fps, native size, shortest video only",
            scene_list="scene split (Content 27), the list alone",
            scene_split="scene split (Content 27), files written (x264)",
        ),
    ),
)
CAVEATS = (
    "One strip is every signal in one decode. Each row of a neighbour reads the file anew, and a chain of theirs pays the sum.",
    "Motion is three things: ours a blurred difference, a global shift and the codec's vectors, all of the whole video on small pictures; "
    "NeMo Curator's vectors spread over pixels, two pictures a second until it has ten or half the video's seconds of them, whichever is "
    "more, and no further; Data-Juicer's dense optical flow (Farneback) between two pictures a second.",
    "Shots are found by thresholds here, ours and Data-Juicer's (PySceneDetect, hard cuts only). NeMo Curator's network for shots, like all "
    "models and GPU stages, is not run. Our thresholds were set on labelled videos, and the cuts scored here may be among them; "
    "Data-Juicer's threshold is its default. `python -m benchmarks.shots` is the wider comparison.",
    "Data-Juicer's scene split writes files only for videos with a cut in them, and its cost is spread over all.",
    "Encoded clips differ in codec, speed and quality, so these rows say what a pipeline's default costs, not which encoder is better. "
    "NeMo Curator's usual encoder is a GPU's. A stream copy begins at a keyframe before the clip.",
    "2 frames a second in full-size RGB are food for a network; our looks are 640-pixel JPEGs, one a second.",
    "Kernel time is mostly memory given out page by page: NeMo Curator's motion score takes flow fields of full size, and its kernel time has "
    "varied several times over between runs. Compare it without.",
    "ffprobe is a process per file: its start is in those rows, and its cost depends on how FFmpeg is linked.",
    "Operators are called in one process without Ray or `datasets`, ours without Ray and without the child that guards the decoder. "
    "Starting and importing are not counted, nor is what a row takes from an earlier one (strip, metadata, the file's bytes), nor a first "
    "call on the shortest video, except in the dear rows (encoding, Data-Juicer's motion).",
    "A handful of short H.264 videos is no distribution, and on shared cores rows move by a tenth.",
)


@dataclass(frozen=True, kw_only=True)
class Video:
    """One of the files that all are measured on. cuts: labelled hard cuts, first frames of shots; None without labels."""

    path: str
    seconds: float
    width: int
    height: int
    cuts: list[int] | None


@dataclass
class Answers:
    """What a system said, by capability and path. cpu_seconds: all of it, and the kernel's share. problem: why it said no more."""

    system: System
    cpu_seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    errors: dict[str, dict[str, str]] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    problem: str = ""


def labelled_cuts(folder: Path) -> dict[str, list[int]]:
    """Hard cuts by file name, from the SOURCES.csv beside the videos; not of files with gradual transitions."""
    if not (folder / "SOURCES.csv").is_file():
        return {}
    with (folder / "SOURCES.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    found = {}
    for row in rows:
        looked = bool(row.get("n_shots", "1"))  # a list that counts shots, and has none for this file, has not looked
        gradual = row.get("gradual") or re.search("dissolve|fade", row.get("gradual_and_notes") or "")
        if looked and not gradual:
            cuts = row.get("hard_cut_frames") or row.get("hard_cuts") or ""
            found[row["file"]] = [int(frame) for frame in cuts.split()]
    return found


def choose(folder: str, number: int) -> list[Video]:
    """H.264 of 5 to 20 seconds that decodes without an error, in the order of their names' hashes, the shortest first in the end.

    Up to half of them have labelled cuts, where there are such.
    """
    cuts = labelled_cuts(Path(folder))
    paths = sorted((f.uri for f in find_footage([folder])[0]), key=_shuffled)
    with_cuts = [path for path in paths if cuts.get(Path(path).name)]
    left = number * SECONDS_PER_VIDEO
    chosen: list[Video] = []
    for candidates, room in ((with_cuts, number // 2), ([p for p in paths if p not in with_cuts], number)):
        for path in candidates:
            if len(chosen) == room:
                break
            video = _suitable(path, cuts.get(Path(path).name))
            if video is not None and video.seconds <= left:
                chosen.append(video)
                left -= video.seconds
    return sorted(chosen, key=lambda video: video.seconds)


def _shuffled(path: str) -> str:
    return hashlib.sha256(Path(path).name.encode()).hexdigest()


def _suitable(path: str, cuts: list[int] | None) -> Video | None:
    try:
        facts = probe(path)
        if facts.codec != "h264" or min(facts.width, facts.height) < SHORT_SIDE or _video_streams(path) != 1:
            return None
        if not SECONDS[0] <= (facts.claimed_seconds or 0) <= SECONDS[1]:
            return None
        decoded = make_strip(path, looks=False)
    except UnreadableVideo:
        return None
    if decoded.decode_errors:
        return None
    seconds = float(decoded.strip.clock.duration_seconds)
    return Video(path=path, seconds=seconds, width=facts.width, height=facts.height, cuts=cuts)


def _video_streams(path: str) -> int:
    with av.open(path, metadata_errors="replace") as container:
        return len(container.streams.video)


def environment(system: System, folder: Path) -> Path:
    """The interpreter of that system's environment, which is made unless it is there. Raises `RuntimeError` with pip's words."""
    home = folder / system.worker.removeprefix("benchmarks.neighbours_").replace("_", "-")
    python, done, recipe = home / "bin" / "python", home / "installed.json", json.dumps(system.installs)
    if done.is_file() and done.read_text() == recipe:
        return python
    print(f"installing {system.name} ...", file=sys.stderr)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    commands = [[sys.executable, "-m", "venv", str(home)], *([*pip, *arguments] for arguments in system.installs)]
    for command in commands:
        try:
            run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise RuntimeError(str(error)) from error
        if run.returncode:
            lines = (run.stderr or run.stdout).strip().splitlines()
            blamed = [line for line in lines if line.startswith("ERROR")] or lines or ["no word"]
            raise RuntimeError(blamed[-1])
    done.write_text(recipe)
    return python


def ask(system: System, python: Path, videos: Sequence[Video], cache: Path) -> Answers:
    """Run a system's worker, a fresh process, and collect what it printed until it ended."""
    surroundings = os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT), "DATA_JUICER_CACHE_HOME": str(cache)}
    answers = Answers(system=system)
    with tempfile.TemporaryFile("w+") as complaints:
        worker = subprocess.Popen(
            [str(python), "-m", system.worker],
            cwd=ROOT,
            env=surroundings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = worker.communicate(json.dumps([video.path for video in videos]), timeout=WORKER_SECONDS)
            answers.problem = f"its process ended with {worker.returncode}" if worker.returncode else ""
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            said, _ = worker.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            answers.problem = f"stopped after {WORKER_SECONDS:.0f} s"
        if answers.problem:
            complaints.seek(0)
            last = complaints.read().strip().splitlines()[-1:]
            answers.problem += "".join(f": {line.strip()[:160]}" for line in last)
    for line in said.splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the last one of a process that was killed
            answer = json.loads(line)
            answers.cpu_seconds[answer["capability"]] = answer["cpu_seconds"]
            answers.errors[answer["capability"]] = answer["errors"]
            answers.results[answer["capability"]] = answer.get("results", {})
    return answers


def lines_of(answers: Answers, decode: dict[str, list[float]], videos: Sequence[Video]) -> Iterator[dict[str, Any]]:
    """The rows of one system, as they are printed."""
    seconds = {video.path: video.seconds for video in videos}
    for row in answers.system.rows:
        costs = answers.cpu_seconds.get(row.capability, {})
        errors = answers.errors.get(row.capability, {})
        line: dict[str, Any] = {"system": answers.system.name, "capability": row.capability, "says": row.says}
        line["videos"] = len(costs)
        if costs:
            cost, kernel = map(sum, zip(*costs.values(), strict=True))
            floor = sum(decode[path][0] for path in costs if path in decode)
            measured = sum(seconds[path] for path in costs)
            line["ms_per_second"], line["kernel_ms_per_second"] = 1000 * cost / measured, 1000 * kernel / measured
            line["decodes"] = cost / floor if floor else None
        if errors:
            name, words = next(iter(errors.items()))
            line["error"] = f"{Path(name).name}: {words}" + (
                f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            )
        elif not costs:
            line["error"] = answers.problem or "no answer"
        yield line


def score_cuts(answers: Answers, videos: Sequence[Video]) -> dict[str, Any] | None:
    """Labelled cuts that the system found, and cuts that it found where none is labelled."""
    lists = answers.results.get(answers.system.shots, {})
    labelled = [video for video in videos if video.cuts is not None and video.path in lists]
    if not labelled:
        return None
    found = false = total = 0
    for video in labelled:
        left = list(video.cuts or [])
        total += len(left)
        for cut in lists[video.path]:
            near = [label for label in left if abs(label - cut) <= TOLERANCE]
            found += bool(near)
            false += not near
            if near:
                left.remove(min(near, key=lambda label: abs(label - cut)))
    return {"system": answers.system.name, "labelled": total, "found": found, "false": false, "videos": len(labelled)}


def ffmpeg_facts() -> dict[str, Any]:
    """Version of ffmpeg and CPU milliseconds of starting ffprobe; empty where there is none."""
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        return {}
    said = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    before = spent()[0]
    for _ in range(5):
        subprocess.run(["ffprobe", "-version"], capture_output=True, stdin=subprocess.DEVNULL)
    return {"version": said.split(" Copyright")[0].strip(), "ffprobe_start_ms": (spent()[0] - before) / 5 * 1000}


def markdown(report: dict[str, Any]) -> str:
    """The report as it goes into a log."""
    videos = ", ".join(f"{v['file']} ({v['width']}x{v['height']}, {v['seconds']:.1f} s)" for v in report["videos"])
    total = sum(video["seconds"] for video in report["videos"])
    ffmpeg = report["ffmpeg"]
    lines = [
        f"{len(report['videos'])} videos, {total:.1f} s, one thread: {videos}.",
        f"{ffmpeg['version']}, starting ffprobe costs {ffmpeg['ffprobe_start_ms']:.0f} ms of CPU. Python {report['python']}."
        if ffmpeg
        else f"No ffmpeg and ffprobe on the PATH: rows that need them are errors. Python {report['python']}.",
        "",
        "| system | what | CPU ms per second of video | of it kernel | full decodes | videos |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        cost, kernel = _number(row.get("ms_per_second")), _number(row.get("kernel_ms_per_second"))
        decodes = f"{row['decodes']:.2f}" if row.get("decodes") is not None else "-"
        says = row["says"] + (f" **{row['error'].replace('|', '/')}**" if row.get("error") else "")
        lines.append(f"| {row['system']} | {says} | {cost} | {kernel} | {decodes} | {row['videos']} |")
    lines += [f"\n{problem}" for problem in report["problems"]]
    if report["cuts"]:
        lines += ["", "| cuts of | videos | labelled | found | false |", "|---|---|---|---|---|"]
        lines += [
            f"| {c['system']} | {c['videos']} | {c['labelled']} | {c['found']} | {c['false']} |" for c in report["cuts"]
        ]
    lines += ["", "Not like for like:", ""]
    lines += [f"- {caveat}" for caveat in report["not_like_for_like"]]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    """A cost with the digits it is worth, or a dash."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def measure(folder: str, number: int, environments: Path) -> dict[str, Any]:
    """Choose, install, measure all in turn. The report is plain JSON."""
    videos = choose(folder, number)
    if not videos:
        raise SystemExit(f"{folder}: no H.264 video of {SECONDS[0]:.0f} to {SECONDS[1]:.0f} s that decodes whole")
    environments.mkdir(parents=True, exist_ok=True)
    problems, systems = [], [(OURS, Path(sys.executable))]
    for system in NEIGHBOURS:
        try:
            systems.append((system, environment(system, environments)))
        except RuntimeError as error:
            problems.append(f"{system.name} could not be installed: {error}")
    everything = []
    for system, python in systems:
        print(f"measuring {system.name} ...", file=sys.stderr)
        everything.append(ask(system, python, videos, environments / "cache"))
    decode = everything[0].cpu_seconds.get("decode", {})
    scored = [score_cuts(answers, videos) for answers in everything]
    return {
        "videos": [
            {"file": Path(v.path).name, "seconds": v.seconds, "width": v.width, "height": v.height, "cuts": v.cuts}
            for v in videos
        ],
        "ffmpeg": ffmpeg_facts(),
        "python": platform.python_version(),
        "rows": [line for answers in everything for line in lines_of(answers, decode, videos)],
        "problems": problems,
        "cuts": [score for score in scored if score],
        "not_like_for_like": list(CAVEATS),
    }


def main() -> None:
    reader = argparse.ArgumentParser(prog="python -m benchmarks.neighbours", description=(__doc__ or "").split("\n")[0])
    reader.add_argument("folder", nargs="?", default=str(ROOT / "samples"), metavar="FOLDER")
    reader.add_argument("--videos", type=int, default=5, metavar="N", help="how many of its videos (5)")
    reader.add_argument(
        "--environments",
        type=Path,
        default=Path.home() / ".cache" / "cinemill" / "neighbours",
        metavar="DIR",
        help="where the neighbours are installed (~/.cache/cinemill/neighbours)",
    )
    reader.add_argument("--json", action="store_true", help="the report as JSON instead of markdown")
    words = reader.parse_args()
    report = measure(words.folder, max(1, words.videos), words.environments.absolute())
    print(json.dumps(report, indent=1) if words.json else markdown(report))


if __name__ == "__main__":
    main()
