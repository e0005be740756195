"""Training, killed and resumed, ends where an undisturbed one ends, bit by bit."""

import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.io.arrays import clip_arrays, latent_arrays
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardWriter
from pipelines.tracking.run import Run
from pipelines.training.checkpoints import Checkpoints, KeyLog, consumed
from pipelines.training.initial import Initial, find_weights
from pipelines.training.loader import Batch, Loader
from pipelines.training.loop import train
from pipelines.training.methods.base import Method
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.optimise import scheduled_lr
from pipelines.training.settings import TrainJob, TrainLDM, TrainVQGAN
from pipelines.training.world import World
from pipelines.training.writer import CheckpointWriter
from pipelines.video.lossless import encode_lossless
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.errors import UserError
from vqvdm.tokenizer.discriminator import DiscriminatorConfig
from vqvdm.tokenizer.losses import LossConfig
from vqvdm.tokenizer.vqgan import VQGANConfig

SETTINGS: dict[str, Any] = {
    "steps": 4, "batch_size": 4, "warmup": 2, "precision": "fp32", "seed": 3,
    "log_every": 1, "validate_every": 2, "checkpoint_every": 2,
}  # fmt: skip
SHAPE: dict[str, Any] = {"blocks": ((2, 4, 4),), "widths": (8,), "depths": (1,)}
FSQ = VQGANConfig(**SHAPE, levels=(4, 4, 4), quantizer="fsq")
VQ = VQGANConfig(**SHAPE, codebook_size=16, codebook_channels=3, quantizer="vq")
CRITIC = DiscriminatorConfig(width=8, levels=2)
UNET = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)
NEVER = LossConfig(adversarial=0.0)
AT_ONCE = LossConfig(adversarial=0.1, adversarial_start=0.0, adversarial_ramp=0.0)
CONFIGS: dict[str, TrainJob] = {
    "fsq": TrainVQGAN(**SETTINGS, model=FSQ, discriminator=CRITIC, loss=NEVER),
    "vq": TrainVQGAN(**SETTINGS, model=VQ, discriminator=CRITIC, loss=NEVER),
    "adversarial": TrainVQGAN(**SETTINGS, model=FSQ, discriminator=CRITIC, loss=AT_ONCE),
    "ldm": TrainLDM(**SETTINGS, model=UNET),
}


class KilledError(Exception):
    pass


class Mortal(Loader):
    """Gives two batches, then dies."""

    def train(self, *args: Any, **kwargs: Any) -> Iterator[Batch]:
        yield from itertools.islice(super().train(*args, **kwargs), 2)
        raise KilledError


class Notes(Run):
    """A run that keeps metrics and file names in memory."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], float] = {}
        self.files: list[str] = []

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.values |= {(name, step): value for name, value in values.items()}

    def bytes(self, content: bytes, path: str) -> None:
        self.files.append(path)

    def image(self, pixels_HWC: np.ndarray, key: str, step: int) -> None:
        assert pixels_HWC.dtype == np.uint8 and pixels_HWC.ndim == 3
        self.files.append(f"{key} at step {step}")


class Place:
    """A folder with six samples in two shards, and the training on them."""

    def __init__(self, folder: Path, config: TrainJob, mean: float = 0.1) -> None:
        self.folder, self.config = folder, config
        self.index = {"shape": [3, 2, 4, 4], "classes": ["a", "b"], "fps": [8.0]}
        self.index |= {"mean": [mean] * 3, "std": [0.5, 1.0, 2.0]}
        self.markers = [self._shard(number) for number in range(2)]

    def _shard(self, number: int) -> Marker:
        rng = np.random.default_rng(number)
        with ShardWriter(str(self.folder / "data"), f"train-{number:06d}") as writer:
            for k in range(3):
                buffer = io.BytesIO()
                np.save(buffer, rng.standard_normal((3, 2, 4, 4), np.float32))
                frames = rng.integers(0, 256, (4, 16, 16, 3), np.uint8)
                metadata = json.dumps({"label": "ab"[k % 2], "fps": 8.0}).encode()
                mkv = encode_lossless(frames, 8)
                writer.add(
                    f"{number}-{k}", {"mkv": mkv, "npy": buffer.getvalue(), "json": metadata}
                )
            return writer.publish([], "spec", "made", {})

    def run(
        self,
        name: str,
        loader_type: type[Loader] = Loader,
        stop_requested: Callable[[], bool] = lambda: False,
        initial: Initial | None = None,
    ) -> tuple[Method, Notes]:
        """Train as a new process would: only the files in the folder are shared."""
        is_ldm = isinstance(self.config, TrainLDM)
        decode = partial(latent_arrays if is_ldm else clip_arrays, classes=["a", "b"])
        loader = loader_type(str(self.folder / "data"), self.markers, "job", decode)
        world, notes = World(), Notes()
        method: Method
        if isinstance(self.config, TrainLDM):
            method = LDMMethod(self.config, world, self.index, initial=initial)
        else:
            assert isinstance(self.config, TrainVQGAN)
            method = VQGANMethod(self.config, world)
        checkpoints = Checkpoints(str(self.folder / name), "recipe", 2)
        torch.manual_seed(len(name))  # the state of the global generator does not matter
        held_out = lambda: loader.first(4, 2)  # noqa: E731
        train(method, self.config, world, loader, held_out, checkpoints, notes, stop_requested)
        return method, notes


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {k: v for key, item in items for k, v in leaves(item, f"{path}/{key}").items()}
    return {path: value}


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


class OneStep:
    """A method whose steps do nothing."""

    def start(self) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        zero = torch.zeros(())
        return {"loss": zero, "skipped_in_a_row": zero, "skipped_steps": zero}


@pytest.mark.parametrize("rank", [0, 1])
def test_one_worker_keeps_the_keys_of_all(
    tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first publishes them, and would forget them: others would keep all for ever."""
    noted: list[list[str]] = []
    monkeypatch.setattr(KeyLog, "note", lambda _, step, keys: noted.append(keys))
    monkeypatch.setattr(World, "gather_keys", lambda _, keys: ["other", *keys])
    config = replace(CONFIGS["ldm"], log_keys=True, steps=1, checkpoint_every=9, batch_size=2)
    place = Place(tmp_path, config)
    decode = partial(latent_arrays, classes=["a", "b"])
    loader = Loader(str(tmp_path / "data"), place.markers, "job", decode)
    checkpoints = Checkpoints(str(tmp_path / "kept"), "recipe", 2)
    monkeypatch.setattr(CheckpointWriter, "save", lambda *_: None)
    train(OneStep(), config, World(rank), loader, list, checkpoints, None)  # type: ignore[arg-type]
    assert [len(keys) for keys in noted] == ([3] if rank == 0 else [])


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_two_steps_and_two_more_are_four(tmp_path: Path, name: str) -> None:
    place = Place(tmp_path, CONFIGS[name])
    whole, noted = place.run("whole")
    with pytest.raises(KilledError):
        place.run("halves", Mortal)
    resumed, noted_again = place.run("halves")

    expected, found = leaves(whole.state()), leaves(resumed.state())
    assert expected.keys() == found.keys()
    assert [path for path in expected if not same(expected[path], found[path])] == []
    learned = {k: v for k, v in noted.values.items() if k[0].startswith(("train/", "val/"))}
    assert {k[1] for k in noted_again.values} == {3, 4}
    assert all(noted_again.values[k] == v for k, v in learned.items() if k[1] > 2)
    assert (("train/discriminator", 4) in learned) == (name == "adversarial")
    assert noted.files == (
        []
        if name == "ldm"
        else [
            each for s in (2, 4) for each in (f"previews/step-00000{s}.mp4", f"preview at step {s}")
        ]
    )


@pytest.mark.parametrize("name", ["vq", "ldm"])
def test_a_request_to_stop_saves_at_that_step(tmp_path: Path, name: str) -> None:
    place = Place(tmp_path, replace(CONFIGS[name], log_keys=True))
    whole, _ = place.run("whole")
    asked = iter([False, False, True])
    place.run("stopped", stop_requested=lambda: next(asked))
    assert Checkpoints(str(tmp_path / "stopped"), "recipe", 2).newest_step() == 3
    resumed, noted = place.run("stopped")
    assert {step for _, step in noted.values} == {4}
    expected, found = leaves(whole.state()), leaves(resumed.state())
    assert [path for path in expected if not same(expected[path], found[path])] == []
    assert consumed(str(tmp_path / "stopped")) == consumed(str(tmp_path / "whole"))


def test_a_finished_training_is_left_as_it_is(tmp_path: Path) -> None:
    place = Place(tmp_path, CONFIGS["ldm"])
    whole, _ = place.run("whole")
    again, noted = place.run("whole")
    assert not noted.values
    expected, found = leaves(whole.state()), leaves(again.state())
    assert [path for path in expected if not same(expected[path], found[path])] == []


@pytest.mark.parametrize(("every", "told"), [(2, "the checkpoint of step 2 is intact"), (4, "")])
def test_a_training_that_skips_every_step_ends_with_a_cure(
    tmp_path: Path, every: int, told: str
) -> None:
    config = replace(CONFIGS["ldm"], checkpoint_every=every)
    place = Place(tmp_path, config, mean=math.nan)
    with pytest.raises(UserError, match=rf"of 4 steps.* up to step 4.*{told}.*lower --lr") as found:
        place.run("whole")
    assert "--overwrite" not in str(found.value)
    assert ("another --name" in str(found.value)) == bool(told)
    assert Checkpoints(str(tmp_path / "whole"), "recipe", 2).newest_step() == (2 if told else None)


@pytest.mark.long
@pytest.mark.parametrize("name", ["adversarial", "vq", "ldm"])
def test_how_often_is_validated_and_saved_changes_nothing(tmp_path: Path, name: str) -> None:
    often = replace(CONFIGS[name], validate_every=1, checkpoint_every=1)
    rarely = replace(CONFIGS[name], validate_every=100, checkpoint_every=100)
    assert often.recipe() == rarely.recipe()
    found = [leaves(Place(tmp_path / each, config).run("trained")[0].state())
             for each, config in (("often", often), ("rarely", rarely))]  # fmt: skip
    assert [path for path in found[0] if not same(found[0][path], found[1][path])] == []
    places = [str(tmp_path / each / "trained") for each in ("often", "rarely")]
    states = [Checkpoints(place, "recipe", 2).newest() for place in places]
    assert states[0]["validation"] == states[1]["validation"]


@pytest.mark.long
def test_more_steps_go_on_by_the_schedule_of_their_number(tmp_path: Path) -> None:
    short = Place(tmp_path, CONFIGS["ldm"])
    short.run("trained")
    longer = Place(tmp_path, replace(CONFIGS["ldm"], steps=6))
    method, noted = longer.run("trained")
    assert {step for _, step in noted.values} == {5, 6}
    state = Checkpoints(str(tmp_path / "trained"), "recipe", 2).newest()
    assert (state["step"], state["position"]) == (6, 24)
    again, _ = longer.run("trained")
    expected, found = leaves(method.state()), leaves(again.state())
    assert [path for path in expected if not same(expected[path], found[path])] == []
    rates = {value for path, value in found.items() if path.endswith("/lr")}
    assert rates == {scheduled_lr(5, longer.config)}


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_of_an_older_version_is_gone_on_from(tmp_path: Path, name: str) -> None:
    place = Place(tmp_path, CONFIGS[name])
    whole, _ = place.run("whole")
    with pytest.raises(KilledError):
        place.run("older", Mortal)
    checkpoints = Checkpoints(str(tmp_path / "older"), "recipe", 2)
    state = checkpoints.newest()
    assert state is not None
    for kind in ("optimiser", "critic_optimiser"):  # it counted no skipped steps
        state["method"].get(kind, {}).pop("skipped", None)
    if lecam := state["method"].get("lecam"):  # and kept numbers
        state["method"]["lecam"] = {side: mean.tolist() for side, mean in lecam.items()}
    checkpoints.save(2, state)
    resumed, _ = place.run("older")
    expected, found = leaves(whole.state()), leaves(resumed.state())
    assert [path for path in expected if not same(expected[path], found[path])] == []


@pytest.mark.long
def test_a_training_that_goes_on_does_not_begin_again(tmp_path: Path) -> None:
    """Its first weights may be gone by then."""
    place = Place(tmp_path, CONFIGS["ldm"])
    config = TrainLDM(**SETTINGS | {"seed": 9}, model=UNET)
    LDMMethod(config, World(), place.index).export(tmp_path / "first")
    initial = find_weights(str(tmp_path / "first"), "ldm")
    plain, _ = place.run("plain")
    whole, _ = place.run("whole", initial=initial)
    with pytest.raises(KilledError):
        place.run("halves", Mortal, initial=initial)
    (tmp_path / "first" / "model.safetensors").unlink()
    resumed, _ = place.run("halves", initial=initial)
    expected, found, other = (leaves(method.state()) for method in (whole, resumed, plain))
    assert [path for path in expected if not same(expected[path], found[path])] == []
    assert [path for path in expected if not same(expected[path], other[path])] != []
