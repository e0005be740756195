"""Models and training states come back from disk as they were, and nothing is pickled."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vqvdm.checkpoint import (
    load_config,
    load_state,
    load_weights,
    on_device,
    save_model,
    save_state,
    weights_fingerprint,
)
from vqvdm.errors import UserError
from vqvdm.tokenizer.vqgan import VQGAN, VQGANConfig


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, kinds of containers, keys and tensors included."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        keys = [(type(key), key) for key in a] == [(type(key), key) for key in b]
        return keys and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def trained(steps: int, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for step in range(steps):
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()


def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2))
    return net, torch.optim.AdamW(net.parameters(), 1e-2, (0.9, 0.99))


WEIGHT = torch.randn(4, 3)
TIED = {"in": WEIGHT, "out": WEIGHT, "row": WEIGHT[1], "rest": [WEIGHT[2:]]}


@pytest.mark.parametrize(
    "state",
    [
        {},
        [],
        TIED,
        {"a": [1, 2.5, True, None, "text", float("inf")], "b": (1, (2, [3])), "c": {}},
        {1: "int", "1": "str", 0: torch.zeros(2), "0": torch.ones(2)},
        [torch.tensor(3), torch.tensor([]), torch.randn(2, 3).bfloat16(), torch.ones(2).bool()],
        {
            "turned": torch.randn(3, 4).t(),
            "int": torch.arange(5),
            "double": torch.randn(2).double(),
        },
    ],
)
def test_nested_states_come_back(state: Any, tmp_path: Path) -> None:
    save_state(tmp_path / "state", state)
    assert same(state, load_state(tmp_path / "state"))


def test_a_resumed_training_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    net, optimizer = fresh()
    trained(3, net, optimizer)
    state = {"net": dict(net.state_dict()), "optimizer": optimizer.state_dict(), "step": 3}
    save_state(tmp_path / "state", state)
    loaded = load_state(tmp_path / "state")
    assert same(state, loaded)

    other, resumed = fresh()
    other.load_state_dict(loaded["net"])
    resumed.load_state_dict(loaded["optimizer"])
    trained(2, net, optimizer)
    trained(2, other, resumed)
    assert same(dict(net.state_dict()), dict(other.state_dict()))


def test_the_file_is_safetensors(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {"weights": [torch.arange(3.0)]})
    (tensor,) = load_file(tmp_path / "state").values()
    assert torch.equal(tensor, torch.arange(3.0))
    content = (tmp_path / "state").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert len(content) == 8 + length + 12  # a length, a JSON header, three floats: no pickle
    assert "__metadata__" in json.loads(content[8 : 8 + length])


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_state_is_a_value_error(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, {"a": torch.randn(50), "b": 3})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"state is damaged"):
        load_state(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_file_is_a_value_error(metadata: Any, tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "state", metadata)
    with pytest.raises(ValueError, match="damaged"):
        load_state(tmp_path / "state")


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_models_come_back(quantizer: Any, tmp_path: Path) -> None:
    shape: dict[str, Any] = {"blocks": ((2, 4, 4),), "widths": (8,), "depths": (1,)}
    config = VQGANConfig(**shape, levels=(4, 4), quantizer=quantizer, codebook_size=16)
    saved, loaded = on_device(VQGAN(config), "cpu"), VQGAN(config)
    assert saved.encoder[0].mix.weight.is_contiguous(memory_format=torch.channels_last_3d)
    x_BCTHW = torch.randn(2, 3, 4, 16, 16)
    saved(x_BCTHW)  # a codebook is made of the first batch

    save_model(tmp_path / "made", saved, {"model": {"width": 8}})
    load_weights(tmp_path / "made", loaded)
    assert same(dict(saved.state_dict()), dict(loaded.state_dict()))
    torch.testing.assert_close(loaded.eval()(x_BCTHW)[0], saved.eval()(x_BCTHW)[0])

    fingerprint = weights_fingerprint(tmp_path / "made")
    metadata = {"model": {"width": 8}, "fingerprint": fingerprint}
    assert load_config(tmp_path / "made") == metadata
    save_model(tmp_path / "again", loaded, {})
    assert weights_fingerprint(tmp_path / "again") == fingerprint
    save_model(tmp_path / "other", VQGAN(config), {})
    assert weights_fingerprint(tmp_path / "other") != fingerprint


@pytest.mark.parametrize(
    "other", [nn.Linear(2, 4), nn.Linear(3, 3, bias=False), nn.Bilinear(2, 3, 3)]
)
def test_weights_that_do_not_fit_are_refused_in_one_line(other: nn.Module, tmp_path: Path) -> None:
    save_model(tmp_path, nn.Linear(3, 3), {})
    with pytest.raises(UserError, match="do not fit the configuration") as caught:
        load_weights(tmp_path, other)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        load_config(tmp_path)
    with pytest.raises(UserError, match="holds no model"):
        load_weights(tmp_path / "nowhere", nn.Linear(1, 1))


def test_tensors_may_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save_state(tmp_path / "state", {"whole": whole, "again": whole, "part": whole[2:4]})
    found = load_state(tmp_path / "state")
    assert torch.equal(found["whole"], whole)
    assert torch.equal(found["again"], whole)
    assert torch.equal(found["part"], whole[2:4])
