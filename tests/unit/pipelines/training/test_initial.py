"""`--init-from`: which weights it names, and how a training begins with them."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.io import storage
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.initial import (
    Initial,
    begins_within,
    find_initial,
    find_weights,
    fingerprint_of,
)
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.settings import TrainLDM, TrainVQGAN
from pipelines.training.world import World
from tests.image_autoencoders import autoencoder, write_autoencoder
from tests.trainings import CAPTIONED, INDEX, batch, captions, distil, ldm, lora, vqgan
from vqvdm.diffusion.denoiser import DenoiserName, read_config
from vqvdm.diffusion.dit import DiTConfig
from vqvdm.diffusion.known_latents import ConditioningConfig
from vqvdm.diffusion.lora import merged
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.errors import UserError
from vqvdm.tokenizer.discriminator import DiscriminatorConfig
from vqvdm.tokenizer.inflated import TEMPORAL, inflated_weights
from vqvdm.tokenizer.vqgan import VQGANConfig

CLASSES = {"classes": ["b", "c", "a"]}


def published(folder: Path, steps: int = 2) -> LDMMethod:
    """A denoiser of the classes a and b, trained a little, and its bundle."""
    method = ldm(World(), 1)
    for step in range(steps):
        method.train_step(batch(), step)
    method.export(folder)
    return method


def begun(initial: Initial | None, data: dict[str, Any] = INDEX) -> LDMMethod:
    method = LDMMethod(replace(ldm(World(), 1).config, seed=5), World(), data, initial=initial)
    words = method.start()
    assert bool(words) == bool(initial)
    return method


def test_a_training_begins_with_the_average_of_a_published_one(tmp_path: Path) -> None:
    before = published(tmp_path / "base")
    method = begun(find_weights(str(tmp_path / "base"), "ldm"))
    for net in (method.denoiser, method.ema.average):
        for name, tensor in net.state_dict().items():
            assert torch.equal(tensor, before.ema.average.state_dict()[name]), name


def test_classes_are_known_by_name(tmp_path: Path) -> None:
    before = published(tmp_path / "base")
    method = begun(find_weights(str(tmp_path / "base"), "ldm"), INDEX | CLASSES)
    rows = method.denoiser.conditioning.class_embedding.weight
    a, b, none = before.ema.average.conditioning.class_embedding.weight
    assert torch.equal(rows, torch.stack([b, none, a, none]))


def test_what_reads_captions_is_taken_over_with_its_encoder_only(tmp_path: Path) -> None:
    before = captions(World(), 1)
    for step in range(4):  # what it says is zero at first, and so are gradients
        before.train_step(batch(), step)
    before.export(tmp_path / "base")
    read = before.ema.average.state_dict()["conditioning.text.weight"]
    assert read.any()
    found = find_weights(str(tmp_path / "base"), "ldm")
    told = CAPTIONED["text"]
    same = begun(found.for_captions(told), CAPTIONED).denoiser.state_dict()
    assert torch.equal(same["conditioning.text.weight"], read)
    other = told | {"files": {"config.json": "another"}}
    anew = begun(found.for_captions(other), CAPTIONED | {"text": other}).denoiser.state_dict()
    assert not anew["conditioning.text.weight"].any()
    assert torch.equal(anew["last.2.weight"], same["last.2.weight"])
    # A net that takes captions begins with one that does not, and the other way round.
    published(tmp_path / "plain")
    plain = find_weights(str(tmp_path / "plain"), "ldm").for_captions(told)
    assert not begun(plain, CAPTIONED).denoiser.state_dict()["conditioning.text.weight"].any()
    assert not begun(found.for_captions(None), INDEX).denoiser.inputs.text_width


def test_an_unfinished_training_gives_its_newest_checkpoint_and_a_file_its_own(
    tmp_path: Path,
) -> None:
    place, method = tmp_path / "ldm" / "base", ldm(World(), 1)
    checkpoints, averages = Checkpoints(str(place), "recipe", 2), []
    for step in (1, 2):
        method.train_step(batch(), step)
        checkpoints.save(step, {"step": step, "method": method.state()})
        averages.append({k: v.clone() for k, v in method.ema.average.state_dict().items()})
    earlier = f"{place}/checkpoints/step-00000001.safetensors"
    for uri, expected in ((str(place), averages[1]), (earlier, averages[0])):
        found = begun(find_weights(uri, "ldm")).denoiser.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), uri


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_a_checkpoint_tells_which_net_it_is_of(
    name: DenoiserName, own: bool, tmp_path: Path
) -> None:
    nets: dict[str, Any] = {"model": UNetConfig(width=32, head_width=16), "dit": DiTConfig(depth=3)}
    config = TrainLDM(denoiser=name, conditioning=ConditioningConfig(0.5), **(nets if own else {}))
    checkpoints = Checkpoints(str(tmp_path), "", 2, identity={"settings": config.recipe()})
    checkpoints.save(1, {"step": torch.ones(1)})
    bundle = find_weights(str(tmp_path), "ldm").bundle
    assert bundle and read_config(bundle) == config.net
    assert bundle["objective"]["name"] == "flow" and bundle["conditioning"]["share"] == 0.5


def test_a_checkpoint_of_adapters_gives_a_net_without(tmp_path: Path) -> None:
    method, place = lora(World(), 1), str(tmp_path / "adapted")
    for step in range(3):
        method.train_step(batch(), step)
    Checkpoints(place, "recipe", 2).save(3, {"step": 3, "method": method.state()})
    found, expected = begun(find_weights(place, "ldm")).denoiser, merged(method.ema.average)
    assert all(map(torch.equal, found.state_dict().values(), expected.state_dict().values()))


def test_a_tokenizer_keeps_its_codes(tmp_path: Path) -> None:
    before = vqgan(World(), "vq", 16, 1)
    before.train_step(batch(), 0)
    before.export(tmp_path / "base")
    initial = find_weights(str(tmp_path / "base"), "vqgan")
    method = VQGANMethod(replace(before.config, seed=5), World(), initial)
    assert method.start() == "100.0% of the weights are taken over"
    codes = method.vqgan.quantizer.codes_KC.clone()
    assert torch.equal(codes, before.ema.average.quantizer.codes_KC)
    method._place_codes(method._parts(batch(), 0))
    assert torch.equal(method.vqgan.quantizer.codes_KC, codes)


def test_what_cannot_be_begun_with_is_refused(tmp_path: Path) -> None:
    published(tmp_path / "ldm")
    vqgan(World(), "vq", 16, 1).export(tmp_path / "vqgan")
    distil(World(), 1).export(tmp_path / "fast")
    missing = tmp_path / "base" / "checkpoints" / "step-00000007.safetensors"
    cases = [
        (tmp_path / "nowhere", "vqgan", r"nowhere holds no model.*train_vqgan\.py"),
        (tmp_path / "vqgan", "ldm", r"made by jobs/train_vqgan\.py.*what jobs/train_ldm\.py"),
        (tmp_path / "ldm", "student", r"made by jobs/train_ldm\.py.*what jobs/distill_ldm\.py"),
        (tmp_path / "fast", "ldm", r"made by jobs/distill_ldm\.py"),
        (missing, "ldm", r"step-00000007\.json is missing"),
    ]
    for uri, kind, words in cases:
        with pytest.raises(UserError, match=words):
            find_weights(str(uri), kind)  # type: ignore[arg-type]


def test_a_training_that_goes_on_needs_the_weights_no_more(tmp_path: Path) -> None:
    """Left out, deleted, or moved on: the same command goes on, and another model is refused."""
    source, folder = tmp_path / "source", str(tmp_path / "into")
    method, checkpoints = ldm(World(), 1), Checkpoints(str(source), "recipe", 2)
    checkpoints.save(1, {"step": 1, "method": method.state()})
    asked = replace(method.config, init_from=str(source))
    begun_with = fingerprint_of(find_initial(asked, "ldm", folder))
    assert len(begun_with["initial weights"]) == 16
    Checkpoints(folder, "recipe", 2, inputs=begun_with).save(1, {"step": 1})
    method.train_step(batch(), 0)
    checkpoints.save(2, {"step": 2, "method": method.state()})
    assert fingerprint_of(find_initial(asked, "ldm", folder)) == begun_with
    without = replace(asked, init_from=None)
    assert fingerprint_of(find_initial(without, "ldm", folder)) == begun_with
    gone = replace(asked, init_from=str(tmp_path / "nowhere"))
    assert fingerprint_of(find_initial(gone, "ldm", folder)) == begun_with
    other = f"{source}/checkpoints/step-00000002.safetensors"
    assert (
        fingerprint_of(find_initial(replace(asked, init_from=other), "ldm", folder)) != begun_with
    )
    anew = replace(asked, overwrite=True)
    assert fingerprint_of(find_initial(anew, "ldm", folder)) != begun_with
    assert find_initial(replace(without, overwrite=True), "ldm", folder) is None
    assert find_initial(without, "ldm", str(tmp_path / "new")) is None


def test_weights_in_the_folder_to_be_written_are_known(tmp_path: Path) -> None:
    folder = f"{tmp_path}/ldm/base"
    within = (folder, f"{folder}/", f"{folder}/checkpoints/step-00000001.safetensors")
    assert all(begins_within(uri, folder) for uri in within)
    assert not any(begins_within(uri, folder) for uri in (f"{folder}2", f"{tmp_path}/ldm", None))


@pytest.mark.long
def test_weights_that_changed_or_went_are_told_of(tmp_path: Path) -> None:
    published(tmp_path / "base")
    initial = find_weights(str(tmp_path / "base"), "ldm")
    assert initial
    published(tmp_path / "base", steps=3)
    with pytest.raises(UserError, match=r"model\.safetensors on .* is missing or has changed"):
        initial.weights()
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is missing or has changed"):
        initial.weights()


def test_the_weights_are_an_input_and_their_place_is_no_setting(tmp_path: Path) -> None:
    before = published(tmp_path / "base")
    initial = find_weights(str(tmp_path / "base"), "ldm")
    assert len(fingerprint_of(initial)["initial weights"]) == 16
    assert fingerprint_of(None) == {}
    moved = replace(before.config, init_from="elsewhere")
    assert moved.recipe() == before.config.recipe()
    assert TrainVQGAN(init_from="x").recipe() == TrainVQGAN().recipe()
    assert TrainLDM().init_from is None


SMALL: dict[str, Any] = {
    "steps": 10, "batch_size": 4, "lr": 1e-4,
    "discriminator": DiscriminatorConfig(width=8, levels=2),
}  # fmt: skip


def image_job(folder: Path, uri: Path | str, **changes: Any) -> TrainVQGAN:
    """The settings of a training out of an image autoencoder, as the page of the job makes them."""
    config = TrainVQGAN(**SMALL, init_from=str(uri), **changes)
    found = find_initial(config, "vqgan", str(folder))
    assert found
    return config.inflating(found.inflated)


def image_training(folder: Path, uri: Path | str, **changes: Any) -> VQGANMethod:
    config = image_job(folder, uri, **changes)
    return VQGANMethod(config, World(), find_initial(config, "vqgan", str(folder)))


def save(method: VQGANMethod, folder: Path, step: int = 1) -> None:
    """A checkpoint with what its marker tells."""
    identity = {"settings": method.config.recipe()}
    inputs = fingerprint_of(method.initial)  # type: ignore[arg-type]
    checkpoints = Checkpoints(str(folder), "recipe", 2, inputs=inputs, identity=identity)
    checkpoints.save(step, {"step": step, "method": method.state()})


@pytest.mark.parametrize("pipeline", [False, True])
def test_a_tokenizer_begins_with_an_image_autoencoder(pipeline: bool, tmp_path: Path) -> None:
    place = tmp_path / "image"
    write_autoencoder(place / "vae" if pipeline else place)
    if pipeline:
        storage.publish_json({"_class_name": "SomePipeline"}, f"{place}/model_index.json")
    method = image_training(tmp_path / "new", place)
    words = method.start() or ""
    assert "of the weights are taken over; from scratch: encoder.down_blocks.0.temporal" in words
    assert "unused" not in words and "in part" not in words
    expected = inflated_weights(autoencoder().state_dict())
    for net in (method.vqgan, method.ema.average):
        state = net.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
        assert {name for name in state if TEMPORAL not in name} == expected.keys()
    assert len(fingerprint_of(find_weights(str(place), "vqgan"))["initial weights"]) == 16


def test_the_shape_is_part_of_the_recipe_and_that_of_a_vqgan_is_not(tmp_path: Path) -> None:
    place = write_autoencoder(tmp_path / "image")
    config = image_job(tmp_path / "new", place)
    recipe = config.recipe()
    assert not {"model", "group", "init_from"} & recipe.keys()
    assert recipe["inflated"]["widths"] == (8, 16) and recipe["inflated"]["group"] == 4
    other = image_job(tmp_path / "new", place, model=VQGANConfig(widths=(8, 8)))
    assert other.recipe() == recipe
    assert image_job(tmp_path / "new", place, group=2).recipe() != recipe
    assert image_job(tmp_path / "new", place, group=4).recipe() == recipe


def test_what_was_made_of_an_image_autoencoder_keeps_its_kind(tmp_path: Path) -> None:
    """Published, or in a checkpoint; the group may be another one, as no weight depends on it."""
    place = write_autoencoder(tmp_path / "image")
    before = image_training(tmp_path / "first", place, group=2)
    before.start()
    before.train_step(batch(), 0)
    before.export(tmp_path / "published")
    save(before, tmp_path / "unfinished")
    checkpoint = tmp_path / "unfinished" / "checkpoints" / "step-00000001.safetensors"
    for uri in (tmp_path / "published", tmp_path / "unfinished", checkpoint):
        method = image_training(tmp_path / "second", uri)
        assert method.start() == "100.0% of the weights are taken over"
        assert method.config.net == before.config.net
        state = method.vqgan.state_dict()
        for name, tensor in before.ema.average.state_dict().items():
            assert torch.equal(state[name], tensor), (uri, name)
        assert image_job(tmp_path / "second", uri, group=1).net.compression == (1, 2, 2)


def test_a_training_out_of_an_image_autoencoder_goes_on_without_it(tmp_path: Path) -> None:
    place, folder = write_autoencoder(tmp_path / "image"), tmp_path / "into"
    method = image_training(folder, place)
    method.start()
    method.train_step(batch(), 0)
    save(method, folder)
    shutil.rmtree(place)
    for uri in (place, None):
        config = replace(TrainVQGAN(**SMALL), init_from=uri and str(uri))
        found = find_initial(config, "vqgan", str(folder))
        assert found and fingerprint_of(found) == fingerprint_of(method.initial)  # type: ignore[arg-type]
        config = config.inflating(found.inflated)
        assert config.recipe() == method.config.recipe()
        resumed = VQGANMethod(config, World(), found)
        resumed.load(Checkpoints(str(folder), "recipe", 2).newest()["method"])
    with pytest.raises(UserError, match="image holds no model"):
        find_initial(replace(config, init_from=str(place), overwrite=True), "vqgan", str(folder))
    # Of what is published, too.
    method.export(tmp_path / "done")
    described = storage.read_json(f"{tmp_path}/done/config.json")
    described |= {"inputs": fingerprint_of(method.initial)}  # type: ignore[arg-type]
    storage.publish_json(described, f"{tmp_path}/done/config.json")
    found = find_initial(replace(config, init_from=None), "vqgan", str(tmp_path / "done"))
    assert found and found.inflated == method.config.net


def test_image_autoencoders_that_cannot_be_taken_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_autoencoder(tmp_path / "image")
    with pytest.raises(UserError, match=r"image autoencoder, which jobs/train_vqgan\.py begins"):
        find_weights(str(place), "ldm")
    config = storage.read_json(f"{place}/config.json")
    storage.publish_json(config | {"_class_name": "AutoencoderKLWan"}, f"{tmp_path}/w/config.json")
    with pytest.raises(UserError, match=r"--init-from .*/w is of the class AutoencoderKLWan"):
        find_weights(str(tmp_path / "w"), "vqgan")
    storage.publish_json(config, f"{tmp_path}/pickled/config.json")
    with pytest.raises(UserError, match=r"safetensors is missing; weights in pickles \(\.bin\)"):
        find_weights(str(tmp_path / "pickled"), "vqgan")
    storage.publish_json({"architectures": ["BertModel"]}, f"{tmp_path}/bert/config.json")
    with pytest.raises(UserError, match="bert holds no model"):
        find_weights(str(tmp_path / "bert"), "vqgan")
    storage.publish_json({}, f"{tmp_path}/pipeline/model_index.json")
    with pytest.raises(UserError, match="pipeline holds no model"):
        find_weights(str(tmp_path / "pipeline"), "vqgan")
    found = find_weights(str(place), "vqgan")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="diffusers, which is not installed"):
        find_weights(str(place), "vqgan")
    monkeypatch.undo()
    write_autoencoder(place, seed=1)
    with pytest.raises(UserError, match="is missing or has changed"):
        found.weights()


def test_a_group_of_frames_wants_an_image_autoencoder() -> None:
    with pytest.raises(UserError, match="--group 2 is for a tokenizer out of an image autoenc"):
        TrainVQGAN(group=2).inflating(None)
    assert TrainVQGAN().inflating(None).net == VQGANConfig()
