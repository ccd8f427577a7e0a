"""The real service under mixed requests for minutes: whether its memory and open files stay level, and whether it ever answers 5xx.

python -m benchmarks.soak --lake LAKE [--minutes 10] [--callers 4] [--warm-up 120]

LAKE is a curated one (`cinemill curate samples --recipe demo --out LAKE`); the service's own state lies in a temporary folder, and no
job comes to its end. Each caller asks one question after another: rows by cursor, filters, what-if, funnel, statistics, posters,
previews with ranges, wrong requests, event streams that are dropped, jobs that are submitted and cancelled. The slope is a line
through the service's own resident memory (its children are others' business) after the warm-up, by least squares.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

PAUSE = 0.02  # seconds between two questions of a caller: two shared cores answer about so many
JOB_SECONDS = 15.0  # between two jobs; each is a process that starts
WRONG: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/v1/datasets/none/rows", None), ("GET", "/v1/datasets/%2e%2e/rows", None), ("GET", "/nothing", None),
    ("GET", "/v1/datasets/demo/rows?limit=-1", None), ("GET", "/v1/datasets/demo/rows?after=%00", None), ("GET", "/v1/jobs/none", None),
    ("GET", "/v1/datasets/demo/whatif?visual.none=1", None), ("GET", "/v1/datasets/demo/funnel?snapshot=99999", None),
    ("POST", "/v1/jobs", {"sources": ["/etc/passwd"]}), ("POST", "/v1/jobs", {"sources": []}), ("DELETE", "/v1/jobs", None),
    ("POST", "/v1/datasets/demo/filter", {"where": {"column": "x'; DROP TABLE clips", "is": "=", "value": 1}}),
)  # fmt: skip


class Caller(threading.Thread):
    """Asks until told to stop; counts answers by status, and what went wrong by its words."""

    def __init__(self, url: str, footage: str, seed: int, stop: threading.Event):
        super().__init__(daemon=True)
        self.client = httpx.Client(base_url=url, timeout=90)
        self.draw, self.stop, self.footage = random.Random(seed), stop, footage
        self.statuses: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.next_job = time.monotonic() + seed * JOB_SECONDS
        self.jobs: list[str] = []
        rows = self.client.get("/v1/datasets/demo/rows?table=clips&limit=100").raise_for_status().json()["rows"]
        self.clips = [row["clip_id"] for row in rows]
        self.questions: tuple[Callable[[], None], ...] = (
            self.pages, self.filters, self.what_if, self.plain, self.media, self.wrong, self.stream, self.job,
        )  # fmt: skip

    def run(self) -> None:
        while not self.stop.is_set():
            question = self.draw.choice(self.questions)
            try:
                question()
            except httpx.HTTPError as error:
                self.statuses[type(error).__name__] += 1
            time.sleep(PAUSE)

    def ask(self, kind: str, method: str, path: str, **words: Any) -> httpx.Response:
        answer = self.client.request(method, path, **words)
        self.statuses[str(answer.status_code)] += 1
        self.answers[kind] += 1
        if answer.status_code >= 500:
            print(f"{answer.status_code} of {method} {path}: {answer.text[:300]}", flush=True)
        return answer

    def pages(self) -> None:
        table = self.draw.choice(["clips", "videos", "ledger"])
        path = f"/v1/datasets/demo/rows?table={table}&limit={self.draw.randint(1, 20)}"
        answer = self.ask("rows", "GET", path, headers={"accept": self.draw.choice(["application/json", "text/csv"])})
        if answer.headers["content-type"].startswith("application/json") and (after := answer.json().get("next")):
            self.ask("rows", "GET", path, params={"table": table, "limit": 5, "after": after})

    def filters(self) -> None:
        where = {"column": "sharpness", "is": ">", "value": self.draw.uniform(0, 60)}
        self.ask(
            "filter", "POST", "/v1/datasets/demo/filter", json={"where": where, "order": "-sharpness", "count": True}
        )

    def what_if(self) -> None:
        self.ask("what-if", "GET", f"/v1/datasets/demo/whatif?visual.sharpness={self.draw.uniform(5, 60)}")

    def plain(self) -> None:
        paths = (
            "funnel",
            "statistics?columns=sharpness",
            "corejection",
            "histograms",
            "scores",
            "files",
            "parquet",
            "recipe",
            "quarantine",
        )
        self.ask("statistics", "GET", f"/v1/datasets/demo/{self.draw.choice(paths)}")
        self.ask(
            "operations", "GET", self.draw.choice(["/metrics", "/readyz", "/v1/health", "/v1/jobs", "/v1/recipes", "/"])
        )

    def media(self) -> None:
        clip = f"/v1/clips/{self.draw.choice(self.clips)}"
        self.ask("clip", "GET", clip + self.draw.choice(["", "/lineage"]))
        self.ask("poster", "GET", f"{clip}/poster.webp")
        first = self.draw.randint(0, 30_000)
        ranges = self.draw.choice(
            [f"bytes={first}-{first + 5000}", "bytes=-500", "bytes=0-", "bytes=99999999-", "bytes=x"]
        )
        self.ask("preview", "GET", f"{clip}/preview.mp4", headers={"range": ranges})

    def wrong(self) -> None:
        method, path, body = self.draw.choice(WRONG)
        self.ask("wrong", method, path, json=body)

    def stream(self) -> None:
        """Open the events of a job, read a little, and hang up."""
        if not self.jobs:
            return
        with self.client.stream("GET", f"/v1/jobs/{self.draw.choice(self.jobs)}/events") as answer:
            self.statuses[str(answer.status_code)] += 1
            self.answers["events"] += 1
            for _, _line in zip(range(self.draw.randint(1, 5)), answer.iter_lines(), strict=False):
                pass

    def job(self) -> None:
        if time.monotonic() < self.next_job:
            return
        self.next_job = time.monotonic() + 4 * JOB_SECONDS
        body = {"sources": [self.footage], "dataset": "soak", "limit": 1}
        made = self.ask("job", "POST", "/v1/jobs", json=body).json()
        if "id" in made:
            self.jobs = [*self.jobs[-5:], made["id"]]
            time.sleep(self.draw.choice([0.0, 0.5, 3.0]))
            self.ask("job", "POST", f"/v1/jobs/{made['id']}/cancel")


def sampled(pid: int) -> tuple[float, int]:
    """Resident memory in MB, and open files, of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(f"/proc/{pid}/fd"))


def slope(seconds: np.ndarray, values: np.ndarray) -> float:
    """Of the line through them by least squares, per hour."""
    return float(np.polyfit(seconds / 3600, values, 1)[0])


def soak(lake: str, minutes: float, callers: int, warm_up: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cinemill-soak-") as state:
        footage = Path(state, "footage")
        footage.mkdir()
        (footage / "words.mp4").write_text("no video\n")
        environment = os.environ | {"CINEMILL_ROOTS": str(footage), "CINEMILL_STATE_DIR": f"{state}/state"}
        command = [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--data", lake]
        with open(f"{state}/log", "wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert server.stdout is not None
            url = next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
            stop = threading.Event()
            begun = time.monotonic()
            asking = [Caller(url, str(footage), seed, stop) for seed in range(callers)]
            for caller in asking:
                caller.start()
            samples = []
            while time.monotonic() - begun < 60 * minutes:
                samples.append((time.monotonic() - begun, *sampled(server.pid)))
                time.sleep(1)
            stop.set()
            for caller in asking:
                caller.join(timeout=120)
        finally:
            server.terminate()
            server.wait(timeout=60)
        errors = Path(state, "log").read_text().splitlines()
    seconds, memory, files = np.array(samples).T
    warm = seconds >= warm_up
    late = seconds >= (warm_up + seconds[-1]) / 2
    statuses = sum((caller.statuses for caller in asking), Counter())
    return {
        "minutes": round(seconds[-1] / 60, 1),
        "requests": sum(statuses.values()),
        "by_status": dict(sorted(statuses.items())),
        "by_kind": dict(sorted(sum((caller.answers for caller in asking), Counter()).items())),
        "server_errors": sum(count for status, count in statuses.items() if status.startswith("5")),
        "memory_mb": {"start": memory[0], "warm": memory[warm][0], "end": memory[-1], "most": memory.max()},
        "memory_mb_by_minute": [round(value) for value in memory[::60]],
        "mb_an_hour": slope(seconds[warm], memory[warm]),
        "mb_an_hour_second_half": slope(seconds[late], memory[late]),
        "open_files": {
            "start": int(files[0]),
            "warm": int(files[warm][0]),
            "end": int(files[-1]),
            "most": int(files.max()),
        },
        "log_lines": len(errors),
        "log_tail": errors[-5:],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--warm-up", type=float, default=120.0, help="seconds that the slope leaves out")
    asked = parser.parse_args()
    print(json.dumps(soak(asked.lake, asked.minutes, asked.callers, asked.warm_up), indent=1, default=float))


if __name__ == "__main__":
    main()
