"""Which latent frames are given in training, and how they reach the net."""

import pytest
import torch

from vqvdm.diffusion.known_latents import (
    ConditioningConfig,
    KnownLatents,
    draw_known,
    draws_needed,
)
from vqvdm.errors import UserError

CLIPS = 3000


def drawn(frames: int, share: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return draw_known(torch.rand(CLIPS, draws_needed(frames), generator=generator), frames, share)


def as_text(known_T: torch.Tensor) -> str:
    return "".join("x" if one else "." for one in known_T.tolist())


def test_of_a_share_of_the_clips_some_frames_are_given_and_never_all() -> None:
    known_BT = drawn(4, 0.25)
    assert known_BT.any(1).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert not known_BT.all(1).any()
    assert not drawn(4, 0.0).any()
    assert drawn(4, 1.0).any(1).all()


def test_the_first_ones_both_ends_and_any_are_given_equally_often() -> None:
    found = [as_text(known_T) for known_T in drawn(4)]
    count = {text: found.count(text) / CLIPS for text in sorted(set(found))}
    # Of four frames one, two or three; both ends leave two. Each way is a third.
    ways = {text: 1 / 9 / [4, 6, 4][text.count("x") - 1] for text in count}
    for first in ("x...", "xx..", "xxx."):
        ways[first] += 1 / 9
    ways["x..x"] += 1 / 3
    assert len(count) == 4 + 6 + 4
    assert count == pytest.approx(ways, abs=0.025)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [(2, {"x.", ".x"}), (3, {"x..", ".x.", "..x", "xx.", "x.x", ".xx"})],
)
def test_short_latents_leave_a_frame_to_predict(frames: int, expected: set[str]) -> None:
    assert {as_text(known_T) for known_T in drawn(frames)} == expected


def test_the_highest_number_below_one_gives_no_whole_clip() -> None:
    for frames in range(2, 34):
        uniform_BN = torch.full((1, draws_needed(frames)), 1 - 2.0**-24)
        uniform_BN[:, 1] = 0.0  # the first ones
        assert draw_known(uniform_BN, frames, 1.0).sum() == frames - 1


def test_known_frames_take_the_place_of_others() -> None:
    known = KnownLatents(torch.ones(2, 3, 2, 1, 1), torch.tensor([[True, False], [False, False]]))
    put = known.put(torch.zeros(2, 3, 2, 1, 1))
    assert put[:, 0, :, 0, 0].tolist() == [[1, 0], [0, 0]]
    both = known.cat(known.none()).put(torch.zeros(4, 3, 2, 1, 1))
    assert torch.equal(both, torch.cat([put, torch.zeros_like(put)]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 1.5}, "share must lie in .* not 1.5"),
        ({"share": -0.1}, "share must lie in .* not -0.1"),
        ({"noise": -1.0}, "noise must be at least 0, not -1.0"),
        ({"noise": float("nan")}, "noise must be at least 0, not nan"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    ConditioningConfig(0.5).check()
    with pytest.raises(UserError, match=message):
        ConditioningConfig(**changes).check()
