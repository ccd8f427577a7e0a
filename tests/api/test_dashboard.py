"""The page in a real browser: it draws, clips play, thresholds move, and nothing from the data is ever run."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import uvicorn

from api.app import create_app
from api.settings import Settings
from curation.clips import Lake
from curation.clips.schema import CAPTIONS, CLIPS, DECISIONS, VIDEOS, arrow_schema
from curation.recipes import load_recipe

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"NO BROWSER AT {CHROMIUM}: THE DASHBOARD IS NOT TESTED"),
]


@contextmanager
def listening(settings: Settings) -> Iterator[str]:
    """The URL of the service in a thread of this process."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(timeout=20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def demo_url(settings: Settings, demo_snapshot: str) -> Iterator[str]:
    with listening(settings) as url:
        yield url


def open_page(browser: Any, url: str, **context: Any) -> tuple[Any, list[str]]:
    """The page, and what its console complains of."""
    page = browser.new_context(viewport={"width": 1440, "height": 1100}, reduced_motion="reduce", **context).new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.wait_for_load_state("networkidle")
    return page, complaints


def until(page: Any, expression: str, seconds: float = 30.0) -> None:
    """Asks from outside until it is true: the page's own policy forbids it to evaluate strings."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never came true: {expression}"
        page.wait_for_timeout(50)


def query(page: Any) -> str:
    """What the page put into its URL, asked of itself: Playwright hears of it later."""
    return str(page.evaluate("location.search"))


def test_the_page_draws_the_funnel_and_clips_play(browser: Any, demo_url: str, clips: list[dict[str, Any]]) -> None:
    page, complaints = open_page(browser, demo_url)
    kept = sum(clip["fate"] == "kept" for clip in clips)
    assert page.locator(".figure.main b").inner_text() == str(kept)
    assert page.locator("#retention .hint").inner_text() == f"{kept} kept of {len(clips)}"
    taking = {clip["rule"] for clip in clips if clip["fate"] != "kept"}
    assert page.locator("#retention .flow rect.out").count() == len(taking)
    assert page.locator(".filter:visible").count() == 6
    assert page.locator(".clip").count() == min(24, len(clips))
    page.locator(".clip.kept").first.hover()
    until(page, "document.querySelector('.clip video')?.readyState >= 2")
    assert page.evaluate("document.querySelector('.clip video').videoHeight") <= 360
    page.mouse.move(0, 0)
    until(page, "document.querySelector('.clip video') === null")
    assert complaints == []


def test_a_threshold_moves_by_keyboard_by_number_and_by_hand(browser: Any, demo_url: str) -> None:
    page, complaints = open_page(browser, demo_url + "?all=1")
    kept = page.locator(".figure.main b")
    before = kept.inner_text()
    field = page.get_by_label("motion.amount: keep")
    field.fill("1000")
    field.press("Enter")
    until(page, "document.querySelector('.figure.main b').textContent === '0'")
    assert "motion.amount=1000" in query(page) and page.locator("#badge").is_visible()
    assert page.locator(".clip .change:visible").count() == int(before)
    page.reload()  # the view is in the URL
    page.wait_for_load_state("networkidle")
    assert kept.inner_text() == "0"
    page.get_by_text("back to the recipe").click()
    until(page, f"document.querySelector('.figure.main b').textContent === '{before}'")
    assert "motion.amount" not in query(page)
    grip = page.get_by_label("Threshold of visual.sharpness")
    grip.focus()
    grip.press("PageUp")
    assert "visual.sharpness=" in query(page)
    reach = page.get_by_label("Threshold of motion.static").locator("rect.reach")
    reach.scroll_into_view_if_needed()
    box = reach.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] - 100, box["y"] + 20, steps=4)
    page.mouse.up()
    moved = re.search(r"motion\.static=([\d.]+)", query(page))
    assert moved is not None and float(moved[1]) < 0.6
    assert complaints == []


COUNTS = """async (thresholds) => {
    const { Model } = await import("/dashboard/model.js");
    const names = ["funnel", "histograms", "scores"];
    const [funnel, told, scores] = await Promise.all(names.map(async (name) => (await fetch(`/v1/datasets/demo/${name}`)).json()));
    const model = new Model(scores, told.signals, funnel.steps);
    for (const [rule, value] of Object.entries(thresholds)) model.move(rule, value);
    const counted = model.recount();
    const whatIf = await (await fetch(`/v1/datasets/demo/whatif?${new URLSearchParams(thresholds)}`)).json();
    return {
        kept: [counted.kept, whatIf.counts.kept],
        steps: [counted.steps.filter((step) => step.rule !== "unmeasured").map((step) => [step.rule, step.rejected, step.left]),
                funnel.steps.map((step) => [step.rule, step.rejected, step.left])],
        only: [counted.histograms.map((each) => each.onlyNumber), told.signals.map((each) => each.only_this.reduce((a, b) => a + b))],
    };
}"""


def test_the_page_counts_what_the_service_counts(browser: Any, demo_url: str) -> None:
    page, _ = open_page(browser, demo_url)
    saved = page.evaluate(COUNTS, {})
    for pages, services in saved.values():
        assert pages == services
    for thresholds in (
        {"motion.amount": 5.0},
        {"visual.borders": 0.2, "motion.static": 1.0},
        {"visual.borders": 1.0, "motion.static": 1.0, "motion.amount": 0.0, "visual.text": 1.0, "visual.black": 0.0},
        {"visual.sharpness": 1e9},
    ):
        pages, services = page.evaluate(COUNTS, thresholds)["kept"]
        assert pages == services, thresholds


def test_one_clip_opens_by_keyboard_and_tells_why_it_left(browser: Any, demo_url: str) -> None:
    page, complaints = open_page(browser, demo_url + "?fate=rejected")
    first = page.locator(".clip").first
    first.focus()
    until(page, "document.querySelector('.clip video')?.readyState >= 2")
    first.press("Enter")
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    assert "rejected" in dialog.inner_text() and dialog.locator(".rules .failed").count() >= 1
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert complaints == []


def test_a_score_that_is_missing_says_why(browser: Any, demo_url: str, clips: list[dict[str, Any]]) -> None:
    clip = next(clip for clip in clips if "visual.logo" in clip["unmeasured"])
    page, complaints = open_page(browser, f"{demo_url}?fate={clip['fate']}")
    page.locator(f'.clip[aria-label*="{Path(clip["uri"]).name}"]').first.click()
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    assert "could not be measured: " + json.loads(clip["unmeasured_signals"])["logo_score"] in dialog.inner_text()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_does_not_scroll_sideways(browser: Any, demo_url: str, scheme: str) -> None:
    page, complaints = open_page(browser, demo_url, color_scheme=scheme)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
    assert (int(light) > 128) is (scheme == "light")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert complaints == []


def test_with_nothing_curated_the_page_says_so_and_takes_a_job(browser: Any, make_settings: Any, footage: Path) -> None:
    with listening(make_settings("import time; time.sleep(60)")) as url:
        page, complaints = open_page(browser, url)
        assert page.get_by_text("Nothing has been curated here yet").is_visible()
        page.get_by_label("Footage").fill("/etc")
        page.get_by_role("button", name="Curate").click()
        page.get_by_text("outside the folders").wait_for()
        assert [text for text in complaints if "403" not in text] == []
        page.get_by_label("Footage").fill(str(footage))
        page.get_by_role("button", name="Curate").click()
        page.locator(".pill.running").wait_for()
        page.get_by_role("button", name="stop").click()
        page.locator(".pill.cancelled").wait_for()


HOSTILE = (
    "<img src=x onerror=window.ran=1><script>window.ran=1</script>javascript:window.ran=1 \u202e\"'`${window.ran=1}"
)


def hostile_lake(out: Path) -> None:
    """A lake in which every text that people or files can write is an attack."""
    video, clip = "1" * 32, "2" * 32
    uri = f"/nowhere/{HOSTILE}.mp4"
    number = {"int64": 1, "double": 1.0, "bool": False}
    rows = {}
    for name, columns in (("videos", VIDEOS), ("clips", CLIPS), ("captions", CAPTIONS), ("decisions", DECISIONS)):
        schema = arrow_schema(columns)
        row = {
            field.name: number.get(str(field.type), HOSTILE if str(field.type) == "string" else []) for field in schema
        }
        known = {
            "uri": uri,
            "video_id": video,
            "clip_id": clip,
            "unmeasured_signals": json.dumps({"logo_score": HOSTILE}),
        }
        rows[name] = (schema, row | {k: v for k, v in known.items() if k in row})
    lake = Lake(str(out))
    lake.create()
    for name, (schema, row) in rows.items():
        told = [row]
        if name == "decisions":
            fate = {"dataset": "demo", "fate": "rejected", "rule": "visual.size", "stage": "visual", "comparison": "<"}
            told = [row | fate | {"kind": "clip"}, row | fate | {"kind": "video", "clip_id": None}]
        lake.append(name, pa.Table.from_pylist(told, schema=schema))
    fates = ("in", "kept", "rejected", "duplicate", "quarantined")
    counts = {f"{kind}_{fate}": int(fate in ("in", "rejected")) for kind in ("videos", "clips") for fate in fates}
    recipe = load_recipe("demo")
    said = recipe.model_dump(mode="json")
    lake.commit("demo", recipe_hash=recipe.hash, recipe=said, code_version="0", counts=counts, measured_by="")


def test_nothing_in_the_data_is_ever_run(browser: Any, tmp_path: Path) -> None:
    hostile_lake(tmp_path / "lake")
    with listening(Settings(data=str(tmp_path / "lake"))) as url:
        page, _ = open_page(browser, url)
        assert page.locator(".clip .name", has_text="javascript:window.ran=1").count() == 1, "it is shown, as text"
        page.locator(".clip").first.click()
        page.locator("dialog[open] .why", has_text="javascript:window.ran=1").wait_for()
        page.goto(url + "?dataset=<script>window.ran=1</script>&order=<img>&visual.size=<svg/onload=window.ran=1>")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.ran") is None
