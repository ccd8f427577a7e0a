"""A run's numbers: one JSON object a line, the same in TensorBoard, and the reader everyone uses."""

import json
import time
from pathlib import Path
from typing import Any, TextIO

PLACED = ("start", "resume", "checkpoint", "not_finite")  # events that say at_step


class MetricsLog:
    """Appends to OUT/metrics.jsonl and OUT/tensorboard. Every line has `event` and `time`; steps have `step`."""

    def __init__(self, out: Path, tensorboard: bool = True):
        out.mkdir(parents=True, exist_ok=True)
        self.file = _appending(out / "metrics.jsonl")
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and absent is allowed elsewhere

            self.board = SummaryWriter(str(out / "tensorboard"))

    def write(self, event: str, **values: Any) -> None:
        """One line; numbers beside a `step` also become TensorBoard curves named `event/name`."""
        self.file.write(json.dumps({"event": event, "time": round(time.time(), 3), **values}) + "\n")
        if self.board and isinstance(values.get("step"), int):
            for name, value in values.items():
                if name != "step" and isinstance(value, int | float):
                    self.board.add_scalar(f"{event}/{name}", value, values["step"])

    def close(self) -> None:
        """Flush both."""
        self.file.close()
        if self.board:
            self.board.close()


def _appending(path: Path) -> TextIO:
    """Open at the end, on a line of our own: a killed run may have left half of one."""
    file = path.open("a", buffering=1)
    with path.open("rb") as old:
        if old.seek(0, 2) and old.seek(-1, 2) and old.read() != b"\n":
            file.write("\n")
    return file


def _parsed(line: str | bytes) -> dict[str, Any] | None:
    """A line's values; None for half a line, which is being written now or was when its run was killed, or a damaged one."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(event := values.get("event"), str):
        return None
    steps = [values[name] for name in ("step", "at_step") if name in values]
    if not all(type(step) is int and 0 <= step < 2**63 for step in steps):
        return None
    return None if event in PLACED and "at_step" not in values else values


def _position(line: dict[str, Any]) -> int:
    """The step that a line tells of; 0 for lines of a run's course, which are true whatever was done again."""
    return line.get("step", line["at_step"] if line["event"] in ("checkpoint", "not_finite") else 0)


class MetricsTail:
    """What a run has written since it was last asked: for watching a long run without reading it all again."""

    def __init__(self, out: Path, from_end: bool = True):
        self.path = out / "metrics.jsonl"
        self.offset = self.path.stat().st_size if from_end and self.path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines added since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [values for line in whole.splitlines() if (values := _parsed(line)) is not None]


def read_metrics(out: str | Path, event: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run, oldest first; of a step that ran twice (after a resume) only the last line.

    What a resume went back behind is gone: on other workers the repeated steps may differ in their last bits, and so may
    what followed from them. Half-written and damaged lines are left out: the run may be writing the last one now.
    """
    path = Path(out) / "metrics.jsonl"
    lines: dict[Any, dict[str, Any]] = {}
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else []):
        values = _parsed(line)
        if values is None:
            continue
        if values["event"] in ("start", "resume"):
            lines = {key: kept for key, kept in lines.items() if _position(kept) <= values["at_step"]}
        key = (values["event"], values["step"]) if "step" in values else number
        lines.pop(key, None)
        lines[key] = values
    return [values for values in lines.values() if event is None or values["event"] == event]
