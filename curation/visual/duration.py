"""How long a clip is, and the video it is from."""

from typing import final

from curation.contracts import ClipView, Filter, Score, Signal, Unmeasured


@final
class Duration(Filter):
    """The paper's raw pool are videos of 4 to 120 seconds, its high-resolution set clips of 12 to 16 (table 44)."""

    stage = "visual"
    signals = (
        Signal(name="clip_seconds", unit="s", meaning="length of the clip, as decoded"),
        Signal(name="video_seconds", unit="s", meaning="length of the video that it is a span of, as decoded"),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        whole = clip.video_seconds
        return {
            "clip_seconds": clip.strip.clock.duration_seconds,
            "video_seconds": Unmeasured("the length of its video is not known") if whole is None else whole,
        }
