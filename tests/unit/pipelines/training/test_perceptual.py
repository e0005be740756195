"""A perceptual loss from a file: the right one, and one number a pair of frames."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipelines.io import storage
from pipelines.training.perceptual import checksum, load_perceptual, resolved
from pipelines.training.settings import TrainVQGAN
from vqvdm.errors import UserError

CPU = torch.device("cpu")


class Distance(nn.Module):
    """Mean squared difference of each pair."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().mean(dim=[1, 2, 3])


class Sum(nn.Module):
    """One number for all pairs, which is wrong."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).sum()


def saved(folder: Path, net: nn.Module) -> str:
    path = folder / "net.pt"
    example = torch.zeros(2, 3, 8, 8)
    torch.jit.save(torch.jit.trace(net, (example, example)), str(path))
    return str(path)


def test_the_gradient_reaches_the_reconstruction_only(tmp_path: Path) -> None:
    perceptual = load_perceptual(saved(tmp_path, Distance()), CPU)
    x, y = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8, requires_grad=True)
    loss = perceptual(x, y)
    loss.backward()
    assert loss.item() == 1
    assert y.grad is not None and (y.grad > 0).all()


def test_the_checksum_is_checked(tmp_path: Path) -> None:
    uri = saved(tmp_path, Distance())
    right = storage.sha256(uri)
    assert resolved(uri) == resolved(f"{uri}#sha256={right}") == f"{uri}#sha256={right}"
    assert checksum(resolved(uri)) == right
    load_perceptual(f"{uri}#sha256={right}", CPU)
    for read in (resolved, lambda text: load_perceptual(text, CPU)):
        with pytest.raises(UserError, match="sha256"):
            read(f"{uri}#sha256={'0' * 64}")


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        resolved(str(tmp_path / "none.pt"))
    other = tmp_path / "other.pt"
    other.write_bytes(b"weights")
    with pytest.raises(UserError, match="no TorchScript"):
        load_perceptual(str(other), CPU)


def test_one_number_a_pair_is_expected(tmp_path: Path) -> None:
    perceptual = load_perceptual(saved(tmp_path, Sum()), CPU)
    with pytest.raises(UserError, match="one number a pair"):
        perceptual(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))


def test_workers_find_the_file_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run in another folder, and maybe on a node without it."""
    saved(tmp_path, Distance())
    monkeypatch.chdir(tmp_path)
    text = resolved("net.pt")
    monkeypatch.chdir("/")
    load_perceptual(text, CPU)
    (tmp_path / "net.pt").unlink()
    with pytest.raises(UserError, match=r"^--perceptual .*/net\.pt: no such file on "):
        load_perceptual(text, CPU)
    saved(tmp_path, Sum())
    with pytest.raises(UserError, match="another file than the job was started with"):
        load_perceptual(text, CPU)


def test_a_file_that_was_moved_is_the_same_recipe(tmp_path: Path) -> None:
    config = TrainVQGAN(perceptual=saved(tmp_path, Distance()))
    assert config.perceptual
    first = config.with_perceptual(resolved(config.perceptual))
    moved = storage.join(str(tmp_path), "moved.pt")
    Path(config.perceptual).rename(moved)
    second = config.with_perceptual(resolved(moved))
    assert first.recipe() == second.recipe()
    assert TrainVQGAN().recipe()["perceptual"] is None
