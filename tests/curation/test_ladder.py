"""The ladder stops what cannot be kept before it is paid for, keeps what a full run keeps, and says what it spared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation import ladder, ledger
from curation.clips import Lake
from curation.clips.frames import BATCH, FrameBatch, probe
from curation.clips.manifest import canonical_json
from curation.clips.signals import picture_signals
from curation.clips.storage import join, sha256
from curation.clips.strip import write_strips
from curation.contracts import Models
from curation.ladder import ask_container, ask_keyframes, ask_packets, climb
from curation.measure import Video, current_versions, measure
from curation.pipeline import curate
from curation.prison import Prison
from curation.recipes import Recipe, Rule, load_recipe
from tests.conftest import SAMPLES
from tests.hostile_media import encoded, repeated

BEE, BLACK, BARS = (str(SAMPLES / n) for n in ("bee_720p.mp4", "black_silent_10s.mp4", "pattern_sd_grey_bars.mp4"))
DEMO = load_recipe("demo")


def _asks(signal: str, comparison: str, threshold: float) -> Recipe:
    rule = Rule(name=f"visual.{signal}", signal=signal, comparison=comparison, threshold=threshold)  # type: ignore[arg-type]
    return Recipe(name="one", rules=(rule,))


def test_each_rung_answers_only_what_it_can_see() -> None:
    assert ask_container(probe(BEE), DEMO) is None
    verdict = ask_container(probe(BEE), _asks("short_side", ">=", 721))
    assert verdict is not None and (verdict.rung, verdict.rule, verdict.value) == (
        "container",
        "visual.short_side",
        720,
    )
    assert ask_packets(BEE, DEMO) is None  # 4.04 s, and a scene must have 4
    verdict = ask_packets(BEE, Recipe(name="long", scene_min_seconds=16))
    assert (
        verdict is not None and verdict.rule == "shots.scene_length" and verdict.value == pytest.approx(4.04, abs=0.05)
    )


def test_keyframes_reject_only_where_all_of_them_fail() -> None:
    verdict = ask_keyframes(BARS, DEMO)
    assert verdict is not None and verdict.rule == "visual.borders" and verdict.value == pytest.approx(0.14, abs=0.01)
    assert ask_keyframes(BARS, _asks("brightness", ">=", 24)) is None
    assert ask_keyframes(BLACK, _asks("static_share", "<=", 0.1)) is None  # motion is not theirs to judge


def test_keyframes_are_decoded_only_as_long_as_a_verdict_may_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two hundred keyframes the first good one is enough to go on; a black video is looked at to its end."""
    batches: list[int] = []

    def counting(batch: FrameBatch, small: np.ndarray) -> dict[str, np.ndarray]:
        batches.append(len(batch.pts))
        return picture_signals(batch, small)

    monkeypatch.setattr(ladder, "picture_signals", counting)
    good, black = tmp_path / "good.mkv", tmp_path / "black.mkv"
    good.write_bytes(encoded("matroska", "mjpeg", pixels="yuvj420p", frames=200))
    assert ask_keyframes(str(good), DEMO) is None and batches == [BATCH]
    batches.clear()
    black.write_bytes(repeated(200))
    verdict = ask_keyframes(str(black), DEMO)
    assert verdict is not None and (verdict.rule, verdict.value) == ("visual.black", pytest.approx(16, abs=1))
    assert sum(batches) == 200


def test_a_file_that_cannot_be_read_is_left_to_the_full_decode() -> None:
    short = DEMO.model_copy(update={"scene_min_seconds": 1.0, "clip_min_seconds": 1.0})
    assert climb(str(SAMPLES / "odd_invalid_bitstream_vp9.webm"), short) is None
    assert climb("/nowhere.mp4", DEMO) is None


@pytest.fixture(scope="module")
def laddered(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """samples/ with a ladder that audits nothing, and with one that audits everything."""
    out = str(tmp_path_factory.mktemp("ladder") / "lake")
    curate([str(SAMPLES)], DEMO.model_copy(update={"scores": "ladder", "audit_share": 0.0, "name": "bare"}), out)
    return Lake(out)


def test_a_ladder_keeps_what_a_full_run_keeps(laddered: Lake, demo_lake: Path) -> None:
    def kept(lake: Lake, dataset: str) -> set[str]:
        return {r["clip_id"] for r in lake.snapshot(dataset).table("ledger").to_pylist() if r["fate"] == "kept"}

    assert kept(laddered, "bare") == kept(Lake(str(demo_lake)), "demo") != set()


def test_a_video_stopped_early_has_its_row_its_rule_and_no_clips(laddered: Lake) -> None:
    snapshot = laddered.snapshot("bare")
    rows = snapshot.table("ledger").to_pylist()
    [bars] = [row for row in rows if row["uri"] == BARS]
    assert (bars["kind"], bars["fate"], bars["rule"]) == ("video", "rejected", "visual.borders")
    assert "by its keyframes alone" in bars["reason"]
    [facts] = [row for row in snapshot.table("videos").to_pylist() if row["uri"] == BARS]
    assert facts["rung"] == "keyframes" and facts["duration_seconds"] is None and facts["width"] == 480


def test_the_report_tells_what_each_rung_stopped_and_saved(laddered: Lake) -> None:
    steps = {step.rung: step for step in ledger.ladder(laddered.snapshot("bare"))}
    assert list(steps) == ["container", "packets", "keyframes", "models"]
    assert steps["keyframes"].stopped >= 1 and steps["keyframes"].saved > steps["keyframes"].spent > 0
    assert steps["models"].stopped >= 3 and steps["models"].saved > 0
    assert not any(step.audited for step in steps.values())


def test_the_audit_sample_climbs_on_and_is_counted(ray_cluster: None, tmp_path: Path) -> None:
    audit = DEMO.model_copy(update={"scores": "ladder", "audit_share": 1.0, "name": "audit"})
    curate([BEE, BARS], audit, str(tmp_path / "lake"))
    snapshot = Lake(str(tmp_path / "lake")).snapshot("audit")
    steps = {step.rung: step for step in ledger.ladder(snapshot)}
    assert {row["rung"] for row in snapshot.table("videos").to_pylist()} == {"frames"}
    assert sum(step.audited for step in steps.values()) == 1 and not any(step.wrong for step in steps.values())


# --- a changed signal recomputes only itself ---------------------------------------------------------------------------


class NoPrison(Prison):
    """A decoder that must not be asked."""

    def run(self, *arguments: Any, **limits: Any) -> Any:
        raise AssertionError("nothing had to be decoded")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Video, dict[str, dict[str, Any]], str]:
    lake = str(tmp_path_factory.mktemp("known"))
    digest, size = sha256(BEE)
    video = Video(uri=BEE, video_id=digest[:32], sha256=digest, size=size, facts=probe(BEE), strip_uri="s.parquet")
    prison = Prison()
    first = measure(video, DEMO, False, prison, lake, {})
    prison.close()
    assert first.strip is not None
    write_strips(join(lake, "s.parquet"), [first.strip])
    return video, {clip["clip_id"]: clip for clip in first.clips}, lake


def _outdated(known: dict[str, dict[str, Any]], signal: str) -> dict[str, dict[str, Any]]:
    """The rows as an older version of one signal left them: its value is wrong, and so is a value of today's version."""
    versions = canonical_json(current_versions(Models()) | {signal: "0"})
    marked = {signal: -1.0, "aspect": -2.0, "signal_versions": versions}
    return {clip_id: clip | marked for clip_id, clip in known.items()}


def test_a_new_version_of_a_strip_signal_reads_the_strip_and_nothing_else(measured: Any) -> None:
    video, known, lake = measured
    again = measure(video, DEMO, False, NoPrison(), lake, _outdated(known, "brightness"))
    for clip in again.clips:
        assert clip["brightness"] == pytest.approx(known[clip["clip_id"]]["brightness"])
        assert clip["aspect"] == -2.0  # not measured again
        assert clip["signal_versions"] == canonical_json(current_versions(Models()))
    assert not again.embeddings


def test_a_new_version_of_a_model_decodes_and_leaves_the_rest(measured: Any) -> None:
    video, known, lake = measured
    prison = Prison()
    again = measure(video, DEMO, False, prison, lake, _outdated(known, "text_score"))
    prison.close()
    for clip in again.clips:
        assert clip["text_score"] == known[clip["clip_id"]]["text_score"] and clip["aspect"] == -2.0
    assert not again.embeddings


def test_an_old_number_does_not_spare_its_own_renewal(measured: Any) -> None:
    """A ladder, and a score of an older version that failed: it is measured again, not dropped."""
    video, known, lake = measured
    old = {k: clip | {"text_score": 0.9} for k, clip in _outdated(known, "text_score").items()}
    old = {k: clip | {"aspect": known[k]["aspect"]} for k, clip in old.items()}
    bare = DEMO.model_copy(update={"audit_share": 0.0})
    prison = Prison()
    again = measure(video, bare, True, prison, lake, old)
    prison.close()
    for clip in again.clips:
        assert clip["text_score"] == known[clip["clip_id"]]["text_score"] is not None and not clip["skipped_signals"]


def test_what_an_old_number_spared_is_measured_when_the_new_one_passes(measured: Any) -> None:
    video, known, lake = measured
    spared = {"jitter": 99.0, "text_score": None, "skipped_signals": ["text_score", "text_share", "overlay_text_score"]}
    old = {k: clip | spared | {"aspect": known[k]["aspect"]} for k, clip in _outdated(known, "jitter").items()}
    bare = DEMO.model_copy(update={"audit_share": 0.0})
    assert measure(video, bare, True, NoPrison(), lake, old).video["cause"] == "decoder_failed", "it asks for a decode"
    prison = Prison()
    again = measure(video, bare, True, prison, lake, old)
    prison.close()
    for clip in again.clips:
        assert clip["text_score"] == known[clip["clip_id"]]["text_score"] and not clip["skipped_signals"]
        assert clip["jitter"] == pytest.approx(known[clip["clip_id"]]["jitter"])


# --- many runs over one lake --------------------------------------------------------------------------------------------


def _strips(lake: Path) -> set[str]:
    """The strip files of a lake; a decode writes a new one."""
    return {path.name for path in (lake / "strips").iterdir()}


def _values(lake: Path, dataset: str, column: str) -> dict[str, Any]:
    return {r["clip_id"]: r[column] for r in Lake(str(lake)).snapshot(dataset).table("clips").to_pylist()}


@pytest.mark.slow
def test_ladder_then_full_then_another_recipe_measure_each_thing_once(ray_cluster: None, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    sources = [BEE, BARS, str(SAMPLES / "bottles_static_360p.mp4")]

    def run(name: str, **changes: Any) -> None:
        curate(sources, DEMO.model_copy(update={"name": name, "audit_share": 0.0} | changes), str(lake))

    run("ladder", scores="ladder")
    decoded = _strips(lake)
    static = {c for c, v in _values(lake, "ladder", "text_score").items() if v is None}
    assert static  # the ladder spared the static clip the models

    run("ladder_again", scores="ladder", near_duplicate_similarity=None)
    assert _strips(lake) == decoded

    run("full", scores="full")
    assert static & {c for c, v in _values(lake, "full", "text_score").items() if v is not None}
    rungs = {r["uri"]: r["rung"] for r in Lake(str(lake)).snapshot("full").table("videos").to_pylist()}
    assert rungs[BARS] == "frames"
    decoded = _strips(lake)

    run("full_again", scores="full", near_duplicate_similarity=None)
    assert _strips(lake) == decoded
    run("ladder_after", scores="ladder", clip_max_seconds=3.0, clip_min_seconds=1.0)  # other clips: nothing is unlearnt
    rows = Lake(str(lake)).head("videos").to_pylist()
    assert len(rows) == 3 and all(row["strip_uri"] for row in rows)
