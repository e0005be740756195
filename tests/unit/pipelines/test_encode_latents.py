"""The precision of latents is settled once, and the pool has what its kind of device wants."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipelines.cluster import placement
from pipelines.cluster.devices import Devices
from pipelines.encode_latents import Pool, encode_latents
from pipelines.io import storage
from pipelines.latents.encoder import Origin, spec_hash
from pipelines.latents.inputs import augment_there, differing, precision_of, replaces
from pipelines.latents.settings import EncodeLatents
from vqvdm.errors import UserError

ORIGIN = Origin("weights", "clips")
AUTO = EncodeLatents(batch_size=4)
SPEC = {"frames": 16, "size": 128}


@pytest.mark.parametrize("dry_run", [True, False])
def test_clips_for_validation_alone_are_refused(tmp_path: Path, dry_run: bool) -> None:
    """The mean over training clips would be no number."""
    storage.publish_json({"counts": {"val": 3}}, f"{tmp_path}/clips/index.json")
    with pytest.raises(UserError, match=r"clips has no training clips.*lower --val-fraction"):
        encode_latents(EncodeLatents(root=str(tmp_path), dry_run=dry_run))


def test_a_precision_that_is_set_stays() -> None:
    fp32 = replace(AUTO, precision="fp32")
    assert precision_of(fp32, ORIGIN, None) == "fp32"
    assert precision_of(fp32, ORIGIN, spec_hash(ORIGIN, "bf16", 4)) == "fp32"


@pytest.mark.parametrize("begun", ["fp32", "bf16", "fp16"])
def test_auto_goes_on_with_what_latents_were_begun_with(begun: str) -> None:
    """Also on other hardware."""
    assert precision_of(AUTO, ORIGIN, spec_hash(ORIGIN, begun, 4)) == begun


def test_latents_of_earlier_versions_are_known_by_auto_itself() -> None:
    assert precision_of(AUTO, ORIGIN, spec_hash(ORIGIN, "auto", 4)) == "auto"


def test_the_cluster_is_asked_where_there_are_no_latents_to_go_on_with() -> None:
    found = spec_hash(ORIGIN, "fp16", 4)
    assert precision_of(AUTO, ORIGIN, None) is None
    assert precision_of(AUTO, ORIGIN, spec_hash(ORIGIN, "fp16", 5)) is None
    assert precision_of(AUTO, replace(ORIGIN, clip_spec="other"), found) is None


def test_only_finished_latents_are_replaced(tmp_path: Path) -> None:
    """Those without an index are what a job that was killed has left, and are gone on with."""
    anew = replace(AUTO, root=str(tmp_path), overwrite=True)
    assert not replaces(anew, str(tmp_path))
    storage.publish_json({"spec_hash": "any"}, f"{tmp_path}/index.json")
    assert replaces(anew, str(tmp_path))
    assert not replaces(replace(anew, audit=True), str(tmp_path))
    assert not replaces(AUTO, str(tmp_path))


@pytest.mark.parametrize(
    ("origin", "settings", "words"),
    [
        (Origin("other", "clips"), AUTO, "another VQGAN"),
        (Origin("weights", "other"), AUTO, "clips cut with other settings"),
        (ORIGIN, replace(AUTO, precision="fp32"), "precision bf16 → fp32"),
        (ORIGIN, replace(AUTO, batch_size=8), "batch_size, now 8"),
        (ORIGIN, replace(AUTO, augment="mirror"), "augment none → mirror"),
    ],
)
def test_what_makes_latents_differ_is_named(
    origin: Origin, settings: EncodeLatents, words: str, tmp_path: Path
) -> None:
    found = spec_hash(ORIGIN, "bf16", 4)
    storage.publish_json({"origin": asdict(ORIGIN)}, f"{tmp_path}/index.json")
    assert differing(str(tmp_path), found, origin, settings) == words


def test_latents_that_are_not_all_there_tell_how_they_were_augmented(tmp_path: Path) -> None:
    found = spec_hash(ORIGIN, "bf16", 4, "mirror")
    assert differing(str(tmp_path), found, ORIGIN, AUTO) == "augment mirror → none"


def test_the_audit_takes_latents_as_they_were_augmented(tmp_path: Path) -> None:
    mirror = replace(AUTO, augment="mirror")
    storage.publish_json({"augment": "mirror"}, f"{tmp_path}/index.json")
    assert augment_there(AUTO, str(tmp_path)) == augment_there(mirror, str(tmp_path)) == "mirror"
    storage.publish_json({}, f"{tmp_path}/index.json")
    assert augment_there(AUTO, str(tmp_path)) == "none"
    with pytest.raises(UserError, match="without mirror images: leave --augment mirror out"):
        augment_there(mirror, str(tmp_path))


def test_captions_are_for_those_who_encode_them() -> None:
    for other in ({"text_encoder": "clip"}, {"caption_column": "mood"}):
        with pytest.raises(UserError, match=r"--audit encodes no captions, .*: leave --text-"):
            EncodeLatents(root="root", audit=True, **other).check()
    with pytest.raises(UserError, match="--caption-column mood is for --text-encoder: pass its"):
        EncodeLatents(root="root", caption_column="mood").check()


def test_fingerprints_tell_precisions_apart() -> None:
    assert len({spec_hash(ORIGIN, each, 4) for each in ("auto", "fp32", "bf16", "fp16")}) == 4


def test_mirror_images_are_gone_on_with() -> None:
    found = spec_hash(ORIGIN, "bf16", 4, "mirror")
    assert found != spec_hash(ORIGIN, "bf16", 4)
    assert precision_of(replace(AUTO, augment="mirror"), ORIGIN, found) == "bf16"
    assert precision_of(AUTO, ORIGIN, found) is None


@pytest.mark.parametrize(
    ("devices", "calls"), [(Devices("cpu", 3), 1), (Devices("cuda", 3, 1.0), 2)]
)
def test_a_pool_may_shrink_to_one_actor(
    devices: Devices, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {"Alive": True, "Resources": {"CPU": 3, "GPU": 3, "memory": 30e9}}
    monkeypatch.setattr(placement.ray, "nodes", lambda: [node])
    asked = Pool(AUTO, devices, SPEC).actors()
    pool = asked["compute"]
    assert (pool.min_size, pool.initial_size, pool.max_size) == (1, 3, 3)
    assert pool.max_concurrent_calls_per_actor == calls
    assert pool.enable_true_multi_threading == (calls > 1)
    assert asked["num_gpus"] == devices.gpus_per_worker
    assert asked["memory"] == 2**30
    assert Pool(AUTO, devices, SPEC, 10**9).actors()["memory"] == 2**30 + 10**9
