"""What the strip costs beyond decoding: CPU seconds of one full pass over a folder, against decoding alone, in pairs.

python -m benchmarks.strip [FOLDER] [REPEATS]     (samples, 3)
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from curation.clips.errors import UnreadableVideo
from curation.clips.frames import count_frames
from curation.clips.strip import make_strip
from curation.sources.footage import find_footage


def cpu_seconds(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def main(folder: str, repeats: int) -> None:
    readable, frames = [], 0
    for footage in find_footage([folder])[0]:
        try:
            frames += count_frames(footage.uri)
        except UnreadableVideo:
            continue
        readable.append(footage.uri)
    rows = []
    for _ in range(repeats):
        alone = sum(cpu_seconds(lambda p=path: count_frames(p)) for path in readable)
        strip = sum(cpu_seconds(lambda p=path: make_strip(p, looks=False)) for path in readable)
        full = sum(cpu_seconds(lambda p=path: make_strip(p)) for path in readable)
        rows.append((alone, strip / alone, full / alone))
    alone, strip, full = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"{len(readable)} videos, {frames} frames, median of {repeats} pairs, one thread")
    print(f"  decode alone            1.00   ({alone:.1f} CPU-s)")
    print(f"  + strip                 {strip:.2f}")
    print(f"  + strip and looks       {full:.2f}")


if __name__ == "__main__":
    words = sys.argv[1:]
    main(words[0] if words else str(Path(__file__).parent.parent / "samples"), int(words[1]) if len(words) > 1 else 3)
