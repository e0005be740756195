"""The account of source videos: which there are, where each belongs, what became of each.

The plan is made from a listing alone. A video's split and shard are functions of its path, so
that adding or removing a video touches the one shard it belongs to.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pipelines.io import storage
from pipelines.io.video import SUFFIXES
from vqvdm.errors import UserError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("mtime_ns", pa.int64()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("duration_s", pa.float64()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("codec", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("clips", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Source:
    """A source video before it is opened. `path` is relative to the folder of videos."""

    path: str
    uri: str
    size: int
    etag: str | None
    mtime_ns: int | None
    label: str | None
    split: str

    @property
    def id(self) -> str:
        return hashlib.sha256(self.path.encode()).hexdigest()[:16]


def list_sources(
    videos: str, labels: str, val_fraction: float, val_list: str | None
) -> list[Source]:
    """The videos below a folder, with label and split; `UserError` where there are none."""
    paths = {
        file.uri[len(videos) + 1 :]: file
        for file in storage.walk(videos)
        if PurePosixPath(file.uri).suffix.lower() in SUFFIXES
    }
    if not paths:
        raise UserError(f"no videos under {videos}: pass --videos a folder or bucket that has some")
    table = _read_labels(labels) if labels not in ("folder", "none") else None
    sources = []
    for path, file in paths.items():
        if table is None:
            parents = PurePosixPath(path).parts[:-1]
            label = parents[0] if labels == "folder" and parents else None
        elif path in table:
            label = table[path]
        else:
            continue
        sources.append(Source(path, file.uri, file.size, file.etag, file.mtime_ns, label, "train"))
    if not sources:
        raise UserError(f"{labels} names none of the videos under {videos}: check its path column")
    if len({source.label is None for source in sources}) > 1:
        stray = next(source.path for source in sources if source.label is None)
        raise UserError(f"{stray} has no label while others have: move it, or pass --labels none")
    return _split(sources, val_fraction, val_list)


def _read_labels(uri: str) -> dict[str, str | None]:
    """A CSV, Parquet or JSON-lines table with columns `path` and `label`."""
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        raise UserError(f"--labels {uri}: no such file; or pass folder or none") from None
    readers = {".csv": pa.csv.read_csv, ".jsonl": pa.json.read_json, ".parquet": pq.read_table}
    suffix = PurePosixPath(uri).suffix
    if suffix not in readers:
        raise UserError(f"--labels {uri}: expected a file in {', '.join(readers)}")
    table = readers[suffix](io.BytesIO(data))
    if not {"path", "label"} <= set(table.column_names):
        raise UserError(f"--labels {uri}: needs the columns path and label")
    labels = table.column("label").cast(pa.string()).to_pylist()
    return dict(zip(table.column("path").to_pylist(), labels, strict=True))


def _split(sources: list[Source], val_fraction: float, val_list: str | None) -> list[Source]:
    if val_list:
        chosen = _listed(val_list, {source.path for source in sources})
    else:
        threshold = val_fraction * 2**32
        chosen = {s.path for s in sources if int(s.id[:8], 16) < threshold}
        # However few videos there are, one is kept for training, and one for validation.
        by_id = [source.path for source in sorted(sources, key=lambda source: source.id)]
        if not chosen and val_fraction > 0 and len(sources) > 1:
            chosen = {by_id[0]}
        if len(chosen) == len(sources):
            chosen.remove(by_id[-1])
    return [replace(s, split="val" if s.path in chosen else "train") for s in sources]


def _listed(val_list: str, paths: set[str]) -> set[str]:
    """Paths in a list, one a line; what follows a path, as in UCF-101's lists, is ignored."""
    try:
        lines = storage.read_bytes(val_list).decode().splitlines()
    except FileNotFoundError:
        raise UserError(f"--val-list {val_list}: no such file") from None
    lines = [line.strip() for line in lines if line.strip()]
    chosen = {line if line in paths else line.split()[0] for line in lines}
    if unknown := chosen - paths:
        raise UserError(f"--val-list {val_list} names {min(unknown)}, which is no video here")
    return chosen


@dataclass(frozen=True)
class Account:
    """What became of a video: `ok`, `partial` or `rejected`, and why."""

    status: str
    reason: str | None
    clips: int
    duration_s: float | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    codec: str | None = None


def publish(uri: str, accounts: list[tuple[Source, Account]]) -> None:
    """Write `videos.parquet`, a row for each video, ordered by URI."""
    rows: list[dict[str, Any]] = []
    for source, account in sorted(accounts, key=lambda pair: pair[0].path):
        row = {"id": source.id} | asdict(source) | asdict(account)
        rows.append({name: row[name] for name in SCHEMA.names})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink)
    storage.discard_unfinished(uri)
    storage.publish_bytes(sink.getvalue(), uri)


def read(uri: str) -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read_bytes(uri)), schema=SCHEMA)


def from_marker(details: dict[str, Any]) -> list[tuple[Source, Account]]:
    """The accounts that a clip shard's marker keeps of its videos."""
    return [(Source(**row["source"]), Account(**row["account"])) for row in details["videos"]]


def to_marker(accounts: list[tuple[Source, Account]]) -> dict[str, Any]:
    """What `from_marker` reads."""
    rows = [{"source": asdict(source), "account": asdict(account)} for source, account in accounts]
    return json.loads(json.dumps({"videos": rows}))
