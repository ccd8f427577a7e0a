"""Every filter that exists keeps the contract: found by walking the packages, so a new one is tested by existing."""

import pickle
from fractions import Fraction

import numpy as np
import pytest

from curation.clips.frames import VideoFacts
from curation.clips.signals import SIGNALS
from curation.clips.strip import Strip
from curation.clips.time import Clock
from curation.contracts import ClipView, Filter, Models, Unmeasured, filters, signals
from curation.recipes import RECIPES, load_recipe

FACTS = VideoFacts(
    container="mp4", codec="h264", pixel_format="yuv420p", stream_index=0, time_base=Fraction(1, 30), width=640, height=360,
    rotation=0, sample_aspect_ratio=Fraction(1), claimed_seconds=2.0, fps=30.0, has_audio=False,
)  # fmt: skip


def _view(frames: int, fill: float) -> ClipView:
    clock = Clock(pts=np.arange(frames, dtype=np.int64), end_pts=frames, time_base=Fraction(1, 30))
    measured = {name: np.full(frames, fill, np.float32) for name in SIGNALS}
    strip = Strip(video_id="v", clock=clock, keyframes=np.ones(frames, bool), signals=measured)
    return ClipView(facts=FACTS, strip=strip)


def test_filters_are_found_in_both_stages() -> None:
    stages = {each.stage for each in filters()}
    assert stages == {"visual", "motion"} and len(filters()) >= 9


@pytest.mark.parametrize("each", filters(), ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(("frames", "fill"), [(1, 0.0), (1, np.nan), (60, 0.5), (60, np.nan)])
def test_a_filter_fills_exactly_its_signals_with_numbers_or_reasons(each: Filter, frames: int, fill: float) -> None:
    scores = each.score(_view(frames, fill))
    assert list(scores) == [signal.name for signal in each.signals]
    for name, value in scores.items():
        if name == "brightness" and np.isnan(fill):
            continue  # brightness is measured on every frame there is
        why = isinstance(value, Unmeasured) and len(value) > 10
        assert why or (isinstance(value, float) and np.isfinite(value)), f"{name} = {value!r}"


@pytest.mark.parametrize("each", filters(), ids=lambda f: type(f).__name__)
def test_a_filter_travels_and_explains_itself(each: Filter) -> None:
    assert type(pickle.loads(pickle.dumps(each))) is type(each)
    assert type(each).__doc__ and each.signals
    each.require(Models())  # the defaults need nothing that is not installed
    assert all(signal.unit and signal.meaning and signal.version >= 1 for signal in each.signals)


def test_no_two_filters_measure_the_same_signal() -> None:
    names = [signal.name for each in filters() for signal in each.signals]
    assert len(names) == len(set(names)) == len(signals())


@pytest.mark.parametrize("name", RECIPES)
def test_every_threshold_of_a_named_recipe_has_its_source(name: str) -> None:
    for rule in load_recipe(name).rules:
        assert rule.source, f"{rule.name} of {name} does not say where {rule.threshold} comes from"
