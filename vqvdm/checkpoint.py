"""Models and training states on disk: safetensors and JSON, never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vqvdm.errors import UserError
from vqvdm.layers import Conv3d
from vqvdm.transfer import memory_format

Module = TypeVar("Module", bound=nn.Module)
Config = TypeVar("Config")


def save_model(folder: Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Write `model.safetensors` and `config.json` into a local folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    config = config | {"fingerprint": weights_fingerprint(folder)}
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def load_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model's folder; `UserError` if it is missing or damaged."""
    try:
        return json.loads((folder / "config.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} holds no model: config.json is missing") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{folder}/config.json is damaged ({error}): export it again") from error


def as_config(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a configuration from parsed JSON, whose lists become tuples again. `UserError` if the
    fields do not match."""

    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    try:
        return kind(**{name: frozen(value) for name, value in values.items()})
    except TypeError as error:
        raise UserError(f"config.json describes no {kind.__name__}: {error}") from error


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load `model.safetensors` into a model, which may be on the meta device. Each tensor takes the
    dtype that the model has. `UserError` if the shapes do not fit."""
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    try:
        with safe_open(folder / "model.safetensors", "pt") as file:
            # One by one, so that a net in bf16 is never held in fp32 as a whole.
            tensors = {
                name: file.get_tensor(name).to(dtypes.get(name), copy=True)
                for name in file.keys()  # noqa: SIM118
            }
        model.load_state_dict(tensors, assign=True)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no model: model.safetensors is missing") from None
    except SafetensorError as error:
        raise UserError(
            f"{folder}/model.safetensors is damaged ({error}): copy or export it again"
        ) from error
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{folder}: the weights do not fit the configuration: {detail}") from error


def weights_fingerprint(folder: Path) -> str:
    """The first 16 hexadecimal digits of the sha256 of the weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def save_state(path: Path, state: Any) -> None:
    """Write nested dicts and lists of tensors and plain values into one safetensors file."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, tensors, set()))
    save_file(tensors, path, metadata={"tree": tree})


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; `ValueError` if the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            tree = json.loads(file.metadata()["tree"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return _unpack(tree, tensors)
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _pack(value: Any, tensors: dict[str, Tensor], storages: set[int]) -> Any:
    """Replace tensors by their names. Dicts become lists of pairs, because JSON would turn all
    keys into strings. `storages` are the addresses of the memory of `tensors`."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensor = value.detach().cpu().contiguous()
        # Copied if need be, because safetensors refuses tensors that share memory.
        address = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if address in storages else tensor
        storages.add(address)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors, storages)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, tensors, storages) for item in value]}
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return {"value": value}


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, value),) = node.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in value}
    if kind in ("list", "tuple"):
        items = [_unpack(item, tensors) for item in value]
        return tuple(items) if kind == "tuple" else items
    return value


def on_device(module: Module, device: torch.device | str) -> Module:
    """Move a module to a device, with 3D convolutions in their fastest memory layout there."""
    layout = memory_format(device)
    for child in module.modules():
        if isinstance(child, Conv3d):
            child.layout = layout if torch.device(device).type == "cuda" else None
    return module.to(device, memory_format=layout)  # type: ignore[call-overload]
