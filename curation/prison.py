"""Decoders are prisoners: footage of others is decoded, and lists of others are read, in a recycled child with limits on memory, CPU and wall time.

The child is a fresh Python process that runs one function call at a time; what it returns or raises comes back, and when it is
taken down (a crash, an endless loop, a picture that wants all memory) the caller gets an `UnreadableVideo` instead.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from curation.clips.errors import UnreadableVideo

MEMORY_BYTES = 2 << 30  # that it may write to; an 8K 10-bit H.265 decode needs about 1.5 GiB
ADDRESS_SPACE = 2  # times as much, libraries and files that are mapped included
CALLS_PER_CHILD = 64  # a leak in a codec lives no longer than this
STDERR_TAIL = 400


class Prison:
    """Runs functions in a child. Not thread-safe; one per worker."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES):
        self.memory_bytes = memory_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._calls = 0
        self.peak_bytes = 0  # of memory, over the children so far; whoever measures may set it back

    def run(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """`function(*arguments)` in the child, at most `seconds` of wall time and of CPU time.

        The function must be importable by name. Exceptions pass through; a dead or late child raises UnreadableVideo("decoder_killed").
        """
        if self._child is None or self._child.poll() is not None or self._calls >= CALLS_PER_CHILD:
            self._start()
        assert self._child is not None and self._pipe is not None
        self._calls += 1
        try:
            self._pipe.send((function, arguments, seconds))
            if not self._pipe.poll(seconds):
                self.close()
                raise UnreadableVideo(
                    "decoder_killed", f"reading it took longer than its {seconds:.0f} s and was stopped"
                )
            result, error, peak = self._pipe.recv()
            self.peak_bytes = max(self.peak_bytes, peak)
        except (EOFError, OSError) as broken:
            code = self._child.wait()
            words = self._stderr_tail()
            self.close()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise UnreadableVideo(
                "decoder_killed", f"the process that read it died ({how}){': ' + words if words else ''}"
            ) from broken
        if isinstance(error, MemoryError):
            self.close()
            raise UnreadableVideo(
                "decoder_killed", f"reading it wanted more than {self.memory_bytes >> 20} MiB of memory"
            )
        if error is not None:
            raise error
        return result

    def _start(self) -> None:
        self.close()
        here, there = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the child)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "curation.prison", str(there.fileno()), str(self.memory_bytes)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            pass_fds=[there.fileno()],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        there.close()
        self._pipe = here
        self._calls = 0

    def _stderr_tail(self) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - STDERR_TAIL))
        return " ".join(self._stderr.read().decode(errors="replace").split())

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        if self._pipe is not None:
            self._pipe.close()
            self._stderr.close()
        self._child = self._pipe = None


def peak_memory() -> int:
    """Most bytes of memory this process held since it started (VmHWM; ru_maxrss would count the parent's before exec)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _serve(descriptor: int, memory_bytes: int) -> None:
    """The child's life: take a call, answer it, until the parent goes away."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE * memory_bytes, ADDRESS_SPACE * memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with Connection(descriptor) as pipe:
        while True:
            try:
                function, arguments, seconds = pipe.recv()
            except EOFError:
                return
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 2, resource.RLIM_INFINITY))
            result, problem = None, None
            try:
                result = function(*arguments)
            except Exception as error:
                error.__cause__ = error.__context__ = error.__traceback__ = None
                problem = error
            try:
                pipe.send((result, problem, peak_memory()))
            except BrokenPipeError:
                return


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
