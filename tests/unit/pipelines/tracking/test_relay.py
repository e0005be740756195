"""What is passed on to the driver arrives at its run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.tracking.relay import Message, RelayedRun, is_of_one_machine, replay
from pipelines.tracking.run import Run


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("sqlite:////home/me/runs/mlflow.db", True),
        ("http://127.0.0.1:5000", True),
        ("http://localhost:5000/prefix", True),
        ("http://[::1]:5000", True),
        ("http://mlflow:5000", False),
        ("https://user:password@127.example.com", False),
        ("postgresql://host/db", False),
        ("databricks", False),
    ],
)
def test_what_other_machines_cannot_reach(uri: str, local: bool) -> None:
    assert is_of_one_machine(uri) == local


class Notes(Run):
    def __init__(self) -> None:
        self.got: list[Any] = []

    def metrics(self, *args: Any) -> None:
        self.got.append(("metrics", *args))

    def bytes(self, *args: Any) -> None:
        self.got.append(("bytes", *args))

    def image(self, *args: Any) -> None:
        self.got.append(("image", *args))


def test_everything_a_worker_logs_is_passed_on(tmp_path: Path) -> None:
    messages: list[Message] = []
    waited: list[bool] = []
    relayed, run = RelayedRun(messages.append, lambda: waited.append(True)), Notes()
    pixels = np.zeros((2, 2, 3), np.uint8)
    with relayed.system_metrics():
        relayed.metrics({"train/loss": 1.0}, 7)
        relayed.progress(3, {"shards": 2.0})
        relayed.bytes(b"content", "previews/a.mp4")
        relayed.json({"a": 1}, "config.json")
        relayed.image(pixels, "preview", 7)
    relayed.close()
    assert waited == [True]
    replay(run, messages)
    assert [each[0] for each in run.got] == ["metrics", "metrics", "bytes", "bytes", "image"]
    assert run.got[0] == ("metrics", {"train/loss": 1.0}, 7)
    assert run.got[1] == ("metrics", {"progress/shards": 2.0}, 3)
    assert run.got[2] == ("bytes", b"content", "previews/a.mp4")
    assert run.got[4][1] is pixels
