"""The figures that Prometheus gets of a training."""

from typing import Any

import pytest

from pipelines.training import gauges


class Noted:
    """In the place of Ray's gauge: what it was set to."""

    set_to: dict[str, tuple[float, dict[str, str]]]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description and tag_keys == ("model",)
        self.name = name

    def set(self, value: float, tags: dict[str, str]) -> None:
        Noted.set_to[self.name] = value, tags


def test_what_is_logged_is_exported_by_model(monkeypatch: pytest.MonkeyPatch) -> None:
    Noted.set_to = {}
    monkeypatch.setattr(gauges, "Gauge", Noted)
    figures: dict[str, Any] = {"train/loss": 1.0, "throughput/clips_per_s": 40.0}
    gauges.exporter("s3://bucket/run/ldm/base/")(figures | {"time/data_wait_s": 0.25})
    model = {"model": "ldm/base"}
    assert Noted.set_to == {
        "vqvdm_clips_per_second": (40.0, model),
        "vqvdm_data_wait_seconds": (0.25, model),
    }
