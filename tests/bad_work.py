"""Decoders that hang, crash and eat memory, after a clip that came out well."""

import ctypes
import time
from collections.abc import Iterator

from pipelines.sharding.clips import CutRequest, Event, cut_video


def some_clip(request: CutRequest) -> Iterator[Event]:
    events = cut_video(request)
    yield from (next(events), next(events))


def hanging(request: CutRequest) -> Iterator[Event]:
    yield from some_clip(request)
    time.sleep(600)


def crashing(request: CutRequest) -> Iterator[Event]:
    yield from some_clip(request)
    ctypes.string_at(0)


def hungry(request: CutRequest) -> Iterator[Event]:
    yield from some_clip(request)
    yield bytearray(8 << 30)  # type: ignore[misc]


REASONS = {hanging: "timed_out", crashing: "crashed", hungry: "out_of_memory"}
