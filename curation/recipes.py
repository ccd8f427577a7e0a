"""Named curation runs and their thresholds, each with its source. YAML and TOML files load into the same object."""

import difflib
import hashlib
import tomllib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curation.clips.errors import WrongCall
from curation.clips.manifest import DATASET_NAME, canonical_json
from curation.contracts import Models, signals

Comparison = Literal["<", "<=", ">", ">="]
Stage = Literal["shots", "visual", "motion", "content"]


class Rule(BaseModel):
    """Keeps a clip when `signal comparison threshold` holds. Unmeasured signals fail no rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="stage.rule, what the ledger names")
    signal: str = Field(description="column of the clips table")
    comparison: Comparison
    threshold: float
    source: str = Field(default="", description="where the threshold comes from")

    @property
    def stage(self) -> str:
        return self.name.partition(".")[0]


class Recipe(BaseModel):
    """One way to turn footage into a data set: how shots become clips, what is asked of them, how they are described."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="also the data set's name unless --dataset says otherwise")
    description: str = ""
    detector: Literal["strip", "strip+transnet", "transnet", "adaptive", "content", "threshold"] = Field(
        default="strip",
        description="shot detector: ours on the strip, alone or with TransNetV2 for what it is unsure of; TransNetV2 alone (15 "
        "decodes); or one of PySceneDetect's (a second decode)",
    )
    scene_min_seconds: float = Field(default=4.0, ge=0, description="shots below this give no clip")
    scenes_per_video: int | None = Field(
        default=None, ge=1, description="only the longest so many shots of a video; null for all"
    )
    clip_min_seconds: float = Field(default=4.0, ge=0)
    clip_max_seconds: float = Field(default=16.0, gt=0)
    drop_head_seconds: float = Field(default=0.0, ge=0, description="start of every video that belongs to no clip")
    rules: tuple[Rule, ...] = Field(
        default=(), description="visual and motion rules, in the order the ledger reports them"
    )
    models: Models = Field(
        default_factory=Models, description="which models look at pictures, and where their weights lie"
    )
    near_duplicate_similarity: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="clips at least this alike (cosine) are copies; the best one stays; null keeps all",
    )
    balance: bool = Field(
        default=False, description="resample concept clusters by the inverse square root of their size"
    )
    balance_keep_below: int = Field(default=1, ge=1, description="clusters up to this size are kept whole")
    landscape_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of the set that is as wide as it is tall or wider; the surplus of one orientation leaves, unless that is three "
        "quarters of the set; null keeps all",
    )
    captioner: Literal["template"] = "template"
    scores: Literal["auto", "full", "ladder"] = Field(
        default="auto",
        description="full measures everything; ladder spares rejected clips the models; auto: ladder above 1,000 videos",
    )
    audit_share: float = Field(
        default=0.02, ge=0, le=1, description="share of clips that a ladder measures in full nevertheless"
    )

    def model_post_init(self, _: Any) -> None:
        if not DATASET_NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r}: letters, digits, dot, dash and underscore only, at most 64")
        if self.clip_max_seconds < self.clip_min_seconds:
            raise ValueError(
                f"clip_max_seconds={self.clip_max_seconds} is below clip_min_seconds={self.clip_min_seconds}"
            )
        known = sorted(signals())
        seen: set[str] = set()
        for rule in self.rules:
            if rule.stage not in ("visual", "motion"):
                raise ValueError(f"rule {rule.name!r} must be named visual.something or motion.something")
            if rule.signal not in known:
                near = difflib.get_close_matches(rule.signal, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise ValueError(f"rule {rule.name!r} asks for unknown signal {rule.signal!r}; {hint}")
            if rule.name in seen:
                raise ValueError(f"rule {rule.name!r} stands twice; a ledger row must name one rule")
            seen.add(rule.name)

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """The rules on single clips, in recipe order: shots first, then visual and motion."""
        shots = [
            Rule(name="shots.scene_length", signal="shot_seconds", comparison=">=", threshold=self.scene_min_seconds),
            Rule(name="shots.clip_length", signal="duration_seconds", comparison=">=", threshold=self.clip_min_seconds),
        ]
        if self.scenes_per_video is not None:
            shots.append(
                Rule(name="shots.scene_rank", signal="shot_rank", comparison="<=", threshold=self.scenes_per_video)
            )
        return (*shots, *self.rules)

    @property
    def hash(self) -> str:
        """First 128 bits of the SHA-256 of the recipe's canonical JSON, hex."""
        return hashlib.sha256(canonical_json(self.model_dump()).encode()).hexdigest()[:32]


def _rule(name: str, signal: str, comparison: Comparison, threshold: float, source: str) -> Rule:
    return Rule(name=name, signal=signal, comparison=comparison, threshold=threshold, source=source)


_OURS = "ours; the paper names the filter but not its threshold"
_PAPER = "Movie Gen section 3.2.1 and appendix J.1"
_FILTERS = "ours, see docs/filters.md"


_LOGO = _rule(
    "visual.logo",
    "logo_score",
    "<=",
    0.63,
    "ours: 61 of 69 marks over moving pictures are above, none of 66 clips without; the highest of those has 0.615",
)
_INSET = _rule(
    "visual.picture_in_picture",
    "inset_score",
    "<=",
    0.57,
    "ours: 63 of 91 insets are above, none of 216 clips without; the highest of those, a lit facade, has 0.53",
)


def demo() -> Recipe:
    """Small pictures, short scenes, no cap per video: shows every kind of fate on a dozen clips. Thresholds are ours."""
    return Recipe(
        name="demo",
        description="The real clips of samples/: shows every kind of fate in two minutes.",
        scene_min_seconds=4.0,
        clip_min_seconds=4.0,
        clip_max_seconds=16.0,
        rules=(
            _rule("visual.size", "short_side", ">=", 180, "samples are 270 to 720 pixels high"),
            _rule("visual.too_tall", "aspect", ">=", 0.4, _OURS),
            _rule("visual.too_wide", "aspect", "<=", 2.5, _OURS),
            _rule("visual.black", "brightness", ">=", 24, "black is 16; the darkest labelled scene (nasa) has 39"),
            _rule("visual.sharpness", "sharpness", ">=", 15, "the flattest labelled real picture has 23"),
            _rule("visual.text", "text_score", "<", 0.6, "Movie Gen section 3.2.1"),
            _rule(
                "visual.borders",
                "border_share",
                "<=",
                0.06,
                "8-pixel camera rims (3 %) pass, pillarboxes (13 %) do not",
            ),
            _rule("visual.effects", "transition_share", "<=", 0.15, _FILTERS),
            _rule("visual.blockiness", "blockiness", "<=", 0.6, _FILTERS),
            _LOGO,
            _INSET,
            _rule("motion.static", "static_share", "<=", 0.6, "locked cameras with one moving person: 0.45 to 0.58"),
            _rule(
                "motion.amount", "vmaf_motion_native", ">=", 0.5, "the paper's 2.0 keeps only lively clips of this set"
            ),
            _rule("motion.jitter", "jitter", "<=", 2.4, "hand-held orbits 1.6, a camera swung about 2.9"),
            _rule("motion.slideshow", "still_share", "<=", 0.7, _FILTERS),
        ),
        near_duplicate_similarity=0.95,
        balance=True,
        balance_keep_below=4,
    )


def _visual() -> tuple[Rule, ...]:
    """What the paper asks of pictures, in the order of table 44; where it gives no threshold, ours."""
    return (
        _rule("visual.text", "text_score", "<", 0.6, _PAPER),
        _rule("visual.borders", "border_share", "<=", 0.01, _FILTERS),
        _LOGO,
        _INSET,
        _rule("visual.effects", "transition_share", "<=", 0.1, _FILTERS),
        _rule("visual.wipes", "wipe_likeness", "<=", 0.4, _FILTERS),
        _rule("visual.flashes", "flashes_per_second", "<=", 0.5, _FILTERS),
        _rule("visual.black", "brightness", ">=", 24, _FILTERS),
        _rule("visual.black_clipped", "black_clipped", "<=", 0.4, _FILTERS),
        _rule("visual.white_clipped", "white_clipped", "<=", 0.25, _FILTERS),
        _rule("visual.sharpness", "sharpness", ">=", 30, _FILTERS),
        _rule("visual.blockiness", "blockiness", "<=", 0.6, _FILTERS),
        _rule("visual.noise", "noise", "<=", 3, _FILTERS),
        _rule("visual.frame_rate", "distinct_fps", ">=", 12, _FILTERS),
        _rule(
            "visual.aesthetic", "aesthetic", ">=", 4.0, "Movie Gen appendix J.1, LAION aesthetic on the middle frame"
        ),
    )


def _motion() -> tuple[Rule, ...]:
    return (
        _rule("motion.static", "static_share", "<=", 0.5, _FILTERS),
        _rule("motion.frozen", "freeze_seconds", "<=", 1.0, _FILTERS),
        _rule("motion.amount", "vmaf_motion_native", ">", 2.0, _PAPER),
        _rule("motion.vectors_slow", "motion_vector", ">", 0.5, _PAPER + ", pixels of a picture 1,280 wide"),
        _rule("motion.vectors_fast", "motion_vector", "<", 7.0, _PAPER + ", pixels of a picture 1,280 wide"),
        _rule("motion.shots_per_second", "shots_per_second", "<", 0.85, _PAPER),
        _rule("motion.jitter", "jitter", "<=", 2.4, _FILTERS),
        _rule("motion.slideshow", "still_share", "<=", 0.7, _FILTERS),
        _rule("motion.loop", "loop_likeness", "<=", 0.7, _FILTERS),
    )


def _moviegen(name: str, short_side: int, landscape_share: float | None, description: str) -> Recipe:
    return Recipe(
        name=name,
        description=description,
        scene_min_seconds=16.0,  # 1-2 scenes longer than 16 s per video, one 4-16 s clip per scene
        scenes_per_video=2,
        clip_min_seconds=4.0,
        clip_max_seconds=16.0,
        drop_head_seconds=2.0,  # the paper drops "the first seconds" of clips at a video's start; 2 s is our choice
        rules=(_rule("visual.size", "short_side", ">=", short_side, _PAPER), *_visual(), *_motion()),
        near_duplicate_similarity=0.99,  # cosine < 0.99 in the paper, of SSCD embeddings; ours are a classifier's
        balance=True,
        balance_keep_below=1,
        landscape_share=landscape_share,
    )


def moviegen_256() -> Recipe:
    """The paper's low-resolution set: at least 720 pixels on the shorter side, 60 % landscape."""
    return _moviegen("moviegen_256", 720, 0.6, "Movie Gen's set for 256 px training: sides >= 720 px, clips of 4-16 s.")


def moviegen_768() -> Recipe:
    """The paper's high-resolution set: at least 768 pixels on the shorter side, 80 % landscape."""
    return _moviegen(
        "moviegen_768", 768, 0.8, "Movie Gen's set for 768 px training: sides >= 768 px, mostly landscape."
    )


def moviegen_sft() -> Recipe:
    """The first of the four steps to the paper's fine-tuning set: strict thresholds, from which people pick. All but the length are ours."""
    step, half = (
        "Movie Gen, fine-tuning set: strict thresholds; the value is ours",
        "ours: half of what pre-training allows",
    )
    stricter = {
        "visual.aesthetic": (5.0, step),
        "visual.text": (0.3, half),
        "visual.effects": (0.0, "ours: no dissolve, no fade"),
        "visual.wipes": (0.32, "ours: the highest of 85 real videos without wipes, see LOG.md"),
        "visual.noise": (1.5, half),
        "motion.static": (0.25, half),
        "motion.jitter": (1.6, "ours: hand-held orbits have 1.6"),
        "motion.shots_per_second": (0.425, half),
    }
    wide = _moviegen(
        "moviegen_sft", 768, None, "Movie Gen's candidates for fine-tuning, from which people pick: clips of 10.6-16 s."
    )
    rules = [
        rule.model_copy(update={"threshold": stricter[rule.name][0], "source": stricter[rule.name][1]})
        if rule.name in stricter
        else rule
        for rule in wide.rules
    ]
    # the paper's own model of 20,000 classes drops small subjects here; nothing that packages ship does
    return wide.model_copy(update={"rules": tuple(rules), "clip_min_seconds": 10.6})


def moviegen_funnel() -> Recipe:
    """The steps of table 44, in its order and nothing else: what is left of a raw pool after each."""
    table = "Movie Gen table 44"
    return Recipe(
        name="moviegen_funnel",
        description="Movie Gen's table 44, step by step: landscape clips of 12-16 s at 768 px and more.",
        scene_min_seconds=0.0,
        clip_min_seconds=0.0,
        clip_max_seconds=16.0,
        rules=(
            _rule("visual.video_length_min", "video_seconds", ">=", 4, f"{table}: 4-120 s"),
            _rule("visual.video_length_max", "video_seconds", "<=", 120, f"{table}: 4-120 s"),
            _rule("visual.size", "short_side", ">=", 768, f"{table}: >= 768x768"),
            _rule("visual.landscape", "aspect", ">=", 1.0, f"{table}: w >= h"),
            _rule("visual.text", "text_score", "<", 0.6, f"{table}: no text; section 3.2.1"),
            _rule("visual.borders", "border_share", "<=", 0.01, f"{table}: no border; threshold ours"),
            _rule("visual.clip_length", "clip_seconds", ">=", 12, f"{table}: 12-16 s clip without a cut"),
            _rule(
                "visual.aesthetic",
                "aesthetic",
                ">=",
                4.0,
                f"{table}: aesthetic; appendix J.1, LAION on the middle frame",
            ),
            _rule("motion.amount", "vmaf_motion_native", ">", 2.0, f"{table}: not slow; section 3.2.1"),
            _rule("motion.vectors_slow", "motion_vector", ">", 0.5, f"{table}: not slow; appendix J.1"),
            _rule("motion.shots_per_second", "shots_per_second", "<", 0.85, f"{table}: not shaky; appendix J.1"),
        ),
        near_duplicate_similarity=0.99,
        balance=True,
        balance_keep_below=1,
    )


RECIPES = {
    "demo": demo,
    "moviegen_256": moviegen_256,
    "moviegen_768": moviegen_768,
    "moviegen_sft": moviegen_sft,
    "moviegen_funnel": moviegen_funnel,
}


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or from a YAML or TOML file. Raises `WrongCall` naming the wrong field and the nearest right one."""
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml", ".toml"):
        near = difflib.get_close_matches(name, RECIPES, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RECIPES)}, or a .yaml or .toml file"
        raise WrongCall(f"unknown recipe {name!r}; {hint}")
    try:
        text = path.read_text()
        fields = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise WrongCall(f"cannot read recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongCall(
            f"recipe {path} is not valid {path.suffix[1:].upper()}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(fields, dict):
        raise WrongCall(f"recipe {path} must be a mapping of fields, got {type(fields).__name__}")
    return parse_recipe({"name": path.stem} | fields, str(path))


def parse_recipe(fields: dict[str, Any], origin: str = "recipe") -> Recipe:
    """A recipe from plain fields; every problem in one line, with the nearest right name for a wrong one."""
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                model: type[BaseModel] = Rule if "rules" in problem["loc"] else Recipe
                near = difflib.get_close_matches(str(problem["loc"][-1]), model.model_fields, 1)
                problems.append(f"unknown field {where!r}" + (f", did you mean {near[0]!r}?" if near else ""))
            else:
                problems.append(f"{where}: {problem['msg']}" if where else problem["msg"].removeprefix("Value error, "))
        raise WrongCall(f"{origin}: {'; '.join(problems)}") from error
