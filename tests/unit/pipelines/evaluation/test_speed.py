"""A step of sampling may be several evaluations of the denoiser."""

from pathlib import Path

import pytest

from pipelines.cluster.devices import Devices
from pipelines.evaluation.settings import Evaluate
from pipelines.evaluation.speed import SINGLE, evaluations, time_sampling
from tests.tiny import write_bundle
from vqvdm import VideoGenerator
from vqvdm.diffusion.samplers import SAMPLERS, SamplingOptions


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> VideoGenerator:
    return VideoGenerator.load(write_bundle(tmp_path_factory.mktemp("root") / "ldm" / "base"))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (SamplingOptions(10, 1.0, "euler"), 10),
        (SamplingOptions(10, 2.0, "euler"), 20),
        (SamplingOptions(10, 1.0, "heun"), 19),  # the last step has no second evaluation
        (SamplingOptions(10, 2.0, "heun"), 38),
        (SamplingOptions(100, 2.0, "euler", (0.0, 0.495)), 149),  # guided at 0.49 to 0.01
    ],
)
def test_evaluations_are_counted(
    generator: VideoGenerator, options: SamplingOptions, count: int
) -> None:
    assert evaluations(generator, options, told=False) == count


def test_every_objective_has_a_sampler_of_one_evaluation() -> None:
    assert SINGLE.keys() == SAMPLERS.keys()
    assert all(SINGLE[name] in SAMPLERS[name] for name in SAMPLERS)


def test_evaluations_of_a_model_that_takes_captions(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    bundle = write_bundle(tmp_path / "base", classes=(), captioned=True)
    told, options = VideoGenerator.load(bundle), SamplingOptions(10, 2.0, "euler")
    # Guidance leads away from no caption, where there is one.
    assert evaluations(told, options, told=False) == 10
    assert evaluations(told, options, told=True) == 20


@pytest.mark.long
def test_speed_is_told_for_steps_and_for_evaluations(tmp_path: Path) -> None:
    write_bundle(tmp_path / "ldm" / "base")
    config = Evaluate(root=str(tmp_path), steps=4, guidance=2.0)
    found = time_sampling(config, Devices(), "auto", told=False)
    assert found["speed/evaluations_per_100_steps"] == 398
    assert found["speed/seconds_per_100_evaluations"] > 0
    assert found["sampler"] == "heun"
