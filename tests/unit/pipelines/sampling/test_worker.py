"""Requests: batches of one frame rate, and a seed for each video."""

import hashlib
from dataclasses import replace

from pipelines.sampling.worker import Request, in_batches

DIGITS = ["zero", "one", "seven"]


def requests(*rates: float) -> list[Request]:
    return [Request("zero", number, fps) for number, fps in enumerate(rates)]


def test_batches_hold_one_frame_rate_and_no_more_than_asked() -> None:
    wanted = requests(8, 16, 8, 8, 16, 8, 8)
    groups = in_batches(wanted, 2)
    assert [len(group) for group in groups] == [2, 2, 1, 2]
    assert all(len({request.fps for request in group}) == 1 for group in groups)
    together = [request for group in groups for request in group]
    assert sorted(together, key=lambda r: r.number) == wanted
    assert in_batches([], 2) == []


def test_every_video_has_a_seed_of_its_own() -> None:
    wanted = [Request(label, k, 8.0) for label in [*DIGITS, None] for k in range(3)]
    seeds = [request.seed(base) for base in (0, 1) for request in wanted]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_does_not_depend_on_other_requests() -> None:
    request = Request("seven", 2, 16.0)
    assert request.seed(4) == Request("seven", 2, 16.0).seed(4)
    assert request.seed(4) == replace(request, fps=8.0).seed(4)  # the same motion, slower
    number = int.from_bytes(hashlib.sha256(b"seven").digest()[:8], "big")
    assert request.seed(4) == (4, number, 2)  # in every process, on every machine


def test_files_are_sorted_by_class() -> None:
    assert Request("zero", 12, 8.0).file == "zero/00012.mp4"
    assert Request(None, 0, 8.0).file == "unlabelled/00000.mp4"
