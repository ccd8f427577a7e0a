"""Small H.264 previews and posters of clips, made when somebody first looks, kept in a bounded cache.

Browsers do not play WMV or MPEG-2, and an original is a thousand times heavier than what a grid of clips needs.
"""

import logging
import os
import secrets
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any

from PIL import Image

from api.settings import Settings
from curation.clips import UnreadableVideo, read_frames, write_preview
from curation.prison import Prison

log = logging.getLogger(__name__)
MAX_HEIGHT = 360
MAX_SECONDS = 4.0
POSTER_HEIGHT = 240
FORGET_FAILURE_SECONDS = 60.0


def make_preview(clip: Mapping[str, Any], path: str) -> None:
    """Runs in the decoder's child: at most 4 s, at most 360 pixels high, H.264 in MP4."""
    write_preview(clip, path, max_height=MAX_HEIGHT, max_seconds=MAX_SECONDS)


def make_poster(clip: Mapping[str, Any], path: str) -> None:
    """Runs in the decoder's child: one picture, from the middle of what the preview shows."""
    scale = min(1.0, POSTER_HEIGHT / clip["height"], 2 * POSTER_HEIGHT / clip["width"])
    height, width = max(2, round(clip["height"] * scale)), max(2, round(clip["width"] * scale))
    whole = {name: value for name, value in clip.items() if not name.startswith("crop_")}
    middle = min(MAX_SECONDS, float(clip["end_seconds"]) - float(clip["start_seconds"])) / 2
    Image.fromarray(read_frames(whole, [middle], height, width)[0]).save(path, "WEBP", quality=75)


KINDS: dict[str, Callable[[Mapping[str, Any], str], None]] = {"mp4": make_preview, "webp": make_poster}


class Busy(Exception):
    """Every maker is taken, and stayed so for too long."""


class PreviewMaker:
    """Makes each file once, however many ask for it at the same time; decoding happens in children with limits."""

    def __init__(self, settings: Settings):
        self.folder = settings.preview_folder
        self.seconds = settings.preview_seconds
        self.cache_bytes = settings.cache_bytes
        self._prisons: LifoQueue[Prison] = LifoQueue()
        for _ in range(settings.preview_workers):
            self._prisons.put(Prison())
        self._all = list(self._prisons.queue)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._failures: dict[str, tuple[float, UnreadableVideo]] = {}

    def close(self) -> None:
        """End the decoders' children."""
        for prison in self._all:
            prison.close()

    def get(self, clip: Mapping[str, Any], kind: str) -> Path:
        """The file of a clip, `mp4` or `webp`. Raises UnreadableVideo, or Busy.

        clip: a row with uri, stream_index, start_pts, end_pts, time base, start_seconds, end_seconds, width, height, fps.
        """
        # Not named .mp4, so that a folder of footage this cache may lie in never takes them for footage.
        path = self.folder / f"{clip['clip_id']}.{kind}.preview"
        with self._locks[path.name]:  # the makers of one clip wait for each other, and find the file
            if path.exists():
                os.utime(path)  # used just now: the last to leave
                return path
            failed = self._failures.get(path.name)
            if failed is not None and time.monotonic() - failed[0] < FORGET_FAILURE_SECONDS:
                raise failed[1]
            try:
                self._make(clip, kind, path)
            except UnreadableVideo as error:
                self._failures[path.name] = (time.monotonic(), error)
                raise
        self._make_room(path)
        return path

    def _make(self, clip: Mapping[str, Any], kind: str, path: Path) -> None:
        try:
            prison = self._prisons.get(timeout=self.seconds)
        except Empty:
            raise Busy from None
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".{secrets.token_hex(8)}.partial"
        try:
            with tempfile.TemporaryDirectory(prefix="cinemill-preview-") as workshop:
                made = Path(workshop, f"made.{kind}")
                try:
                    prison.run(KINDS[kind], dict(clip), str(made), seconds=self.seconds)
                except (UnreadableVideo, OSError):
                    raise
                except Exception as error:  # whatever else footage makes a decoder raise is the footage's fault
                    raise UnreadableVideo("decoder_failed", f"decoding raised {type(error).__name__}") from error
                unfinished.write_bytes(made.read_bytes())
            os.replace(unfinished, path)  # readers see all of it or nothing
        finally:
            self._prisons.put(prison)
            unfinished.unlink(missing_ok=True)

    def _make_room(self, newest: Path) -> None:
        found = sorted((entry.stat().st_mtime, entry.stat().st_size, entry) for entry in self.folder.glob("*.preview"))
        excess = sum(size for _, size, _ in found) - self.cache_bytes
        for _, size, entry in found:
            if excess <= 0 or entry == newest:
                break
            entry.unlink(missing_ok=True)
            excess -= size
