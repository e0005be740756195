"""The peak of a process's memory, and that it can be forgotten."""

from pathlib import Path

import pytest
import torch

from pipelines.training import peak
from pipelines.training.peak import forget_peak, peak_gib

CPU = torch.device("cpu")
GIB = 2**30


def test_the_peak_is_seen_after_it_and_can_be_forgotten() -> None:
    forget_peak(CPU)
    before = peak_gib(CPU)
    assert before is not None
    assert torch.ones(GIB // 8).sum() == GIB // 8  # half a GiB, gone at once
    at_most = peak_gib(CPU)
    assert at_most is not None and 0.45 < at_most - before < 0.6
    forget_peak(CPU)
    after = peak_gib(CPU)
    assert after is not None and after < at_most - 0.4


def test_a_system_without_such_files_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak, "OF_PROCESS", tmp_path / "none")
    forget_peak(CPU)
    assert peak_gib(CPU) is None
