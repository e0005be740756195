"""Quantisers: which codes there are, which one is taken, and what the gradient sees."""

import copy
import itertools

import pytest
import torch
from torch import Tensor

from vqvdm.tokenizer.quantize import Codebook, FiniteScalar, Quantized, as_rows, codebook_usage

LEVELS = [(8, 8, 8), (7, 5, 5), (2, 3), (8, 5, 4, 2)]


def latents(channels: int, count: int = 4, scale: float = 1.0) -> Tensor:
    """(count, C, 4, 8, 8), uniform in [-scale, scale]."""
    generator = torch.Generator().manual_seed(0)
    return scale * (torch.rand(count, channels, 4, 8, 8, generator=generator) * 2 - 1)


def codes_of(quantized: Quantized) -> Tensor:
    """Quantised vectors as rows (N, C)."""
    return quantized.z_BCTHW.movedim(1, -1).flatten(0, -2)


def test_raw_latents_lie_between_minus_one_and_one() -> None:
    z_BCTHW = FiniteScalar((8, 8, 8)).bound(1e4 * latents(3))
    assert z_BCTHW.abs().max() <= 1


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_codes_are_the_whole_grid(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalar(levels)
    axes = [[2 * k / (count - 1) - 1 for k in range(count)] for count in levels]
    grid = torch.tensor(list(itertools.product(*axes)))
    assert quantizer.codebook_size == len(grid)
    quantized = quantizer(grid[:, :, None, None, None])
    torch.testing.assert_close(codes_of(quantized), grid)  # a code stands for itself
    assert sorted(quantized.indices_BTHW.flatten().tolist()) == list(range(len(grid)))


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_takes_the_nearest_code(levels: tuple[int, ...]) -> None:
    z_BCTHW = latents(len(levels))
    quantized = FiniteScalar(levels)(z_BCTHW)
    furthest = (quantized.z_BCTHW - z_BCTHW).abs().amax(dim=(0, 2, 3, 4))
    assert (furthest <= 1 / (torch.tensor(levels) - 1) + 1e-6).all()
    assert quantized.indices_BTHW.shape == (4, 4, 8, 8)
    assert quantized.loss.shape == ()
    assert quantized.loss == 0


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_fsq_twice_is_once(levels: tuple[int, ...], scale: float) -> None:
    quantizer = FiniteScalar(levels)
    once = quantizer(latents(len(levels), scale=scale))
    twice = quantizer(once.z_BCTHW)
    torch.testing.assert_close(twice.z_BCTHW, once.z_BCTHW)
    assert torch.equal(twice.indices_BTHW, once.indices_BTHW)


def test_fsq_clamps_what_a_sampler_overshoots() -> None:
    quantizer, z_BCTHW = FiniteScalar((8, 5, 3)), latents(3, scale=4.0)
    outside, inside = quantizer(z_BCTHW), quantizer(z_BCTHW.clamp(-1, 1))
    assert torch.equal(outside.z_BCTHW, inside.z_BCTHW)
    assert torch.equal(outside.indices_BTHW, inside.indices_BTHW)


def test_fsq_gradient_goes_straight_through() -> None:
    z_BCTHW = (0.9 * latents(3)).requires_grad_()
    weights = torch.randn_like(z_BCTHW)
    (FiniteScalar((8, 5, 3))(z_BCTHW).z_BCTHW * weights).sum().backward()
    assert z_BCTHW.grad is not None
    torch.testing.assert_close(z_BCTHW.grad, weights)


@pytest.mark.parametrize("quantizer", [FiniteScalar((8, 8, 8)), Codebook(3, 16)])
def test_half_precision_latents_are_quantised_in_float32(
    quantizer: FiniteScalar | Codebook,
) -> None:
    assert quantizer(latents(3).bfloat16()).z_BCTHW.dtype == torch.float32


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_autocast_does_not_choose_other_codes(cosine: bool, training: bool) -> None:
    torch.manual_seed(0)
    codebook, z_BCTHW = Codebook(3, 256, cosine=cosine), latents(3)
    codebook.start(as_rows(z_BCTHW))
    codebook.train(training)
    plain = codebook(z_BCTHW)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = codebook(z_BCTHW)
    assert torch.equal(mixed.indices_BTHW, plain.indices_BTHW)
    assert torch.equal(mixed.z_BCTHW, plain.z_BCTHW)


def test_codebook_takes_the_nearest_of_its_entries() -> None:
    torch.manual_seed(0)
    codebook, z_BCTHW = Codebook(3, 16), latents(3)
    codebook(z_BCTHW)  # the entries are made of the first batch
    quantized = codebook.eval()(z_BCTHW)
    entries = codes_of(quantized).unique(dim=0)
    assert 8 < len(entries) <= 16
    nearest = torch.cdist(z_BCTHW.movedim(1, -1).flatten(0, -2), entries).amin(dim=1)
    taken = (codes_of(quantized) - z_BCTHW.movedim(1, -1).flatten(0, -2)).norm(dim=1)
    torch.testing.assert_close(taken, nearest)
    indices = quantized.indices_BTHW
    assert indices.shape == (4, 4, 8, 8)
    assert 0 <= indices.min() <= indices.max() < codebook.codebook_size == 16
    assert torch.equal(codebook(quantized.z_BCTHW).indices_BTHW, indices)


def test_a_cosine_codebook_goes_by_direction_alone() -> None:
    codebook, z_BCTHW = Codebook(3, 16, cosine=True), latents(3)
    codebook.train()(z_BCTHW)
    indices = codebook.eval()(z_BCTHW).indices_BTHW
    assert torch.equal(codebook(7 * z_BCTHW).indices_BTHW, indices)
    assert len(indices.unique()) > 4


@pytest.mark.parametrize("cosine", [False, True])
def test_the_short_way_to_the_nearest_code_is_the_librarys(cosine: bool) -> None:
    quantizer = Codebook(3, 64, cosine)
    quantizer.start(as_rows(latents(3)))
    z_BCTHW = 1.5 * latents(3, count=5)  # 1,280 positions: several parts, the last one short
    quantizer.eval()
    expected, indices, loss = quantizer.vq(z_BCTHW, freeze_codebook=True)
    quantized = quantizer(z_BCTHW)
    assert torch.equal(quantized.indices_BTHW, indices)
    torch.testing.assert_close(quantized.z_BCTHW, expected, atol=1e-6, rtol=0)
    assert quantized.loss == loss.sum() == 0


def test_codebook_training_pulls_latents_to_codes_and_passes_the_gradient() -> None:
    torch.manual_seed(0)
    codebook, weights = Codebook(3, 16), torch.randn(4, 3, 4, 8, 8)
    z_BCTHW = latents(3).requires_grad_()
    quantized = codebook(z_BCTHW)
    (straight,) = torch.autograd.grad((quantized.z_BCTHW * weights).sum(), z_BCTHW)
    torch.testing.assert_close(straight, weights)
    quantized = codebook(z_BCTHW)
    assert quantized.loss.shape == ()
    (pull,) = torch.autograd.grad(quantized.loss, z_BCTHW)
    away = (z_BCTHW - quantized.z_BCTHW).detach()
    assert torch.nn.functional.cosine_similarity(pull.flatten(), away.flatten(), dim=0) > 0.99
    assert quantized.loss.item() == pytest.approx(0.25 * away.square().mean().item(), rel=1e-4)


def test_codebook_replaces_codes_long_unused() -> None:
    torch.manual_seed(0)
    codebook = Codebook(3, 8)
    codebook(latents(3, count=1))
    moved = latents(3, count=1) + 10
    for _ in range(120):
        quantized = codebook(moved)
        codebook.learn(as_rows(moved), quantized.indices_BTHW.flatten())
    usage, _ = codebook_usage(quantized.indices_BTHW, 8)
    assert usage > 0.5  # else all would share the one code that was nearest


def test_a_pass_changes_no_code() -> None:
    codebook = Codebook(3, 8)
    codebook.start(as_rows(latents(3)))
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    codebook(latents(3) + 1)
    codebook.start(as_rows(latents(3) + 1))  # they have been placed
    assert all(torch.equal(value, before[name]) for name, value in codebook.state_dict().items())


def test_codes_move_to_the_mean_of_what_took_them() -> None:
    codebook = Codebook(1, 2, decay=0.5)
    codebook.start(torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]))
    z_NC = torch.tensor([[-2.0], [-2.0], [3.0], [3.0]])
    indices = codebook(z_NC[:, :, None, None, None]).indices_BTHW.flatten()
    codebook.learn(z_NC, indices)
    codes = codebook.vq.codebook.flatten().sort().values
    torch.testing.assert_close(codes, torch.tensor([-1.5, 2.0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cosine", [False, True])
def test_codes_learn_as_the_library_has_them_learn(cosine: bool) -> None:
    torch.manual_seed(0)
    mine, z_BCTHW = Codebook(3, 16, cosine=cosine), latents(3)
    mine.start(as_rows(z_BCTHW))
    theirs = copy.deepcopy(mine.vq)
    for step in range(3):
        moved = z_BCTHW + 0.1 * step
        quantized = mine(moved)
        torch.manual_seed(step)
        mine.learn(as_rows(moved), quantized.indices_BTHW.flatten())
        torch.manual_seed(step)
        theirs(moved)
        torch.testing.assert_close(mine.vq.codebook, theirs.codebook)


def test_the_same_seed_and_latents_give_the_same_codes() -> None:
    def learned() -> Codebook:
        torch.manual_seed(3)
        codebook, z_BCTHW = Codebook(3, 16), latents(3)
        codebook.start(as_rows(z_BCTHW))
        for step in range(4):
            moved = z_BCTHW + 5 * step  # codes die, and are drawn again
            indices = codebook(moved).indices_BTHW.flatten()
            codebook.learn(as_rows(moved), indices)
        return codebook

    first, second = learned().state_dict(), learned().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("indices", "size", "usage", "perplexity"),
    [
        ([0, 0, 0], 8, 1 / 8, 1.0),
        ([0, 1, 2, 3], 4, 1.0, 4.0),
        ([1, 5, 1, 5], 8, 2 / 8, 2.0),
        ([0, 0, 3, 7], 8, 3 / 8, 2**1.5),
    ],
)
def test_codebook_usage_by_hand(
    indices: list[int], size: int, usage: float, perplexity: float
) -> None:
    found = codebook_usage(torch.tensor(indices, dtype=torch.int32).view(1, -1, 1, 1), size)
    assert found == pytest.approx((usage, perplexity))
