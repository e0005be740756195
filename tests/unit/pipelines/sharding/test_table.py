"""Tables of videos in CSV: texts stay as they are written, numbers are numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pipelines.sharding.settings import Selection
from pipelines.sharding.table import Reader
from vqvdm.errors import UserError


def rows_of(folder: Path, content: str) -> list[dict[str, Any]]:
    """The further columns of each row of a table."""
    (folder / "t.csv").write_bytes(content.encode())
    rows = Reader("--labels", Selection()).labels(f"{folder}/t.csv")
    return [json.loads(row.columns) if row.columns else {} for row in rows]


def values_of(folder: Path, *values: str) -> list[Any]:
    """What becomes of a further column."""
    lines = (f"{number}.mp4,x,{value}" for number, value in enumerate(values))
    found = rows_of(folder, "\n".join(["path,label,v", *lines, ""]))
    return [row["v"] for row in found]


@pytest.mark.parametrize(
    "values",
    [
        ["00071", "00072"], ["71", "00072"], ["+5", "6"], ["-0", "1"], ["1e5", "12e3"],
        ["1.10", "1.1"], ["0.5", "nan"], ["0.5", "inf"], [".5", "1."], ["1_000", "2"],
        ["12345678901234567890", "1"], ["true", "False"], ["true", "1"], ["yes", "no"],
        ["2020-01-01", "2020-01-02"], ["2020-01-01 10:00:00", "2020-01-01 11:00:00"],
        ["10:30:00", "10:31:00"], ["NA", "null"], ["0x1F", "2"],
    ],
)  # fmt: skip
def test_what_would_be_altered_stays_text(values: list[str], tmp_path: Path) -> None:
    assert values_of(tmp_path, *values) == values


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["71", "", "-5", "0"], [71, None, -5, 0]),
        (["0.50", "0.25", "1.00"], [0.5, 0.25, 1.0]),
        (["1", "2.5"], [1.0, 2.5]),
        ([repr(x) for x in (0.1, 1 / 3, 1e-05, 2.5e17)], [0.1, 1 / 3, 1e-05, 2.5e17]),
        (["true", "", "false"], [True, None, False]),
        (["True", "False"], [True, False]),
        (["", ""], [None, None]),
    ],
)
def test_numbers_and_truths_have_their_type(
    values: list[str], wanted: list[Any], tmp_path: Path
) -> None:
    found = values_of(tmp_path, *values)
    assert found == wanted and list(map(type, found)) == list(map(type, wanted))


def test_a_caption_is_text(tmp_path: Path) -> None:
    for captions in (["3", "4"], ["true", "true"], ["1.5", ""]):
        lines = (f"{number}.mp4,x,{each}\n" for number, each in enumerate(captions))
        found = rows_of(tmp_path, "path,label,caption\n" + "".join(lines))
        assert [row["caption"] for row in found] == [each or None for each in captions]


@pytest.mark.parametrize("count", [3, 60_000])
def test_line_breaks_in_quotes(count: int, tmp_path: Path) -> None:
    """However long the table is: Arrow reads it in blocks of 1 MiB."""

    def lines() -> Iterable[str]:
        for n in range(count):
            yield f'{n}.mp4,x,"line one of a caption\nline two, number {n}"\n'

    found = rows_of(tmp_path, "path,label,caption\n" + "".join(lines()))
    assert len(found) == count
    assert found[-1] == {"caption": f"line one of a caption\nline two, number {count - 1}"}


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    for content in ("path,label\na.mp4,café\n", "path,label,caption\na.mp4,x,café\n"):
        (tmp_path / "t.csv").write_bytes(content.encode("latin1"))
        with pytest.raises(UserError, match=r"--labels .*t.csv: is no valid csv table: .*UTF"):
            list(Reader("--labels", Selection()).labels(f"{tmp_path}/t.csv"))
