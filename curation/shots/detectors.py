"""Every shot detector by its name, with its version: what a recipe and the command line choose from."""

from dataclasses import dataclass

from curation.clips.errors import WrongCall
from curation.clips.strip import STRIP_VERSION, Strip
from curation.shots import pyscenedetect, strip_detector
from curation.shots.transitions import Transitions, settle

TRANSNET_VERSION = "1"  # of curation.shots.transnet, which only who uses it imports
VERSIONS = {
    "strip": f"{strip_detector.DETECTOR_VERSION}/strip-{STRIP_VERSION}",
    "strip+transnet": f"{strip_detector.DETECTOR_VERSION}+{TRANSNET_VERSION}/strip-{STRIP_VERSION}",
    "transnet": TRANSNET_VERSION,
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


def require(detector: str) -> None:
    """Raise `WrongCall` for an unknown detector, and for one whose weights are not installed."""
    if detector not in VERSIONS:
        raise WrongCall(f"unknown shot detector {detector!r}; there are {', '.join(VERSIONS)}")
    if "transnet" in detector:
        from models.transnet import load_transnet

        try:
            load_transnet()
        except (ValueError, OSError) as error:
            raise WrongCall(str(error)) from error


def find_shots(detector: str, path: str, strip: Strip, stream_index: int, referee_budget: int) -> Shots:
    """The transitions of a video by a detector that `require` has accepted. All but `strip` decode it again, `strip+transnet` at most `referee_budget` frames of it."""
    if detector in pyscenedetect.DETECTORS:
        cuts = pyscenedetect.find_cuts(path, strip, detector)
        return Shots(transitions=Transitions(cuts=cuts, gradual=[], unsure=[]), referee_frames=0)
    found = strip_detector.find_transitions(strip)
    if detector == "strip":
        return Shots(transitions=found, referee_frames=0)
    from curation.shots import transnet  # torch: 200 MB that the others need not pay

    if detector == "transnet":
        return Shots(transitions=transnet.find_transitions(path, strip, stream_index), referee_frames=len(strip))
    verdicts, shown = transnet.judge(path, strip, stream_index, found.unsure, referee_budget)
    return Shots(transitions=settle(found, verdicts), referee_frames=shown)
