"""NeMo Curator's side of benchmarks.neighbours: its CPU stages, called in this process without Ray, with its defaults but one thread."""

import uuid
from pathlib import Path
from typing import Any

from benchmarks.metering import Meter, without

CAPABILITIES = ("metadata", "motion_vectors", "motion_scores", "frames_2fps", "transcode_vp9")


def main() -> None:
    try:
        import torch
        from loguru import logger
        from nemo_curator.stages.video.clipping.clip_extraction_stages import (
            ClipTranscodingStage,
            FixedStrideExtractorStage,
        )
        from nemo_curator.stages.video.clipping.clip_frame_extraction import ClipFrameExtractionStage
        from nemo_curator.stages.video.filtering.motion_filter import MotionFilterStage, MotionVectorDecodeStage
        from nemo_curator.tasks.video import Clip, Video, VideoTask
    except Exception as error:
        without(CAPABILITIES, error)
        return

    torch.set_num_threads(1)
    logger.remove()
    meter = Meter()

    def video(path: str) -> Any:
        return Video(input_video=Path(path), source_bytes=Path(path).read_bytes())

    def with_metadata(path: str) -> Any:
        one = video(path)
        one.populate_metadata()
        return VideoTask(dataset_name="benchmark", data=one)

    def whole(path: str) -> Any:
        """The video as one clip, its bytes as they are."""
        one = video(path)
        one.clips = [
            Clip(uuid=uuid.uuid4(), source_video=path, span=(0.0, 1.0), buffer=one.source_bytes)
        ]  # the stages below do not read the span
        return VideoTask(dataset_name="benchmark", data=one)

    def checked(task: Any) -> Any:
        for clip in task.data.clips + task.data.filtered_clips:
            if clip.errors:
                raise RuntimeError(", ".join(f"{name}: {value}" for name, value in clip.errors.items()))
        return task

    vectors = MotionVectorDecodeStage(num_cpus_per_worker=1)
    motion = MotionFilterStage(score_only=True, motion_filter_batch_size=16)
    frames = ClipFrameExtractionStage(num_cpus=1, target_fps=[2])
    stride = FixedStrideExtractorStage(clip_len_s=5, clip_stride_s=5, min_clip_length_s=2, limit_clips=0)
    transcode = ClipTranscodingStage(encoder="libvpx-vp9", num_cpus_per_worker=1)

    def transcoded(task: Any) -> None:
        transcode.setup()
        for part in transcode.process(stride.process(task)):
            checked(part)

    meter.measure("metadata", lambda one: one.populate_metadata(), prepare=video)
    meter.measure("motion_vectors", lambda task: checked(vectors.process(task)), prepare=whole)
    meter.measure("motion_scores", lambda task: checked(motion.process(checked(vectors.process(task)))), prepare=whole)
    frames.setup()
    meter.measure("frames_2fps", lambda task: checked(frames.process(task)), prepare=whole)
    meter.measure("transcode_vp9", transcoded, prepare=with_metadata, warm=False)


if __name__ == "__main__":
    main()
