"""Becomes the command of a job, once: `launch.py CLAIM COMMAND...` writes process id and start time to CLAIM, or leaves if it is there.

A service that died between starting a process and writing that down starts it again; the file lets only one of the two run.
It is run by its path without site packages, so it imports nothing that is not in Python.
"""

import os
import subprocess
import sys
from pathlib import Path


def process_start(pid: int) -> str:
    """When process `pid` started, in words of the system; empty if it is gone. Tells a process from a later one with its id."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return ""
    told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip()


def main(claim: str, command: list[str]) -> None:
    own = f"{claim}.{os.getpid()}"
    with open(own, "w") as file:
        file.write(f"{os.getpid()}:{process_start(os.getpid())}")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(own, claim)  # whole or not at all, and only the first
    except FileExistsError:
        return
    finally:
        os.unlink(own)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
