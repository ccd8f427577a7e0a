"""What a section tells as it goes: rows of tables, checks, targets, and what could not be measured. One JSON object a line."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import Timing, free, measure

Result = TypeVar("Result")
MOST_WORDS = 300  # characters of an error in a table


@dataclass(frozen=True, kw_only=True)
class Report:
    """One section's sizes, its time, and the file of its lines, each written at once: a killed section loses nothing."""

    file: Path
    device: torch.device
    sizes: Sizes
    deadline: float  # time.monotonic() after which nothing new is begun

    def write(self, kind: str, **values: Any) -> None:
        """One line."""
        with self.file.open("a") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def row(self, table: str, **columns: Any) -> None:
        """A row of a table; None is shown as a dash."""
        self.write("row", table=table, columns=columns)

    def missing(self, what: str, why: str) -> None:
        """Something that was not measured."""
        self.write("missing", what=what, why=why[:MOST_WORDS])

    def target(self, what: str, value: float | None, goal: float, unit: str, *, at_most: bool = False) -> None:
        """A goal and what became of it; on a CPU nothing is claimed."""
        self.write("target", what=what, value=value, goal=goal, unit=unit, at_most=at_most, on=self.device.type)

    def attempt(self, what: str, measurement: Callable[[], Result], *, needs: float = 0.0) -> Result | None:
        """Its result; None, and a line that says why, where there is no time (`needs` seconds) or it raises."""
        left = self.deadline - time.monotonic()
        if left < needs or left <= 0:
            self.missing(what, "no time left")
            return None
        try:
            return measurement()
        except Exception as error:
            self.missing(what, words(error))
            traceback.clear_frames(error.__traceback__)  # they hold tensors
            return None
        finally:
            free(self.device)

    def check(self, what: str, difference: Callable[[], float], limit: float) -> None:
        """A difference that may not exceed its limit; an exception, or no number, fails it too."""
        try:
            value: float | None = difference()
            passed, why = bool(value is not None and value <= limit), ""
        except Exception as error:
            value, passed, why = None, False, words(error)
            traceback.print_exc()
            traceback.clear_frames(error.__traceback__)
        finally:
            free(self.device)
        self.write("check", what=what, value=value, limit=limit, passed=passed, why=why)

    def time(self, call: Callable[[], object]) -> Timing:
        """Of calls on this section's device."""
        return measure(call, self.device, seconds=self.sizes.seconds, repetitions=self.sizes.repetitions)

    @property
    def compiler(self) -> str:
        """The back end of torch.compile: on a CPU one that traces and differentiates but needs no C++ compiler."""
        return "inductor" if self.device.type == "cuda" else "aot_eager"


def words(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:MOST_WORDS]
