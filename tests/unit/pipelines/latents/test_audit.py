"""The audit of latents names a wrong origin, key or shard."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.io import storage
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardReader, ShardWriter
from pipelines.latents import audit, published
from pipelines.latents.audit import AuditShard, Difference
from pipelines.latents.encoder import EncodePlan, EncodeShard, Origin
from pipelines.settings import Augment
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.settings import TrainVQGAN
from pipelines.training.world import World
from pipelines.video.lossless import encode_lossless
from vqvdm.errors import UserError
from vqvdm.tokenizer.vqgan import VQGANConfig

ORIGIN = Origin("f" * 64, "spec-of-clips")


def marker(name: str, *keys: str, origin: Origin | None = ORIGIN) -> Marker:
    details = {"origin": asdict(origin)} if origin else {}
    return Marker(name, "", 0, list(keys), [], "", "", details)


def test_the_same_origin_passes() -> None:
    published.check_origin(
        "latents/base", {"origin": asdict(ORIGIN)}, [marker("train-000000")], ORIGIN
    )


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("vqgan_sha256", "another VQGAN"),
        ("clip_spec", "clips cut with other settings"),
    ],
)
def test_a_mismatch_is_named_with_its_place(field: str, message: str) -> None:
    other = replace(ORIGIN, **{field: "something else"})
    good, bad = {"origin": asdict(ORIGIN)}, {"origin": asdict(other)}
    cure = r".*run jobs/encode_latents\.py --overwrite"
    with pytest.raises(UserError, match=f"^latents/base was encoded from {message}{cure}"):
        published.check_origin("latents/base", bad, [], ORIGIN)
    shards_ = [marker("train-000000"), marker("train-000001", origin=other)]
    with pytest.raises(UserError, match=rf"^latents/base/train-000001\.tar .*{message}{cure}"):
        published.check_origin("latents/base", good, shards_, ORIGIN)
    with pytest.raises(UserError, match=r"train-000002\.tar"):
        published.check_origin("latents/base", good, [marker("train-000002", origin=None)], ORIGIN)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ([marker("train-000000", "a")], r"latents/train-000000\.tar lacks the key b"),
        (
            [marker("train-000000", "a", "b", "x")],
            r"latents/train-000000\.tar has the unexpected key x",
        ),
        ([], r"latents/train-000000\.tar lacks the key a"),
    ],
)
def test_a_missing_or_extra_key_is_named(latents: list[Marker], message: str) -> None:
    clips = [marker("train-000000", "a", "b"), marker("val-000000")]
    published.check_pairs(
        "latents", [marker("train-000000", "b", "a"), marker("val-000000")], clips
    )
    with pytest.raises(UserError, match=message):
        published.check_pairs("latents", latents, clips)


def test_latents_of_mirror_images_are_expected_of_training_clips() -> None:
    clips = [marker("train-000000", "a", "b"), marker("val-000000", "v")]
    both = marker("train-000000", "a", "a-mirrored", "b", "b-mirrored")
    published.check_pairs("latents", [both, clips[1]], clips, "mirror")
    with pytest.raises(UserError, match=r"train-000000\.tar lacks the key a-mirrored"):
        published.check_pairs("latents", clips, clips, "mirror")
    with pytest.raises(UserError, match=r"train-000000\.tar has the unexpected key a-mirrored"):
        published.check_pairs("latents", [both, clips[1]], clips)


def test_models_tell_of_mirror_images_only_where_there_are_some() -> None:
    index = {"spec_hash": "s", "clips": "c", "shape": [3, 4, 8, 8]}
    assert published.Latents("", index, []).lineage == {"latents": "s", "clips": "c"}
    mirrored = published.Latents("", index | {"augment": "mirror"}, []).lineage
    assert mirrored == {"latents": "s", "clips": "c", "augment": "mirror"}


def test_a_shape_of_other_clips_is_refused() -> None:
    published.check_shape("latents/base", {"shape": [3, 4, 16, 16]}, [3, 4, 16, 16])
    with pytest.raises(UserError, match=r"3×4×8×8, but these clips give 3×4×16×16.*again"):
        published.check_shape("latents/base", {"shape": [3, 4, 8, 8]}, [3, 4, 16, 16])


def test_keys_are_spread_over_shards() -> None:
    markers = [marker("0", *"abcdef"), marker("1"), marker("2", "g"), marker("3", *"hijkl")]
    chosen = audit.sample_keys(markers, 4)
    assert sum(map(len, chosen)) == 4 and chosen[0][0] == "a" and chosen[3][-1] == "l"
    assert all(set(keys) <= set(m.keys) for keys, m in zip(chosen, markers, strict=True))
    assert audit.sample_keys(markers, 99) == [m.keys for m in markers]


def test_the_judgement_names_key_and_shard() -> None:
    good, bad = Difference("a", "train-000000", 0.01), Difference("b", "train-000001", 0.2)
    assert audit.judge("latents", [good], 0.05).startswith("1 latents encoded again: at most 0.01")
    with pytest.raises(UserError, match=r"1 of 2 .* b in latents/train-000001\.tar by 0\.2"):
        audit.judge("latents", [good, bad], 0.05)
    with pytest.raises(UserError, match="by nan"):
        audit.judge("latents", [replace(bad, deviations=float("nan"))], 0.05)


def test_weights_have_to_be_those_of_their_config(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    checksum = storage.sha256(f"{tmp_path}/model.safetensors")
    assert published.weights_of(str(tmp_path), {"fingerprint": checksum[:16]}) == checksum
    with pytest.raises(UserError, match=r"model\.safetensors does not match"):
        published.weights_of(str(tmp_path), {"fingerprint": "0" * 16})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing: run jobs/train_vqgan"):
        published.weights_of(str(tmp_path), {"fingerprint": checksum[:16]})


def test_an_altered_latent_is_found(tmp_path: Path) -> None:
    _find_an_altered_latent(tmp_path, "none", ["a", "c"])


def test_an_altered_latent_of_a_mirror_image_is_found(tmp_path: Path) -> None:
    _find_an_altered_latent(tmp_path, "mirror", ["a", "c-mirrored"])


def _find_an_altered_latent(tmp_path: Path, augment: Augment, keys: list[str]) -> None:
    """The second of the keys, which the auditor is asked for, is altered."""
    model = VQGANConfig(
        blocks=((2, 4, 4),), widths=(8,), depths=(1,), quantizer="fsq", levels=(4, 4, 4)
    )
    VQGANMethod(TrainVQGAN(model=model), World()).export(tmp_path / "vqgan")
    videos = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
    metadata = json.dumps({"label": None, "fps": 8.0}).encode()
    with ShardWriter(f"{tmp_path}/clips", "train-000000") as writer:
        for key, video in zip("abc", videos, strict=True):
            writer.add(key, {"mkv": encode_lossless(video, 8), "json": metadata})
        clips = writer.publish([], "clips", "made", {})
    plan = EncodePlan(f"{tmp_path}/clips", clips, f"{tmp_path}/latents", "spec", ORIGIN, augment)
    arguments = (f"{tmp_path}/vqgan", 2, "fp32")
    encoded = Marker.from_json(EncodeShard(*arguments)({"plan": plan, "verify": True})["marker"])
    row = {"plan": plan, "marker": encoded, "keys": keys, "std": [1.0, 0.5, 2.0]}
    auditor = AuditShard(*arguments)
    given = auditor(row)
    # What Arrow does not take Ray pickles, and says so.
    assert pa.Table.from_pylist([given]).to_pylist() == [given]
    same = audit.differences_of(given)
    assert [d.key for d in same] == keys and all(d.deviations < 1e-2 for d in same)

    reader = ShardReader(f"{tmp_path}/latents/train-000000.tar")
    with ShardWriter(f"{tmp_path}/latents", "train-000000") as writer:
        for key in reader.keys:
            members = reader[key]
            if key == keys[1]:
                latent = np.load(io.BytesIO(members["npy"]))
                latent[1, 0, 0, 0] += 1
                buffer = io.BytesIO()
                np.save(buffer, latent)
                members["npy"] = buffer.getvalue()
            writer.add(key, members)
        altered = writer.publish([], "spec", encoded.made_from, encoded.details)
    unlike = audit.differences_of(auditor(row | {"marker": altered}))
    assert unlike[0] == same[0]
    assert unlike[1].deviations == pytest.approx(2, abs=0.02)  # One, at a deviation of a half.
