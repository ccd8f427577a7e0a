"""PySceneDetect's detectors, for those who want them: they decode the video once more, at native size."""

from curation.clips.errors import WrongCall
from curation.clips.strip import Strip
from curation.shots.transitions import Cut

DETECTORS = ("adaptive", "content", "threshold")


def find_cuts(path: str, strip: Strip, detector: str) -> list[Cut]:
    """Cuts by PySceneDetect's AdaptiveDetector, ContentDetector or ThresholdDetector at their defaults."""
    import scenedetect

    makers = {
        "adaptive": scenedetect.AdaptiveDetector,
        "content": scenedetect.ContentDetector,
        "threshold": scenedetect.ThresholdDetector,
    }
    if detector not in makers:
        raise WrongCall(f"unknown PySceneDetect detector {detector!r}; there are {', '.join(DETECTORS)}")
    video = scenedetect.open_video(path, backend="pyav")
    manager = scenedetect.SceneManager()
    manager.add_detector(makers[detector]())
    manager.detect_scenes(video)
    starts = [scene[0].frame_num for scene in manager.get_scene_list()][1:]
    seconds = strip.clock.frame_seconds
    return [Cut(frame=f, seconds=float(seconds[f]), score=1.0) for f in starts if 0 < f < len(strip)]
