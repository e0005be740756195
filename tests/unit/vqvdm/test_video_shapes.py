"""Lengths and sizes that a model makes, and what is said of others."""

import pytest

from vqvdm.diffusion.dit import DiTConfig
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.errors import UserError
from vqvdm.video_shapes import VideoShapes

LATENTS = {"shape": [3, 4, 8, 8]}
UNET = UNetConfig(multipliers=(1, 2, 2))


def test_shapes_follow_from_tokenizer_and_net() -> None:
    shapes = VideoShapes.of(LATENTS, (4, 8, 8), UNET)
    assert shapes == VideoShapes((16, 64, 64), group=4, multiple=32, any_length=False)
    dit = VideoShapes.of(LATENTS, (4, 8, 8), DiTConfig(patch=2))
    assert dit == VideoShapes((16, 64, 64), group=4, multiple=16, any_length=True)
    # A square has to divide by what the tokenizer folds of its height and of its width.
    uneven = VideoShapes.of(LATENTS, (4, 4, 6), DiTConfig(patch=2))
    assert (uneven.trained, uneven.multiple) == ((16, 32, 48), 24)


@pytest.mark.parametrize(
    ("changes", "any_length"),
    [
        ({}, False),
        ({"temporal_positions": "seconds"}, True),
        ({"joint_attention_from": 0}, True),
        ({"joint_attention_from": 1}, False),  # the first level still counts frames
        ({"joint_attention_from": 1, "temporal_positions": "seconds"}, True),
    ],
)
def test_a_unet_makes_any_length_if_no_level_counts_frames(changes: dict, any_length: bool) -> None:
    assert UNetConfig(**changes).tells_seconds == any_length


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        ({}, (16, 64, 64)),
        ({"size": 32}, (16, 32, 32)),
        ({"size": 128, "frames": 4}, (4, 128, 128)),
        ({"frames": 16}, (16, 64, 64)),
    ],
)
def test_what_fits_is_made(asked: dict, shape: tuple[int, int, int]) -> None:
    assert VideoShapes((16, 64, 64), 4, 32, False).at_once(**asked) == shape
    assert VideoShapes((16, 64, 64), 4, 32, True).at_once(frames=40) == (40, 64, 64)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"size": 100}, "size is 100: this model makes multiples of 32; give 96 or 128"),
        ({"size": 8}, "size is 8: .* give 32 or 64"),
        ({"size": 0}, "size is 0: .* give 32 or 64"),
        ({"size": -32}, "size is -32: .* give 32 or 64"),
        ({"frames": 10}, "frames is 10: .* multiples of 4; give 8 or 12"),
        ({"frames": 0}, "frames is 0: .* give 4 or 8"),
        ({"frames": 24}, "frames is 24: .* at most 16 frames at once; use --mode extend "),
    ],
)
def test_other_shapes_are_refused_with_what_would_work(asked: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        VideoShapes((16, 64, 64), 4, 32, False).at_once(**asked)
