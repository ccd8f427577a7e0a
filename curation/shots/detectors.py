"""Every shot detector by its name, with its version: what a recipe and the command line choose from."""

from dataclasses import dataclass

from curation.clips.errors import WrongCall
from curation.clips.strip import STRIP_VERSION, Strip
from curation.shots import pyscenedetect, strip_detector
from curation.shots.transitions import Transitions, settle

VERSIONS = {
    "strip": f"{strip_detector.DETECTOR_VERSION}/strip-{STRIP_VERSION}",
    "strip+transnet": f"{strip_detector.DETECTOR_VERSION}+1/strip-{STRIP_VERSION}",
    "transnet": "1",
    **dict.fromkeys(pyscenedetect.DETECTORS, "1"),
}
REFEREE_SHARE = 0.1  # of the frames of a shard, and so of a run, are shown to the referee at most


@dataclass(frozen=True, kw_only=True)
class Shots:
    """What a detector found. referee_frames: how many frames TransNetV2 was shown to settle what the strip left unsure."""

    transitions: Transitions
    referee_frames: int


def detector_version(detector: str) -> str:
    """name/version; shots of another version are found again."""
    return f"{detector}/{VERSIONS[detector]}"


def find_shots(detector: str, path: str, strip: Strip, stream_index: int, referee_budget: int) -> Shots:
    """The transitions of a video. All but `strip` decode it again, `strip+transnet` at most `referee_budget` frames of it.

    Raises `WrongCall` for an unknown detector, or where the weights of TransNetV2 are not installed.
    """
    if detector not in VERSIONS:
        raise WrongCall(f"unknown shot detector {detector!r}; there are {', '.join(VERSIONS)}")
    if detector in pyscenedetect.DETECTORS:
        cuts = pyscenedetect.find_cuts(path, strip, detector)
        return Shots(transitions=Transitions(cuts=cuts, gradual=[], unsure=[]), referee_frames=0)
    found = strip_detector.find_transitions(strip)
    if detector == "strip":
        return Shots(transitions=found, referee_frames=0)
    from curation.shots import transnet  # torch: 200 MB that the others need not pay

    try:
        if detector == "transnet":
            return Shots(transitions=transnet.find_transitions(path, strip, stream_index), referee_frames=len(strip))
        verdicts, shown = transnet.judge(path, strip, stream_index, found.unsure, referee_budget)
    except ValueError as error:
        raise WrongCall(str(error)) from error
    return Shots(transitions=settle(found, verdicts), referee_frames=shown)
