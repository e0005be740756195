"""How many workers there is room for; tests/e2e has workers that come and go."""

from __future__ import annotations

from functools import partial

import pytest

from pipelines.cluster import elastic
from pipelines.cluster.devices import Devices


def test_who_waits_for_room_hears_a_request_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def has_room(devices: Devices, workers: int) -> bool:
        tried.append(workers)
        return False

    monkeypatch.setattr(elastic, "_is_there", lambda devices, workers: True)
    monkeypatch.setattr(elastic, "_has_room", has_room)
    for numbers, expected in (((4, 2), [4, 2] * 3), ((2,), [2] * 3)):
        tried.clear()
        answers = iter([False, False, False, True])
        found = elastic.workers_with_room(Devices(numbers=numbers), partial(next, answers))
        assert found is None and tried == expected


def test_the_largest_number_that_has_room_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "_is_there", lambda devices, workers: workers != 8)
    monkeypatch.setattr(elastic, "_has_room", lambda devices, workers: workers <= 4)
    assert elastic.workers_with_room(Devices(numbers=(8, 4, 2)), lambda: False) == 4
    assert elastic.workers_with_room(Devices(workers=3), lambda: False) == 3
