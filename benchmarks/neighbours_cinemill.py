"""Our side of benchmarks.neighbours: floors, facts, strip, shots, scores, and clips cut to files."""

import tempfile
import uuid
from typing import Any

from benchmarks.metering import Meter
from curation.clips.cutting import Span, Way, cut
from curation.clips.frames import count_frames, packet_seconds, probe
from curation.clips.strip import make_strip
from curation.contracts import ClipView, filters
from curation.shots.strip_detector import find_transitions

STRIDE_SECONDS = 5.0  # of the clips that are cut; those of neighbours_nemo


def spans(path: str) -> tuple[str, list[Span]]:
    """A video in clips of five seconds; a rest below two is left, as the neighbour leaves it."""
    decoded = make_strip(path, looks=False)
    clock = decoded.strip.clock
    seconds = clock.frame_seconds - clock.frame_seconds[0]
    bounds = [(at, min(at + STRIDE_SECONDS, clock.duration_seconds)) for at in _strides(clock.duration_seconds)]
    frames = [tuple(int((seconds < at - 1e-6).sum()) for at in bound) for bound in bounds]
    found = []
    for start, end in frames:
        end_pts = clock.end_pts if end == len(clock) else int(clock.pts[end])
        found.append(
            Span(
                clip_id=uuid.uuid4().hex,
                stream_index=decoded.facts.stream_index,
                start_pts=int(clock.pts[start]),
                end_pts=end_pts,
                time_base=clock.time_base,
                num_frames=end - start,
            )
        )
    return path, found


def _strides(seconds: float) -> list[float]:
    starts = [STRIDE_SECONDS * n for n in range(int(seconds // STRIDE_SECONDS) + 1)]
    return [start for start in starts if seconds - start >= 2.0] or [0.0]


def cut_into(folder: str, way: Way, job: tuple[str, list[Span]]) -> None:
    failed = [file.error for file in cut(*job, folder, way) if file.error]
    if failed:
        raise RuntimeError(failed[0])


def main() -> None:
    meter = Meter()
    on_strip = [each for each in filters() if each.rung != "models"]

    def score(view: ClipView) -> dict[str, float | None]:
        return {name: value for each in on_strip for name, value in each.score(view).items()}

    def view(path: str) -> ClipView:
        decoded = make_strip(path, looks=False)
        return ClipView(facts=decoded.facts, strip=decoded.strip)

    meter.measure("demux", packet_seconds)
    meter.measure("decode", count_frames)
    meter.measure("probe", probe)
    meter.measure("strip", lambda path: make_strip(path, looks=False))
    meter.measure("strip_and_looks", make_strip)
    meter.measure(
        "shots",
        lambda strip: [cut.frame for cut in find_transitions(strip).cuts],
        prepare=lambda path: make_strip(path, looks=False).strip,
        results=True,
    )
    meter.measure("scores", score, prepare=view)
    ways: tuple[Way, Way] = ("copy", "exact")
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:

            def act(job: Any, folder: str = folder, way: Way = way) -> None:
                cut_into(folder, way, job)

            meter.measure(f"cut_{way}", act, prepare=spans, warm=way == "copy")


if __name__ == "__main__":
    main()
