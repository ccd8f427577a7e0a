"""Cached latents are never stale and never wrong."""

from dataclasses import replace

import pytest
import torch

from models.autoencoders.tae import TAE, TAEConfig
from training.data import cache as cache_module
from training.data.buckets import Bucket, demo_buckets
from training.data.cache import TensorCache, key_hash, latent_key, text_key
from training.data.keys import Key
from training.data.plan import Plan
from training.data.text import CaptionEncoder
from training.encode import LatentStore, fill_cache
from training.video import Latents

BUCKET = Bucket(frames=8, fps=8.0, height=32, width=32)


@pytest.fixture
def tae():
    torch.manual_seed(0)
    config = TAEConfig(channels=8, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=4, groups=4, patch=4)
    return TAE(replace(config, latent_mean=(0.1, 0.0, -0.1, 0.2), latent_std=(0.5, 0.6, 0.7, 0.8))).eval()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("video_id", "0" * 32), ("stream_index", 1), ("start_pts", 1), ("end_pts", 99), ("time_base_numerator", 7),
        ("time_base_denominator", 7), ("crop_left", 3), ("crop_top", 3), ("crop_width", 33), ("crop_height", 33),
        ("end_seconds", 3.0),
    ],
)  # fmt: skip
def test_the_key_changes_with_everything_in_the_row_that_makes_a_latent(rows, column, value):
    made_by = {"tae_sha256": "a", "compute_dtype": "float32", "tile_plan": "p"}
    before = key_hash(latent_key(rows[0], BUCKET, **made_by))

    assert key_hash(latent_key(rows[0] | {column: value}, BUCKET, **made_by)) != before
    assert key_hash(latent_key(rows[0] | {"caption": "other"}, BUCKET, **made_by)) == before


def test_the_key_changes_with_everything_else_that_makes_a_latent(rows, monkeypatch):
    made_by = {"tae_sha256": "a", "compute_dtype": "float32", "tile_plan": "p"}
    keys = {key_hash(latent_key(rows[0], BUCKET, **made_by))}
    for name in made_by:
        keys.add(key_hash(latent_key(rows[0], BUCKET, **made_by | {name: "other"})))
    for field, value in (("frames", 16), ("height", 48), ("width", 48), ("fps", 4.0)):
        keys.add(key_hash(latent_key(rows[0], replace(BUCKET, **{field: value}), **made_by)))
    for constant in ("LATENT_FORMAT", "FRAME_RULE"):
        with monkeypatch.context() as patch:
            patch.setattr(cache_module, constant, "other")
            keys.add(key_hash(latent_key(rows[0], BUCKET, **made_by)))

    assert len(keys) == 1 + 3 + 4 + 2


def test_text_keys_hold_the_exact_string_and_the_encoder():
    keys = {
        key_hash(text_key(text, encoder_sha256=sha, max_tokens=length))
        for text in ("a bee", "FPS-8 a bee") for sha in ("x", "y") for length in (77, 128)
    }  # fmt: skip

    assert len(keys) == 8


def test_the_second_read_is_the_first_from_the_cache(rows, tae, tmp_path):
    store = LatentStore(tae=tae, tae_sha256="a", cache=TensorCache(tmp_path))
    first = store.get(rows[0], BUCKET)
    path = store.cache.path(store.key(rows[0], BUCKET))
    written = path.stat().st_mtime_ns

    assert first.shape == (4, 1, 4, 4)
    assert torch.equal(store.get(rows[0], BUCKET), first)
    assert path.stat().st_mtime_ns == written
    assert torch.equal(first, first.to(torch.bfloat16).float()), "stored in bfloat16, so equal before and after"


def test_the_stored_latent_is_the_normalised_mean(rows, tae, tmp_path):
    from training.data.pixels import read_window, to_signal

    signal = torch.from_numpy(to_signal(read_window(rows[0], BUCKET)))[None]
    with torch.no_grad():
        mean = tae.encode_posterior(signal).mean[0]
    expected = (mean - torch.tensor(tae.config.latent_mean)[:, None, None, None]) / torch.tensor(tae.config.latent_std)[
        :, None, None, None
    ]

    stored = LatentStore(tae=tae, tae_sha256="a", cache=TensorCache(tmp_path)).get(rows[0], BUCKET)
    torch.testing.assert_close(stored, expected, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_entry_is_refused_and_made_again(rows, tae, tmp_path, damage, caplog):
    store = LatentStore(tae=tae, tae_sha256="a", cache=TensorCache(tmp_path))
    first = store.get(rows[0], BUCKET)
    path = store.cache.path(store.key(rows[0], BUCKET))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 0x40
    path.write_bytes({"flip": content, "truncate": content[:-7], "empty": b""}[damage])

    assert torch.equal(store.get(rows[0], BUCKET), first)
    assert "made again" in caplog.text
    assert store.cache.get(store.key(rows[0], BUCKET)) is not None


def test_an_entry_under_anothers_name_is_refused(tmp_path, caplog):
    cache = TensorCache(tmp_path)
    one, other = ({"text": text} for text in ("one", "other"))
    cache.put(one, {"states": torch.ones(2)})
    cache.path(other).parent.mkdir(parents=True, exist_ok=True)
    cache.path(one).rename(cache.path(other))

    assert cache.get(other) is None
    assert "its key" in caplog.text and not cache.path(other).exists()


@pytest.mark.parametrize("wrong", ["another clip's", "another autoencoder's", "another shape's"])
def test_a_latent_under_a_wrong_name_is_made_again(rows, tae, tmp_path, wrong, caplog):
    cache = TensorCache(tmp_path)
    store = LatentStore(tae=tae, tae_sha256="a", cache=cache)
    right = store.get(rows[0], BUCKET)
    torch.manual_seed(1)
    other = LatentStore(tae=TAE(tae.config).eval(), tae_sha256="b", cache=cache)
    place = {
        "another clip's": (store, rows[1], BUCKET),
        "another autoencoder's": (other, rows[0], BUCKET),
        "another shape's": (store, rows[0], replace(BUCKET, width=48)),
    }[wrong]
    maker, row, bucket = place
    assert not torch.equal(maker.get(row, bucket), right)
    cache.path(maker.key(row, bucket)).replace(cache.path(store.key(rows[0], BUCKET)))

    assert torch.equal(store.get(rows[0], BUCKET), right)
    assert "made again" in caplog.text
    assert torch.equal(cache.get(store.key(rows[0], BUCKET))["latent"].float(), right)


def test_filling_again_makes_nothing_and_reads_nothing(rows, tae, tmp_path):
    store = LatentStore(tae=tae, tae_sha256="a", cache=TensorCache(tmp_path))
    wanted = [(row, BUCKET) for row in rows[:2]]
    fill_cache(store, wanted)
    damaged = store.cache.path(store.key(*wanted[0]))
    damaged.write_bytes(damaged.read_bytes()[:-5])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    seen = []

    assert fill_cache(store, wanted, lambda done, total: seen.append((done, total))) == {}
    assert seen == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    store.get(*wanted[0])
    assert damaged.stat().st_mtime_ns != before[damaged], "found out when it is read"


def test_latents_in_memory_stay_below_their_bytes_and_are_the_same(rows, tae, tae_recipe, tmp_path):
    plan = Plan(rows[:3], tae_recipe, 0)
    store = LatentStore(tae=tae, tae_sha256="a", cache=TensorCache(tmp_path))
    samples = [sample for step in range(6) for sample in plan.step(step)]
    of_one = 4 * 1 * 4 * 4 * 4  # bytes: [C, T, H, W] in float32
    roomy, narrow = Latents(store, plan, {}), Latents(store, plan, {}, memory_bytes=2 * of_one)
    for sample in samples:
        assert (narrow(sample) == roomy(sample)).all()
        assert narrow.known.num_bytes <= 2 * of_one

    assert len(roomy.known.values) == len({(s.row, s.bucket) for s in samples}) == 6
    assert roomy(samples[0]) is roomy(samples[0])


def test_filling_reports_the_clips_that_do_not_decode(rows, tae, tmp_path):
    gone = rows[1] | {"uri": str(tmp_path / "gone.mp4"), "clip_id": "gone", "video_id": "gone"}
    store = LatentStore(tae=tae, tae_sha256="a", cache=TensorCache(tmp_path / "cache"))
    seen = []

    failed = fill_cache(store, [(rows[0], BUCKET), (gone, BUCKET)], lambda done, total: seen.append((done, total)))

    assert list(failed) == ["gone"]
    assert seen == [(1, 2), (2, 2)]
    assert store.cache.get(store.key(rows[0], BUCKET)) is not None


def test_golden_latents(rows, tmp_path):
    """These numbers were written down with LATENT_FORMAT 1. If they move, raise LATENT_FORMAT and write down the new ones."""
    model = TAE(TAEConfig(channels=8, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=4, groups=4, patch=4)).eval()
    for number, (_, weight) in enumerate(
        sorted(model.state_dict().items())
    ):  # not from an initialisation, which may change
        drawn = torch.from_numpy(Key(seed=0, purpose="noise", step=number).normal(tuple(weight.shape)))
        weight.copy_(drawn / max(1, weight[0].numel()) ** 0.5)
    store = LatentStore(tae=model, tae_sha256="golden", cache=TensorCache(tmp_path))
    bucket = demo_buckets(frames=16, fps=8.0, side=32).assign(rows[2])
    latent = store.get(rows[2], bucket)

    assert cache_module.LATENT_FORMAT == 1
    found = [
        round(float(x), 3)
        for x in (latent[0, 0, 0, 0], latent[1, 0, 1, 2], latent[2, 1, 3, 3], latent[3, 1, 2, 0], latent.std())
    ]
    assert found == pytest.approx(GOLDEN, abs=0.01)


GOLDEN = [-0.43, -2.562, -0.426, 1.117, 1.706]


def test_captions_are_encoded_once_and_read_back_the_same(tmp_path):
    cache = TensorCache(tmp_path)
    texts = ["a bee", "", 'a sign "OPEN"']
    first = CaptionEncoder.of(["bytes", "quoted-bytes"], cache)(texts)
    files = sorted(tmp_path.rglob("*.safetensors"))
    again = CaptionEncoder.of(["bytes", "quoted-bytes"], cache)(texts)
    without = CaptionEncoder.of(["bytes", "quoted-bytes"])(texts)

    assert len(files) == 2 * 3
    assert sorted(tmp_path.rglob("*.safetensors")) == files
    for a, b, c in zip(first, again, without, strict=True):
        assert torch.equal(a.states, b.states) and torch.equal(a.mask, b.mask)
        torch.testing.assert_close(a.states, c.states)
        assert torch.equal(a.mask, c.mask)
