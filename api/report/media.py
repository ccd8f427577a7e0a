"""Pictures and videos as data URIs, so that one file holds the whole page."""

import base64
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curation.clips import UnreadableVideo, read_frames, write_preview, write_video

STILL_WIDTH, STILL_HEIGHT = 320, 240  # pixels; a still fits in this box
THUMBNAIL_WIDTH = 180  # pixels; of the contact sheet
PREVIEW_HEIGHT = 216  # pixels
PREVIEW_SECONDS = 4.0
JPEG_QUALITY = 82


def jpeg(picture: np.ndarray) -> str:
    """A picture uint8 [H, W, 3] as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return _data("image/jpeg", buffer.getvalue())


def mp4(path: Path) -> str:
    """A video file as a data URI."""
    return _data("video/mp4", path.read_bytes())


def mp4_of(frames: np.ndarray, fps: float) -> str:
    """Frames uint8 [T, H, W, 3] as a data URI of an H.264 MP4."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.mp4"
        write_video(path, frames, fps)
        return mp4(path)


def stills(clip: Mapping[str, Any], shares: Sequence[float]) -> list[str]:
    """Whole pictures of a clip (a row of `clips` with its uri) at these shares of its length; [] where none decodes."""
    seconds = clip["end_seconds"] - clip["start_seconds"]
    scale = min(1.0, STILL_WIDTH / clip["width"], STILL_HEIGHT / clip["height"])
    height, width = (max(2, round(clip[side] * scale)) for side in ("height", "width"))
    try:
        return [jpeg(frame) for frame in read_frames(uncropped(clip), [seconds * s for s in shares], height, width)]
    except UnreadableVideo:
        return []


def thumbnail(picture: str, width: int = THUMBNAIL_WIDTH) -> str:
    """A smaller copy of a picture that `jpeg` made, as a data URI."""
    with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as opened:
        opened.thumbnail((width, width))
        return jpeg(np.asarray(opened))


def preview(clip: Mapping[str, Any]) -> str | None:
    """The start of a clip as a small video that loops; None where it does not decode."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preview.mp4"
        try:
            write_preview(clip, path, max_height=PREVIEW_HEIGHT, max_seconds=PREVIEW_SECONDS)
        except UnreadableVideo:
            return None
        return mp4(path)


def uncropped(clip: Mapping[str, Any]) -> dict[str, Any]:
    """The same span with its black borders, if it has any: what a viewer of the file sees."""
    return {name: value for name, value in clip.items() if not name.startswith("crop_")}


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
