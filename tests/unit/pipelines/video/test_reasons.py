"""Reasons: every one is explained and used, and errors can be sent between processes."""

import pickle
import re
from pathlib import Path

import pytest

from pipelines.video.reasons import FAILURES, FILTERED, REASONS, VideoError

ROOT = Path(__file__).parents[4]


def test_every_reason_is_given_somewhere_and_every_given_one_is_explained() -> None:
    files = [*(ROOT / "pipelines/sharding").rglob("*.py"), *(ROOT / "pipelines/video").glob("*.py")]
    text = "".join(file.read_text() for file in files if file.name != "reasons.py")
    assert set(re.findall(r'VideoError\(\s*"(\w+)"', text)) <= REASONS.keys()
    # Listings write a reason, a colon and details.
    assert [r for r in REASONS if f'"{r}"' not in text and f'"{r}: ' not in text] == []


def test_the_documentation_has_the_same_table() -> None:
    page = (ROOT / "docs/videos.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.M))
    assert rows == REASONS
    assert page.index("`missing`") < page.index("`too_small`")


def test_no_reason_is_both_a_failure_and_a_filter() -> None:
    assert not FAILURES.keys() & FILTERED.keys()
    with pytest.raises(AssertionError):
        VideoError("bad_luck")


def test_an_error_can_be_sent() -> None:
    error = pickle.loads(pickle.dumps(VideoError("too_long", "9000.0 s", 9000.0)))
    assert (error.reason, error.detail, error.score) == ("too_long", "9000.0 s", 9000.0)
