"""What a training tells Prometheus: Ray exports it from the node of the first worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ray.util.metrics import Gauge

GAUGES = {
    "throughput/clips_per_s": ("vqvdm_clips_per_second", "Clips a second of all workers together"),
    "time/data_wait_s": ("vqvdm_data_wait_seconds", "Seconds of a step spent waiting for data"),
}
"""Name and description by the name in MLflow. In Prometheus each name begins with `ray_`."""


def exporter(folder: str) -> Callable[[Mapping[str, float]], None]:
    """A function that sets the gauges from what is logged, labelled with the model: the last two
    parts of its folder, such as `ldm/base`."""
    model = "/".join(folder.rstrip("/").split("/")[-2:])
    gauges = {
        name: Gauge(exported, description, tag_keys=("model",))
        for name, (exported, description) in GAUGES.items()
    }

    def export(values: Mapping[str, float]) -> None:
        for name, gauge in gauges.items():
            gauge.set(values[name], tags={"model": model})

    return export
