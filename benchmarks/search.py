"""How well texts find clips, and what comparing vectors costs.

python -m benchmarks.search ../shared/videos [--vectors 100000]

Ranking: 50 texts over the labelled videos, four pictures each, as curation embeds them. Which videos show what a text says was written
down from their descriptions before anything was ranked. Three ways that need no further weights are compared:
`direction`, the one the service has (models/content/class_words.py); `conse`, class probabilities of a clip as a mixture of the class names' sentence
vectors; `caption`, the sentence vector of what the template would say. Cost: an exact search over drawn vectors, from files and
from memory, and faiss's flat index beside it.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import cv2
import faiss
import numpy as np
import pyarrow as pa
import torch

from api.query import QueryEngine
from api.settings import Settings
from api.tables import Views
from api.vectors import VectorSearch
from benchmarks.labels import Labels, read_labels
from curation.caption.template import CERTAIN
from curation.clips import Lake
from curation.clips.schema import CLIPS, DECISIONS, EMBEDDINGS, arrow_schema
from curation.recipes import load_recipe
from models.content.class_words import ClassWords
from models.content.classifier import ImageClassifier, class_names, load_network

WIDTH = 1280
SHOWN = {
    "a bee on a flower": "bee_720 single_frame png_named",
    "insect": "bee_720 single_frame png_named beetle ladybug",
    "beetle": "beetle ladybug",
    "ladybird climbing grass": "ladybug",
    "tiny bird drinking nectar": "hummingbird",
    "bird": "hummingbird",
    "dog": "dog_catch dog_in_bed fireplace_dog truncated_tail_cut made_concat",
    "puppy playing in the garden": "dog_catch truncated_tail_cut made_concat",
    "pet animal in a living room": "fireplace_dog dog_in_bed",
    "man in a suit and tie": "carphone man_office bikes",
    "person wearing glasses in an office": "man_office",
    "table tennis": "pingpong made_concat made_slideshow",
    "sport": "pingpong skateboarder marathon size_641 240fps dog_catch",
    "skateboarding": "skateboarder size_641 240fps",
    "runners in a race": "marathon",
    "baking bread": "dough made_concat made_slideshow",
    "food preparation in the kitchen": "dough coffee made_concat",
    "pouring coffee into a mug": "coffee",
    "plastic bottles on a shelf": "bottles",
    "drink": "bottles coffee",
    "cups on a table": "cups",
    "driving on a highway": "highway carphone",
    "cars in traffic": "highway parking bikes marathon",
    "bicycle in the street": "bikes",
    "farm machine in a field": "tractor",
    "tractor": "tractor",
    "computer screen": "screen_vfr screencast",
    "website on a monitor": "screen_vfr screencast",
    "smartphone": "phone_3d",
    "mobile phone": "phone_3d",
    "rocket launch": "rocket",
    "space telescope": "nasa",
    "astronaut on the moon": "apollo",
    "rooftops of a city": "roof_ city_night",
    "skyscraper at night": "city_night",
    "flower opening": "flower bee_720",
    "plant": "flower bee_720 ladybug hummingbird",
    "toy on a wooden table": "toy_ webm_named corrupt_middle",
    "striped cloth": "pattern",
    "curtain or blinds": "pattern",
    "door handle": "doorknob",
    "magician with a hat": "magician",
    "microscope": "microscope",
    "cartoon rabbit": "bbb_wakeup bbb_opening truncated_vp8",
    "family watching television": "living_room",
    "tower": "seattle city_night",
    "bed": "dog_in_bed",
    "trees in a forest": "hide_and_seek",
    "woman signing with her hands": "asl_",
    "open hand": "hand_reach asl_",
}
"""Text -> pieces of the names of the files that show it."""


def pictures(path: Path, frames: int) -> list[np.ndarray]:
    """Four squares uint8 [224, 224, 3] from all over the video, fewer where it is damaged."""
    wanted = {int(frames * (k + 0.5) / 4) for k in range(4)}
    found = []
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    picture = frame.to_ndarray(format="rgb24")
                    side = min(picture.shape[:2])
                    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
                    square = picture[top : top + side, left : left + side]
                    found.append(cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA))
                if number >= max(wanted):
                    break
    except (av.FFmpegError, IndexError):
        pass
    return found


def measured(folder: Path, rows: Sequence[Labels]) -> tuple[list[Labels], np.ndarray]:
    """The N videos with a picture, but for the black one, and their unit vectors float32 [N, 1280]."""
    classifier = ImageClassifier()
    found, vectors = [], []
    for row in rows:
        squares = pictures(folder / row["file"], int(row["frames_decoded"] or 100))
        if squares and "black" not in row["file"]:
            found.append(row)
            vectors.append(unit(classifier(np.stack(squares))[0].mean(axis=0)))
    return found, np.stack(vectors)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def ranking(folder: Path) -> None:
    """Prints, for each way, how its order of the videos agrees with what they show."""
    rows, vectors = measured(folder, list(read_labels(folder).values()))
    names = [row["file"] for row in rows]
    shown = np.array([[any(piece in name for piece in pieces.split()) for name in names] for pieces in SHOWN.values()])
    said = [
        row for row in rows if not row["file"].startswith(("odd_", "made_")) and "same" not in row["description"][:20]
    ]
    groups = [row["neardup_group"] or row["file"] for row in rows]
    same = np.array([[(row["neardup_group"] or row["file"]) == group for group in groups] for row in said])
    words = ClassWords()
    compare(words, "short texts", list(SHOWN), shown, vectors)
    compare(words, "descriptions of the videos, whole", [row["description"] for row in said], same, vectors)


def compare(words: ClassWords, what: str, texts: list[str], right: np.ndarray, vectors: np.ndarray) -> None:
    """right: bool [T, N], whether a text belongs to a video; vectors: float32 [N, 1280]."""
    sentences = words.encoder.embed(texts).numpy()
    classes = words.encoder.embed(list(class_names())).numpy()
    head = load_network()._fc
    # A stored vector has unit length; 15.75 is the median length of features of these videos, which the head was trained on.
    seen = (torch.from_numpy(vectors * 15.75) @ head.weight.T + head.bias).softmax(-1).numpy()
    labels = []
    for row in seen:
        sure = [class_names()[i] for i in np.argsort(-row)[:2] if row[i] >= CERTAIN]
        labels.append(" or ".join(f"a {name}" for name in sure) or "a scene that the classifier has no name for")
    readings = [words.read(text) for text in texts]
    ways = {
        "direction": np.stack([reading.direction for reading in readings]) @ vectors.T,
        "conse": sentences @ unit(seen @ classes).T,
        "conse, centred": (sentences - classes.mean(0)) @ unit(seen @ (classes - classes.mean(0))).T,
        "caption": sentences @ words.encoder.embed([f"a clip that may show {each}" for each in labels]).numpy().T,
        "chance": np.random.default_rng(0).random(right.shape),
    }
    print(f"{what}: {len(texts)} texts, {len(vectors)} videos")
    for way, scores in ways.items():
        order = np.argsort(-scores, axis=1, kind="stable")
        hits = np.take_along_axis(right, order, 1)
        precision = [np.mean((np.arange(row.sum()) + 1) / (np.flatnonzero(row) + 1)) for row in hits]
        recall = np.mean([row[:10].sum() / min(10, row.sum()) for row in hits])
        at = " ".join(f"hit@{k} {hits[:, :k].any(1).mean():.2f}" for k in (1, 5, 10))
        print(f"{way:16s} {at} recall@10 {recall:.2f} mean average precision {np.mean(precision):.3f}")
        if way == "direction":
            near = np.array([reading.nearest[0][1] for reading in readings]) >= 0.5
            by = [np.array(precision)[side].mean() for side in (near, ~near)]
            print(f"  of {near.sum()} texts with a class name at 0.5 or nearer {by[0]:.2f}, of the others {by[1]:.2f}")


def timed(what: str, run: Callable[[], object], times: int = 5) -> None:
    """Prints the median of what `run` takes."""
    taken = []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        taken.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = np.median(np.array(taken), axis=0)
    print(f"{what:48s} {cpu:7.3f} CPU-s {wall:7.3f} s")


def cost(count: int, folder: Path) -> None:
    """Prints what one search among `count` drawn vectors takes."""
    lake = Lake(str(folder / "lake"))
    lake.create()
    draw = np.random.default_rng(0)
    ids = [f"{number * 2654435761 % 2**64:016x}" * 2 for number in range(count)]
    decided = pa.table({"dataset": ["d"] * count, "kind": ["clip"] * count, "clip_id": ids, "fate": ["kept"] * count})
    full = pa.concat_tables([arrow_schema(DECISIONS).empty_table(), decided], promote_options="default")
    recipe = load_recipe("demo")
    parts = []
    with lake.committer():
        for begin in range(0, count, 25_000):
            part = unit(draw.random((min(25_000, count - begin), WIDTH), np.float32))
            parts.append(part)
            lists = pa.ListArray.from_arrays(np.arange(len(part) + 1, dtype=np.int32) * WIDTH, part.ravel())
            rows = [ids[begin : begin + len(part)], ["m"] * len(part), lists]
            lake.append("embeddings", pa.table(rows, schema=arrow_schema(EMBEDDINGS)))
        lake.append("decisions", full)
        lake.append("clips", arrow_schema(CLIPS).empty_table())
        lake.commit(
            "d",
            recipe_hash=recipe.hash,
            recipe=recipe.model_dump(mode="json"),
            code_version="0",
            counts={},
            measured_by="-",
        )
    snapshot = lake.snapshot("d")
    query = unit(draw.random(WIDTH, np.float32))
    for where, bytes_held in (("from files", 0), ("from memory", 2**40)):
        settings = Settings(
            data=lake.uri, vector_cache_bytes=bytes_held, query_seconds=3600, state_dir=folder / "state"
        )
        engine = QueryEngine(settings)
        search = VectorSearch(Views(engine), settings)

        def ask(search: VectorSearch = search) -> list[tuple[str, float]]:
            return search.nearest(snapshot, "m", query, 20, kept_only=True).found

        timed(f"{count} vectors {where}, first", ask, 1)
        timed(f"{count} vectors {where}", ask)
        engine.close()
    index = faiss.IndexFlatIP(WIDTH)
    for part in parts:
        index.add(part)
    timed(f"{count} vectors, faiss IndexFlatIP", lambda: index.search(query[None], 20))
    found = index.search(query[None], 20)[1][0]
    assert [ids[i] for i in found] == [clip_id for clip_id, _ in ask()], "both are exact"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path)
    parser.add_argument("--vectors", type=int, default=100_000, help="0: ranking only")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ranking(asked.videos)
    if asked.vectors:
        with tempfile.TemporaryDirectory() as folder:
            cost(asked.vectors, Path(folder))


if __name__ == "__main__":
    main()
