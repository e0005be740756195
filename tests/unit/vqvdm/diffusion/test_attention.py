"""Attention: what it sees, what it knows of distances, and how it is computed."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from vqvdm.diffusion import attention
from vqvdm.diffusion.attention import (
    JointAttention,
    SpatialAttention,
    TemporalAttention,
    angles_in_both,
    angles_in_plane,
    angles_in_time,
    frame_times,
    rotate,
)

WIDTH = 16
Kind = TypeVar("Kind", bound=attention.Attention)


def stirred(kind: type[Kind], head_width: int = 8) -> Kind:
    """As after some training: no weight is zero any more."""
    torch.manual_seed(1)
    made = kind(WIDTH, head_width)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def latent(frames: int = 3, height: int = 4, width: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(1, WIDTH, frames, height, width, generator=generator)


def seen(attend: Callable[[Tensor], Tensor]) -> Tensor:
    """Which positions (T, H, W) the output at (1, 2, 0) depends on."""
    x_BCTHW = latent().requires_grad_()
    attend(x_BCTHW)[0, :, 1, 2, 0].square().sum().backward()
    assert x_BCTHW.grad is not None
    return x_BCTHW.grad[0].abs().sum(0) > 0


def test_attention_sees_its_frame_its_position_or_all() -> None:
    frame, position = torch.zeros(2, 3, 4, 2, dtype=torch.bool)
    frame[1] = True
    position[:, 2, 0] = True
    times_BT = frame_times(3, torch.tensor([8.0]))
    temporal, joint = stirred(TemporalAttention), stirred(JointAttention)
    assert torch.equal(seen(stirred(SpatialAttention)), frame)
    assert torch.equal(seen(temporal), position)
    assert torch.equal(seen(lambda x: temporal(x, times_BT)), position)
    assert seen(lambda x: joint(x, times_BT)).all()


@pytest.mark.parametrize("rate", [None, 8.0])
def test_temporal_attention_tells_frames_apart(rate: float | None) -> None:
    attend, x_BCTHW = stirred(TemporalAttention), latent(frames=5)
    times = () if rate is None else (frame_times(5, torch.tensor([rate])),)
    backwards = attend(x_BCTHW.flip(2), *times).flip(2)
    assert not torch.allclose(backwards, attend(x_BCTHW, *times), atol=1e-4)


def test_times_are_in_seconds() -> None:
    times_BT = frame_times(3, torch.tensor([4.0, 8.0], dtype=torch.bfloat16))
    assert times_BT.dtype == torch.float32
    assert times_BT.tolist() == [[0.0, 0.25, 0.5], [0.0, 0.125, 0.25]]


@pytest.mark.parametrize("kind", [TemporalAttention, JointAttention])
def test_only_distances_in_time_count(kind: type[TemporalAttention | JointAttention]) -> None:
    attend, x_BCTHW = stirred(kind), latent()
    times_BT = frame_times(3, torch.tensor([8.0]))
    found = attend(x_BCTHW, times_BT)
    torch.testing.assert_close(attend(x_BCTHW, times_BT + 7.3), found, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(attend(x_BCTHW, times_BT * 2), found, atol=1e-3)


def test_a_rate_and_half_of_it_agree_on_the_frames_that_both_have() -> None:
    attend, x_BCTHW = stirred(TemporalAttention), latent(frames=5)
    every, second = (frame_times(n, torch.tensor([fps])) for n, fps in ((5, 8.0), (3, 4.0)))
    at_half = attend(x_BCTHW[:, :, ::2], second)
    torch.testing.assert_close(attend(x_BCTHW[:, :, ::2], every[:, ::2]), at_half)
    # By number, the frames of both rates would be as far apart.
    assert not torch.allclose(attend(x_BCTHW[:, :, ::2], every[:, :3]), at_half, atol=1e-3)


@pytest.mark.parametrize("axis", [3, 4])
def test_joint_attention_tells_places_apart(axis: int) -> None:
    attend, x_BCTHW = stirred(JointAttention), latent()
    times_BT = frame_times(3, torch.tensor([8.0]))
    mirrored = attend(x_BCTHW.flip(axis), times_BT).flip(axis)
    assert not torch.allclose(mirrored, attend(x_BCTHW, times_BT), atol=1e-4)


def test_distances_in_height_and_width_count_wherever_they_are() -> None:
    """The product of a query and a key is the same where both are moved on by one position."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator)
    for angles in (
        angles_in_both(frame_times(3, torch.tensor([8.0])), 4, 5, 8)[0],
        angles_in_plane(4, 5, 8, torch.device("cpu")).expand(3, -1, -1, -1),
    ):

        def product(a: tuple[int, ...], b: tuple[int, ...], angles: Tensor = angles) -> Tensor:
            q_there, k_there = (rotate(x, angles[p][None, None]) for x, p in ((q, a), (k, b)))
            return (q_there * k_there).sum()

        here = product((0, 0, 0), (1, 2, 3))
        torch.testing.assert_close(product((1, 1, 1), (2, 3, 4)), here, atol=1e-4, rtol=1e-4)
        for other in ((1, 2, 2), (1, 1, 3)):
            assert (product((0, 0, 0), other) - here).abs() > 1e-2


def test_a_rotation_keeps_lengths() -> None:
    x_BALD = torch.randn(2, 3, 4, 16)
    turned = rotate(x_BALD, angles_in_time(frame_times(4, torch.tensor([8.0, 25.0])), 8))
    torch.testing.assert_close(turned.norm(dim=-1), x_BALD.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x_BALD[:, :, 0])
    assert not torch.allclose(turned[:, :, 1], x_BALD[:, :, 1], atol=1e-2)


@pytest.mark.parametrize("length", [1, 4, 8])
def test_short_sequences_attend_without_products_of_matrices(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    shape = (7, 2, length, 16)
    given = [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3)]
    weights = torch.randn(shape, generator=generator)
    found, expected = (f(*given) for f in (attention.attend_short, attention.attend))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * weights).sum(), given) for y in (found, expected)]
    torch.testing.assert_close(*gradients)
    halves = [each.bfloat16() for each in given]
    assert attention.attend_short(*halves).dtype == torch.bfloat16


@pytest.mark.parametrize("at_once", [2, 3, 7, 8])
def test_many_sequences_attend_in_parts(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SEQUENCES_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(7, 2, 5, 4, generator=generator, requires_grad=True) for _ in range(3)]
    weights = torch.randn(7, 2, 5, 4, generator=generator)
    found, expected = (f(*given) for f in (attention.attend_fused, attention.attend))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * weights).sum(), given) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_no_kernel_gets_more_sequences_than_its_grid_has_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes, fused = [], attention.F.scaled_dot_product_attention

    def note(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        sizes.append(len(q))
        return fused(q, k, v)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", note)
    clips = torch.randn(256 * 16 * 16, 1, 2, 4)  # as in `ucf101`
    assert attention.attend_fused(clips, clips, clips).shape == clips.shape
    assert sizes == [65_535, 1]


def test_long_sequences_on_cpus_need_no_scores_of_all_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All 65,536 positions of a video of 16x64x64 pixels would take 17 GB of them a head."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 40, 8, generator=g) for _ in range(3))
    plain = attention.attend(q, k, v)
    monkeypatch.setattr(attention, "LONG", 39)
    used = []
    fused = attention.attend_fused
    monkeypatch.setattr(attention, "attend_fused", lambda *qkv: used.append(1) or fused(*qkv))
    torch.testing.assert_close(attention.attend(q, k, v), plain)
    assert used
