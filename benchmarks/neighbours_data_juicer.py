"""Data-Juicer's side of benchmarks.neighbours: its video operators that need no weights, called one by one on one sample each."""

import os
import tempfile
from typing import Any

from benchmarks.metering import Meter, without

CAPABILITIES = (
    "duration",
    "resolution",
    "aspect",
    "motion_256",
    "motion_native",
    "scene_list",
    "scene_split",
)


def main() -> None:
    try:
        import cv2
        import scenedetect
        from data_juicer.ops.filter.video_aspect_ratio_filter import VideoAspectRatioFilter
        from data_juicer.ops.filter.video_duration_filter import VideoDurationFilter
        from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
        from data_juicer.ops.filter.video_resolution_filter import VideoResolutionFilter
        from data_juicer.ops.mapper.video_split_by_scene_mapper import VideoSplitBySceneMapper
        from data_juicer.utils.constant import Fields
        from loguru import logger
    except Exception as error:
        without(CAPABILITIES, error)
        return

    cv2.setNumThreads(1)
    meter = Meter()
    logger.remove()
    complaints: list[str] = []
    logger.add(lambda message: complaints.append(message.record["message"]), level="ERROR")

    def sample(path: str) -> Any:
        complaints.clear()
        return {"text": "<__dj__video>", "videos": [path], Fields.stats: {}, Fields.meta: {}}

    meter.measure("duration", VideoDurationFilter().compute_stats_single, prepare=sample)
    meter.measure("resolution", VideoResolutionFilter().compute_stats_single, prepare=sample)
    meter.measure("aspect", VideoAspectRatioFilter().compute_stats_single, prepare=sample)
    small = VideoMotionScoreFilter(sampling_fps=2, size=256)
    meter.measure("motion_256", small.compute_stats_single, prepare=sample, warm=False)
    native = VideoMotionScoreFilter(sampling_fps=2)  # its default, and so dear that one clip has to do
    meter.measure("motion_native", native.compute_stats_single, prepare=sample, files=meter.files[:1], warm=False)

    detect, lists = scenedetect.detect, []

    def listening(*arguments: Any, **named: Any) -> Any:
        lists.append(detect(*arguments, **named))
        return lists[-1]

    scenedetect.detect = listening  # the operator keeps its scene list to itself

    def split(operator: Any, one: Any) -> list[int]:
        written = operator.process_single(one)["videos"]
        if complaints or not all(map(os.path.exists, written)):
            raise RuntimeError(complaints[0] if complaints else "scene files are missing")
        return [int(start.frame_num) for start, _ in lists[-1][1:]]

    with tempfile.TemporaryDirectory() as folder:
        operator = VideoSplitBySceneMapper(detector="ContentDetector", threshold=27.0, save_dir=folder)
        writing = operator._split_video
        operator._split_video = lambda path, scenes, template: [path] * len(scenes)
        meter.measure("scene_list", lambda one: split(operator, one), prepare=sample, results=True)
        operator._split_video = writing
        meter.measure("scene_split", lambda one: split(operator, one), prepare=sample, warm=False)


if __name__ == "__main__":
    main()
