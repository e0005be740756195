"""The model that MLflow serves runs on a GPU, where there is one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.tracking.registered_model import GeneratorModel
from vqvdm import VideoGenerator


@pytest.mark.parametrize(
    ("variable", "gpu", "expected"),
    [(None, True, "cuda"), (None, False, "cpu"), ("cpu", True, "cpu"), ("cuda:1", True, "cuda:1")],
)
def test_the_device(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, gpu: bool, expected: str
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(VideoGenerator, "load", lambda *arguments: loaded.append(arguments))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.delenv("VQVDM_DEVICE", raising=False)
    if variable:
        monkeypatch.setenv("VQVDM_DEVICE", variable)
    GeneratorModel().load_context(SimpleNamespace(artifacts={"bundle": "ldm"}))
    ((folder, device),) = loaded
    assert folder == "ldm"
    assert torch.device(device) == torch.device(expected)
