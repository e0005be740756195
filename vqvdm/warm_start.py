"""Beginning a training with the weights of another model, as far as they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vqvdm.errors import UserError

CLASSES = "class_embedding.weight"
"""The end of the name of the embedding of classes: a row a class, and the last one for none."""
LEAST = 0.5
"""Share of a net's weights below which two models have too little in common."""
NAMED = 4
"""Tensors that a summary names."""


@dataclass
class Taken:
    """What a net took over: numbers of weights, and names of tensors."""

    weights: int = 0
    of: int = 0
    in_part: list[str] = field(default_factory=list)
    """Tensors of another shape, of which a part was taken; the rest is as it was initialised."""
    from_scratch: list[str] = field(default_factory=list)
    """Tensors that stay as they were initialised."""
    unused: list[str] = field(default_factory=list)
    """Tensors of the other model that the net does not have."""

    @property
    def share(self) -> float:
        """Share of the net's weights that were taken over, in [0, 1]."""
        return self.weights / self.of

    @property
    def rest(self) -> list[str]:
        """What was not taken over as it was, in words."""
        lists = {"in part": self.in_part, "from scratch": self.from_scratch, "unused": self.unused}
        return [f"{what}: {_some(names)}" for what, names in lists.items() if names]

    def __str__(self) -> str:
        return "; ".join([f"{self.share:.1%} of the weights are taken over", *self.rest])


@torch.no_grad()
def take_over(
    net: nn.Module,
    weights: Mapping[str, Tensor],
    old_classes: Sequence[str] = (),
    new_classes: Sequence[str] = (),
) -> Taken:
    """Copy `weights`, tensors by name, into a net in place; returns what was taken.

    A class keeps its embedding, wherever it stands among the classes now; a new one begins as "no
    class", as do all if `old_classes` are not those of the weights. Of a tensor with another number
    of channels or codes on one side, those that both have are copied, the first ones. `UserError`
    if less than half of the net's weights are found.
    """
    taken = Taken()
    state = net.state_dict()
    torn = _torn(net, state, weights)
    for name, own in state.items():
        found = weights.get(name)
        common = None if found is None or name in torn else _common(own, found)
        taken.of += own.numel()
        if found is not None and name.endswith(CLASSES):
            copied = _take_classes(own, found, old_classes, new_classes)
            taken.weights += copied
            if copied < own.numel():
                taken.in_part.append(name)
        elif found is not None and common is not None:
            own[common] = found[common].to(own)
            taken.weights += own[common].numel()
            if own.shape != found.shape:
                taken.in_part.append(name)
        else:
            taken.from_scratch.append(name)
    taken.unused += [name for name in weights if name not in state]
    if taken.share < LEAST:
        raise UserError(
            f"only {taken.share:.1%} of the weights match ({'; '.join(taken.rest)}): pass the "
            "--model, --denoiser or --dit settings that model was trained with"
        )
    return taken


def _torn(net: nn.Module, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> set[str]:
    """Buffers of modules of which not all fit. They belong together: the codes of a codebook are
    valid only with the flag that they have been placed, and the flag only with them."""
    parameters = {name for name, _ in net.named_parameters()}
    homes: dict[str, list[str]] = {}
    for name in state.keys() - parameters:
        homes.setdefault(name.rpartition(".")[0], []).append(name)
    return {
        name
        for names in homes.values()
        if any(each not in weights or _common(state[each], weights[each]) is None for each in names)
        for name in names
    }


def _take_classes(
    own: Tensor, found: Tensor, old_classes: Sequence[str], new_classes: Sequence[str]
) -> int:
    """Fill the embedding of classes; the number of weights that are those of the same class."""
    if own.shape[1] != found.shape[1]:
        return 0
    known = len(found) == len(old_classes) + 1
    rows = {name: found[index] for index, name in enumerate(old_classes)} if known else {}
    own[:] = found[-1].to(own)
    for index, name in enumerate(new_classes):
        own[index] = rows.get(name, found[-1]).to(own)
    return own.shape[1] * (1 + len(rows.keys() & set(new_classes)))


def _common(own: Tensor, found: Tensor) -> tuple[slice, ...] | None:
    """The part that two tensors share; None if more than one side differs, or a kernel's size."""
    if own.ndim != found.ndim or own.shape[2:] != found.shape[2:]:
        return None
    if sum(mine != other for mine, other in zip(own.shape, found.shape, strict=True)) > 1:
        return None
    return tuple(slice(min(pair)) for pair in zip(own.shape, found.shape, strict=True))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
