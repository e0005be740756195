"""Quantisers: continuous latents to the nearest entry of a codebook, or as they are.

All have one interface. `bound` turns the encoder's output into the *raw latent*, the continuous
tensor that is stored and diffused. `forward` quantises raw latents, from an encoder or a sampler,
and leaves placed codes as they are. `learn` moves the codes, once a step, from the whole batch of
all workers.

Shapes: B batch, C latent channels, T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqvdm.transfer import to_device

COMMITMENT = 0.25
"""Weight of the commitment loss."""
KMEANS_ROUNDS = 10
SMOOTHING = 1e-5
"""Laplace smoothing of the counts."""
UNUSED = 0.1
"""A code is replaced when its count falls below this share of the mean count."""
CPU_PRODUCTS, GPU_PRODUCTS = 2**18, 2**26
"""Latents times codes that are compared at a time: what caches hold, and few kernels."""


class Quantized(NamedTuple):
    """Quantised latents (B, C, T, H, W), code indices (B, T, H, W), zeros where there are no codes,
    and the VQ loss, a scalar."""

    z_BCTHW: Tensor
    indices_BTHW: Tensor
    loss: Tensor


class Quantizer(Protocol):
    codebook_size: int
    """Number of codes; 0 where nothing is quantised."""

    def bound(self, h_BCTHW: Tensor) -> Tensor: ...
    def __call__(self, z_BCTHW: Tensor) -> Quantized: ...
    def buffers(self) -> Iterator[Tensor]: ...

    def start(self, z_NC: Tensor) -> None:
        """Place the codes by the first raw latents, unless they have been placed."""

    def learn(self, z_NC: Tensor, indices_N: Tensor, settle: bool = False) -> None:
        """Move the codes after a step, given its raw latents and the index of each one's code;
        towards the end of a training they `settle`, and none is replaced."""


class Continuous(nn.Module):
    """No quantisation: raw latents are decoded as they are. There are no codes, nothing is learned,
    and the VQ loss is zero."""

    codebook_size = 0

    def bound(self, h_BCTHW: Tensor) -> Tensor:
        return h_BCTHW

    def forward(self, z_BCTHW: Tensor) -> Quantized:
        z = z_BCTHW.float()
        indices = torch.zeros(z[:, 0].shape, dtype=torch.long, device=z.device)
        return Quantized(z, indices, z.new_zeros(()))

    def start(self, z_NC: Tensor) -> None:
        """Does nothing: there are no codes."""

    def learn(self, z_NC: Tensor, indices_N: Tensor, settle: bool = False) -> None:
        """Does nothing: there are no codes."""


class FiniteScalar(nn.Module):
    """Finite scalar quantisation (Mentzer et al., 2023): each channel rounds to its own levels.

    The codes are a fixed grid: nothing is learned and the VQ loss is zero. Raw latents lie in
    [-1, 1].
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        # Imported here because it takes as long as importing torch.
        from vector_quantize_pytorch import FSQ

        self.fsq = FSQ(list(levels), preserve_symmetry=True, bound_hard_clamp=True)
        self.codebook_size = math.prod(levels)

    def bound(self, h_BCTHW: Tensor) -> Tensor:
        return torch.tanh(h_BCTHW)

    def forward(self, z_BCTHW: Tensor) -> Quantized:
        z, indices = self.fsq(z_BCTHW.float())
        return Quantized(z, indices, z.new_zeros(()))

    def start(self, z_NC: Tensor) -> None:
        """Does nothing: the codes are fixed."""

    def learn(self, z_NC: Tensor, indices_N: Tensor, settle: bool = False) -> None:
        """Does nothing: the codes are fixed."""


class Codebook(nn.Module):
    """Vector quantisation with an EMA codebook (van den Oord et al., 2017, appendix A.1).

    A code is the mean of the raw latents that took it: `sums_KC` over `counts_K`, both moving
    averages. The loss is the commitment term. Codes that few latents take are replaced by latents
    until they `settle`, towards the end of a training: then all become means of latents.
    With `cosine`, codes and latents are compared by direction alone.

    Random draws come from PyTorch's own generator. Workers with the same seed and the same latents
    get the same codes.
    """

    placed: Tensor
    counts_K: Tensor
    sums_KC: Tensor
    codes_KC: Tensor

    def __init__(self, channels: int, size: int, cosine: bool = False, decay: float = 0.95) -> None:
        super().__init__()
        self.codebook_size, self.cosine, self.decay = size, cosine, decay
        self._known_placed = False
        self.register_buffer("placed", torch.tensor(False))
        self.register_buffer("counts_K", torch.ones(size))
        self.register_buffer("sums_KC", torch.zeros(size, channels))
        self.register_buffer("codes_KC", torch.zeros(size, channels))
        self.register_state_dict_post_hook(_to_stored_keys)
        self.register_load_state_dict_pre_hook(_from_stored_keys)

    def bound(self, h_BCTHW: Tensor) -> Tensor:
        return h_BCTHW

    def forward(self, z_BCTHW: Tensor) -> Quantized:
        # Under autocast, distances rounded to half precision would choose other codes.
        with torch.autocast(z_BCTHW.device.type, enabled=False):
            return self._quantized(z_BCTHW.float())

    def _quantized(self, z_BCTHW: Tensor) -> Quantized:
        """The nearest codes; in training, their gradient goes to the latents unchanged."""
        z_BTHWC = self._direction(z_BCTHW.movedim(1, -1))
        z_NC = z_BTHWC.detach().flatten(0, -2)
        if self.training:
            self._place(z_NC)
        indices_BTHW = nearest(z_NC, self.codes_KC).view(z_BTHWC.shape[:-1])
        found_BTHWC = self.codes_KC[indices_BTHW]
        loss = z_BTHWC.new_zeros(())
        if self.training:
            loss = COMMITMENT * F.mse_loss(found_BTHWC, z_BTHWC)
            found_BTHWC = z_BTHWC + (found_BTHWC - z_BTHWC).detach()
        return Quantized(found_BTHWC.movedim(-1, 1), indices_BTHW, loss)

    @torch.no_grad()
    def start(self, z_NC: Tensor) -> None:
        """k-means of the first raw latents; does nothing if the codes have been placed."""
        self._place(self._direction(z_NC.float()))

    @torch.no_grad()
    def learn(self, z_NC: Tensor, indices_N: Tensor, settle: bool = False) -> None:
        """Update the moving averages (equations 6 to 8), then replace rarely used codes.

        Codes that `settle` are not replaced, and one that no latent took stays where it is: its
        average, which would only fade, is kept.
        """
        z_NC = self._direction(z_NC.float())
        counts_K, sums_KC = self._gather(z_NC, indices_N)
        moved_K = counts_K > 0 if settle else torch.ones_like(counts_K)
        weight_K = (1 - self.decay) * moved_K
        self.counts_K.lerp_(counts_K.float(), weight_K)
        self.sums_KC.lerp_(sums_KC, weight_K[:, None])
        self._set_codes()
        if not settle:
            self._replace_unused(z_NC)

    def _direction(self, rows: Tensor) -> Tensor:
        """Rows (..., C) scaled to length 1 for a cosine codebook, else as they are."""
        return F.normalize(rows, dim=-1, eps=1e-6) if self.cosine else rows

    def _gather(self, z_NC: Tensor, indices_N: Tensor) -> tuple[Tensor, Tensor]:
        """How many latents took each code, and their sum."""
        counts_K = indices_N.new_zeros(self.codebook_size)  # bincount would wait for a GPU
        counts_K.scatter_add_(0, indices_N, torch.ones_like(indices_N))
        return counts_K, torch.zeros_like(self.sums_KC).index_add_(0, indices_N, z_NC)

    @torch.no_grad()
    def _place(self, z_NC: Tensor) -> None:
        """k-means, started from random latents; a code that no latent took stays where it is."""
        # The buffer is read once, as that waits for a GPU.
        self._known_placed = self._known_placed or bool(self.placed)
        if self._known_placed:
            return
        codes_KC = _draw(z_NC, self.codebook_size)
        for _ in range(KMEANS_ROUNDS):
            indices_N = nearest(z_NC, codes_KC)
            counts_K, sums_KC = self._gather(z_NC, indices_N)
            means_KC = self._direction(sums_KC / counts_K.clamp(min=1)[:, None])
            codes_KC = torch.where((counts_K == 0)[:, None], codes_KC, means_KC)
        self.sums_KC.copy_(codes_KC * counts_K[:, None])
        self.counts_K.copy_(counts_K)
        self._set_codes()
        self.placed.fill_(True)

    def _set_codes(self) -> None:
        """The mean of each code's latents. Laplace smoothing keeps every count above 0."""
        total = self.counts_K.sum(0, keepdim=True)
        smooth_K = (self.counts_K + SMOOTHING) / (total + self.codebook_size * SMOOTHING) * total
        self.codes_KC.copy_(self._direction(self.sums_KC / smooth_K[:, None]))

    def _replace_unused(self, z_NC: Tensor) -> None:
        """Put random latents in the place of codes that few latents took, with the mean count:
        they have some dozen steps to be taken.

        How many these are is not read, as that would wait for a GPU: the draws do not depend on it.
        """
        mean = len(z_NC) / self.codebook_size
        unused_K = self.counts_K < UNUSED * mean
        drawn_MC = _draw(self._direction(z_NC), min(len(z_NC), self.codebook_size))
        if len(drawn_MC) < self.codebook_size:  # the rest waits for the next step
            unused_K = _some(unused_K, len(drawn_MC))
        place_K = unused_K.cumsum(0).clamp(1, len(drawn_MC)) - 1
        new_KC, unused_K1 = drawn_MC[place_K], unused_K[:, None]
        self.codes_KC.copy_(torch.where(unused_K1, new_KC, self.codes_KC))
        self.sums_KC.copy_(torch.where(unused_K1, mean * new_KC, self.sums_KC))
        self.counts_K.masked_fill_(unused_K, mean)


def nearest(z_NC: Tensor, codes_KC: Tensor) -> Tensor:
    """Indices (N,) of the nearest codes.

    |z - e|^2 is least where ze - |e|^2 / 2 is greatest. Both are taken from the mean of the codes:
    far from 0, rounding would hide what sets codes apart. In parts, to limit memory.
    """
    centre_C = codes_KC.mean(0)
    e_KC = codes_KC - centre_C
    half_K = e_KC.square().sum(1) / -2
    products = CPU_PRODUCTS if z_NC.device.type == "cpu" else GPU_PRODUCTS
    rows = max(1, products // len(e_KC))
    # Results have a place of their own: among the parts they would keep freed memory in pieces.
    indices_N = torch.empty(len(z_NC), dtype=torch.long, device=z_NC.device)
    for part_NC, found_N in zip(z_NC.split(rows), indices_N.split(rows), strict=True):
        found_N.copy_(torch.addmm(half_K, part_NC - centre_C, e_KC.T).argmax(1))
    return indices_N


def _draw(z_NC: Tensor, count: int) -> Tensor:
    """Random latents, all different if there are enough. The same on any device."""
    if len(z_NC) >= count:
        drawn = torch.randperm(len(z_NC))[:count]
    else:
        drawn = torch.randint(0, len(z_NC), (count,))
    return z_NC[to_device(drawn, z_NC.device)]


def _some(marked_K: Tensor, count: int) -> Tensor:
    """`count` of the marked positions at random, or all if there are no more."""
    order_K = to_device(torch.rand(len(marked_K)), marked_K.device)
    first = order_K.masked_fill(~marked_K, 2.0).topk(count, largest=False).indices
    return marked_K & torch.zeros_like(marked_K).index_fill_(0, first, True)


# Files and checkpoints keep the names and shapes that vector_quantize_pytorch gave these buffers,
# so that those made with it still load. Hooks are simpler than nested modules of these names.
STORED_KEYS = {
    "placed": "vq._codebook.initted",
    "counts_K": "vq._codebook.cluster_size",
    "sums_KC": "vq._codebook.embed_avg",
    "codes_KC": "vq._codebook.embed",
}


def _to_stored_keys(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    for name, key in STORED_KEYS.items():
        value = state.pop(prefix + name)
        state[prefix + key] = value[None] if value.ndim else value


def _from_stored_keys(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    assert isinstance(module, Codebook)
    module._known_placed = False
    for name, key in STORED_KEYS.items():
        if prefix + key in state:
            value = state.pop(prefix + key)
            state[prefix + name] = value[0] if value.ndim else value


def as_rows(z_BCTHW: Tensor) -> Tensor:
    """Latents (B, C, T, H, W) as rows (N, C), in the order of flattened indices."""
    return z_BCTHW.movedim(1, -1).flatten(0, -2)


def codebook_usage(indices_BTHW: Tensor, size: int) -> tuple[float, float]:
    """Share of codes in use, in [0, 1], and perplexity of their distribution, in [1, size]."""
    counts = torch.bincount(indices_BTHW.flatten().long(), minlength=size).double()
    p = counts / counts.sum()
    entropy = -(p[p > 0] * p[p > 0].log()).sum()
    return (counts > 0).double().mean().item(), entropy.exp().item()
