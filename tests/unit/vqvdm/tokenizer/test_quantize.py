"""Quantisers: which codes there are, which one is taken, and what the gradient sees."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from vqvdm.checkpoint import load_state, load_weights, save_model, save_state
from vqvdm.ema import EMA
from vqvdm.tokenizer.quantize import (
    UNUSED,
    Codebook,
    FiniteScalar,
    Quantized,
    as_rows,
    codebook_usage,
    nearest,
)

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


class Library(nn.Module):
    """The same quantiser by `vector_quantize_pytorch`, with the codes learned in `learn`; `share`
    is a step's latents per code."""

    def __init__(
        self, channels: int, size: int, cosine: bool, share: float = 1.0, decay: float = 0.95
    ) -> None:
        super().__init__()
        self.vq = VectorQuantize(
            channels,
            size,
            decay=decay,
            kmeans_init=True,
            threshold_ema_dead_code=UNUSED * share,
            accept_3d_fmap=True,
            channel_last=False,
            commitment_weight=0.25,
            use_cosine_sim=cosine,
            rotation_trick=False,
            sync_codebook=False,
        )
        self.vq._codebook.reset_cluster_size = share

    def forward(self, z_BCTHW: Tensor) -> Quantized:
        return Quantized(*self.vq(z_BCTHW, freeze_codebook=True))

    @torch.no_grad()
    def learn(self, z_NC: Tensor, indices_N: Tensor) -> None:
        book = self.vq._codebook
        z_NC = book.transform_input(z_NC)
        count_K = torch.bincount(indices_N, minlength=book.codebook_size).float()
        sum_KC = torch.zeros_like(book.embed_avg[0]).index_add_(0, indices_N, z_NC)
        book.cluster_size.lerp_(count_K[None], 1 - book.decay)
        book.embed_avg.lerp_(sum_KC[None], 1 - book.decay)
        book.update_ema()
        book.expire_codes_(z_NC[None])


def equal(mine: nn.Module, theirs: nn.Module) -> bool:
    """Whether both states have the same keys, in order, and the same tensors to the last bit."""
    a, b = mine.state_dict(), theirs.state_dict()
    return list(a) == list(b) and all(
        a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in b
    )


NEAR, FAR = (0.0, 0.3), (5.0, 0.02)
"""Where latents lie, and how far apart: far from 0, many of the library's distances tie."""
LATENTS = 6 * 2 * 4 * 4


def drifting(step: int, where: tuple[float, float] = NEAR) -> Tensor:
    """Latents of a step, (6, 3, 2, 4, 4), which lie elsewhere every twelve steps."""
    (origin, scale), generator = where, torch.Generator().manual_seed(step)
    away_C = 4.0 * torch.eye(3)[step // 12 % 3]
    return origin + scale * (
        torch.randn(6, 3, 2, 4, 4, generator=generator) + away_C[:, None, None, None]
    )


def train(quantizer: nn.Module, steps: int, start: int = 0) -> list[Tensor]:
    """Steps on latents that drift away; all numbers that come out."""
    found = []
    for step in range(start, start + steps):
        z_BCTHW = drifting(step)
        if step % 2:
            z_BCTHW = z_BCTHW.to(memory_format=torch.channels_last_3d)
        z_BCTHW.requires_grad_()
        torch.manual_seed(step)
        quantized = quantizer(z_BCTHW)
        (quantized.loss + (quantized.z_BCTHW * torch.randn(6, 3, 2, 4, 4)).sum()).backward()
        assert z_BCTHW.grad is not None
        found += [*quantized, z_BCTHW.grad]
        quantizer.learn(as_rows(z_BCTHW.detach()), quantized.indices_BTHW.flatten())
    return found


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("size", [8, 64, 192])
def test_training_equals_the_library_to_the_last_bit(cosine: bool, size: int) -> None:
    # At most a code a latent; none of these latents lies between two codes within rounding.
    mine, theirs = (
        Codebook(3, size, cosine, decay=0.8),
        Library(3, size, cosine, LATENTS / size, decay=0.8),
    )
    assert equal(mine, theirs)
    replaced = 0
    for start in range(0, 36, 3):
        found, expected = train(mine, 3, start), train(theirs, 3, start)
        assert all(map(torch.equal, found, expected))
        assert equal(mine, theirs)
        replaced += int((mine.counts_K == LATENTS / size).sum())
    assert replaced


def squared_distances(z_NC: Tensor, codes_KC: Tensor) -> Tensor:
    """(N, K), without the products that round."""
    exactly = "donot_use_mm_for_euclid_dist"
    return torch.cdist(z_NC.double(), codes_KC.double(), compute_mode=exactly).square()


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("size", [8, 192, 8192])
@pytest.mark.parametrize("where", [NEAR, FAR])
def test_no_code_is_nearer_than_the_one_taken(
    cosine: bool, size: int, where: tuple[float, float]
) -> None:
    g = torch.Generator().manual_seed(0)
    origin, scale = where
    codes_KC, z_NC = (origin + scale * torch.randn(n, 3, generator=g) for n in (size, 2_000))
    z_NC[:20] = codes_KC[:20].repeat(3, 1)[:20] * (1 + 1e-6)  # all but on codes
    if cosine:
        codes_KC, z_NC = (torch.nn.functional.normalize(rows, dim=1) for rows in (codes_KC, z_NC))
    distances_NK = squared_distances(z_NC, codes_KC)
    taken_N = distances_NK.gather(1, nearest(z_NC, codes_KC)[:, None])[:, 0]
    extent = (codes_KC - codes_KC.mean(0)).square().sum(1).max()
    assert (taken_N <= distances_NK.min(1).values * (1 + 1e-6) + 1e-7 * extent).all()


@pytest.mark.parametrize("where", [NEAR, FAR])
def test_the_library_takes_other_codes_only_where_its_distances_tie(
    where: tuple[float, float],
) -> None:
    mine, theirs = Codebook(3, 64), Library(3, 64, cosine=False, share=LATENTS / 64)
    mine.start(as_rows(drifting(0, where)))
    theirs.load_state_dict(mine.state_dict())
    for step in range(12):
        z_BCTHW = drifting(0, where) + 0.1 * where[1] * step
        z_NC = as_rows(z_BCTHW)
        (indices_N, theirs_N) = (q(z_BCTHW).indices_BTHW.flatten() for q in (mine, theirs))
        distances_NK = squared_distances(z_NC, mine.codes_KC)
        gained_N = (distances_NK.gather(1, i[:, None])[:, 0] for i in (theirs_N, indices_N))
        # The library rounds |z|^2 + |e|^2 - 2ze, whose terms are this large.
        rounding = 4 * torch.finfo(torch.float32).eps * z_NC.square().sum(1).max()
        gain_N = next(gained_N) - next(gained_N)
        assert (gain_N >= -1e-6 * distances_NK.min(1).values).all()
        assert (gain_N <= rounding).all()
        # Given the same indices, both learn the same.
        for quantizer in (mine, theirs):
            torch.manual_seed(step)
            quantizer.learn(z_NC, indices_N)
        assert equal(mine, theirs)


def test_training_keeps_nothing_as_large_as_latents_times_codes() -> None:
    codebook, z_BCTHW = Codebook(3, 8192), latents(3).requires_grad_()
    codebook.start(as_rows(latents(3)))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        codebook(z_BCTHW)
    assert sum(kept) < 10 * z_BCTHW.numel()


def test_codes_that_settle_are_not_replaced_and_stay_where_none_takes_them() -> None:
    codebook, z_NC = Codebook(3, 16), as_rows(latents(3))
    codebook.start(z_NC)
    near = torch.arange(len(z_NC)) % 8  # eight codes are taken, eight are not
    before, means = (
        codebook.codes_KC.clone(),
        torch.stack([z_NC[near == k].mean(0) for k in range(8)]),
    )
    for _ in range(600):
        codebook.learn(z_NC, near, settle=True)
    torch.testing.assert_close(codebook.codes_KC[8:], before[8:], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(codebook.codes_KC[:8], means, rtol=1e-3, atol=1e-4)
    codebook.counts_K[8:] = 0
    codebook.learn(z_NC, near)
    assert (squared_distances(codebook.codes_KC[8:], z_NC).min(1).values == 0).all()  # latents


@pytest.mark.parametrize("cosine", [False, True])
def test_more_codes_may_die_than_there_are_latents(cosine: bool) -> None:
    codebook = Codebook(3, 32, cosine)
    z_NC = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    codebook(z_NC[:, :, None, None, None])
    replaced = set()
    for step in range(90):
        codebook.counts_K.fill_(0.01)  # all but the first, which takes all latents, have died
        codebook.counts_K[0] = 10.0
        torch.manual_seed(step)
        codebook.learn(z_NC[:5], torch.zeros(5, dtype=torch.long))
        new = (codebook.counts_K == 5 / 32).nonzero().flatten()
        codes, sums, latents_NC = codebook.codes_KC[new], codebook.sums_KC[new], z_NC[:5]
        if cosine:
            latents_NC = torch.nn.functional.normalize(latents_NC, dim=-1)
        assert torch.equal(codes * 5 / 32, sums)
        nearest = torch.cdist(codes, latents_NC).min(1)
        assert nearest.values.max() < 1e-5
        assert sorted(nearest.indices.tolist()) == list(range(5))  # each latent once
        assert 0 not in new
        assert len(new) == 5
        replaced |= set(new.tolist())
    assert replaced == set(range(1, 32))  # whichever: at random


@pytest.mark.parametrize("cosine", [False, True])
def test_nearest_codes_equal_the_librarys(cosine: bool) -> None:
    mine, theirs = Codebook(3, 64, cosine), Library(3, 64, cosine).eval()
    mine.start(as_rows(latents(3)))
    theirs.load_state_dict(mine.state_dict())
    z_BCTHW = 1.5 * latents(3, count=5)  # 1,280 positions: several parts, the last one short
    expected, quantized = theirs(z_BCTHW), mine.eval()(z_BCTHW)
    assert torch.equal(quantized.indices_BTHW, expected.indices_BTHW)
    torch.testing.assert_close(quantized.z_BCTHW, expected.z_BCTHW, atol=1e-6, rtol=0)
    assert quantized.loss == expected.loss == 0


@pytest.mark.parametrize("assign", [False, True])
def test_states_made_by_the_library_load_and_are_written_the_same(
    assign: bool, tmp_path: Path
) -> None:
    theirs = Library(3, 16, cosine=False, share=LATENTS / 16)
    train(theirs, steps=2)
    mine = nn.Sequential(Codebook(3, 16), nn.Linear(2, 2))  # also below another module
    wrapped = nn.Sequential(theirs, mine[1])
    save_state(tmp_path / "theirs", wrapped.state_dict())
    mine.load_state_dict(load_state(tmp_path / "theirs"), assign=assign)
    save_state(tmp_path / "mine", mine.state_dict())
    assert (tmp_path / "mine").read_bytes() == (tmp_path / "theirs").read_bytes()

    for folder, model in (("a", wrapped), ("b", mine)):
        save_model(tmp_path / folder, model, {})
    a, b = (tmp_path / folder / "model.safetensors" for folder in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()
    load_weights(tmp_path / "a", mine)
    expected = train(theirs, steps=2, start=2)
    assert all(map(torch.equal, train(mine[0], steps=2, start=2), expected))


def test_a_state_that_does_not_fit_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for codes_KC"):
        Codebook(3, 16).load_state_dict(Codebook(4, 16).state_dict())
    state = Codebook(3, 16).state_dict()
    del state["vq._codebook.embed"]
    with pytest.raises(RuntimeError, match=r"Missing key.*codes_KC"):
        Codebook(3, 16).load_state_dict(state)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        Codebook(3, 16).load_state_dict(Codebook(3, 16).state_dict() | {"vq.more": torch.ones(1)})


def test_a_state_without_codes_makes_them_be_placed_anew() -> None:
    codebook, fresh = Codebook(3, 16), Codebook(3, 16).state_dict()
    codebook(latents(3))
    assert codebook.placed
    codebook.load_state_dict(fresh)
    assert not codebook.placed
    codebook(latents(3))
    assert codebook.placed and codebook.codes_KC.any()


def test_a_copy_keeps_its_own_codes_and_keys() -> None:
    torch.manual_seed(0)
    codebook = Codebook(3, 16)
    ema = EMA(nn.Sequential(codebook, nn.Linear(1, 1)), 0.9)
    copied = copy.deepcopy(codebook)
    train(codebook, steps=2)
    assert equal(copied, Codebook(3, 16))
    copied.load_state_dict(codebook.state_dict())
    ema.update(nn.Sequential(codebook, nn.Linear(1, 1)), 0)
    assert equal(copied, codebook)
    assert equal(ema.average[0], codebook)


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
    codes = codebook.codes_KC.flatten().sort().values
    torch.testing.assert_close(codes, torch.tensor([-1.5, 2.0]), rtol=1e-4, atol=1e-4)


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
