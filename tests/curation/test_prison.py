"""The decoder's prison: limits hold, crashes become causes, and the next call gets a fresh child."""

import os
import signal
import time

import numpy as np
import pytest

from curation.clips.errors import UnreadableVideo
from curation.measure import twice
from curation.prison import Prison


@pytest.fixture
def prison():
    prison = Prison(memory_bytes=1 << 30)
    yield prison
    prison.close()


def test_results_and_exceptions_come_back(prison: Prison) -> None:
    assert prison.run(np.arange, 5, seconds=30).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="invalid literal"):
        prison.run(int, "x", seconds=30)
    assert prison.run(os.getpid, seconds=30) != os.getpid()


def test_a_crash_is_a_cause_and_the_next_call_works(prison: Prison) -> None:
    with pytest.raises(UnreadableVideo, match="SIGSEGV") as caught:
        prison.run(signal.raise_signal, signal.SIGSEGV, seconds=30)
    assert caught.value.cause == "decoder_killed"
    assert prison.run(len, "abc", seconds=30) == 3


def test_an_endless_call_is_stopped(prison: Prison) -> None:
    started = time.monotonic()
    with pytest.raises(UnreadableVideo, match="longer than its 1 s"):
        prison.run(time.sleep, 60, seconds=1)
    assert time.monotonic() - started < 30


def test_memory_is_limited(prison: Prison) -> None:
    with pytest.raises(UnreadableVideo, match="more than 1024 MiB"):
        prison.run(bytearray, 2 << 30, seconds=30)
    assert prison.run(len, "abc", seconds=30) == 3


def _raises_attribute_error() -> None:
    raise AttributeError("'NoneType' object has no attribute 'thread_count'")


def test_whatever_a_decoder_raises_is_a_cause(prison: Prison) -> None:
    with pytest.raises(UnreadableVideo, match="AttributeError") as caught:
        twice(lambda _: prison.run(_raises_attribute_error, seconds=30))
    assert caught.value.cause == "decoder_failed"


def test_a_killed_decoder_is_tried_once_more_with_safer_settings(prison: Prison) -> None:
    tried: list[bool] = []

    def prisoner(safe: bool) -> int:
        tried.append(safe)
        return (
            prison.run(signal.raise_signal, signal.SIGSEGV, seconds=30)
            if not safe
            else prison.run(len, "ab", seconds=30)
        )

    assert twice(prisoner) == (2, 2) and tried == [False, True]
    with pytest.raises(UnreadableVideo) as caught:
        twice(lambda _: prison.run(signal.raise_signal, signal.SIGSEGV, seconds=30))
    assert caught.value.attempts == 2
