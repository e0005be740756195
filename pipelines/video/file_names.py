"""Which files beside videos are none, by their names alone."""

from __future__ import annotations

from pathlib import PurePosixPath

_BESIDE_VIDEOS = """
csv tsv json jsonl xml yaml yml toml ini cfg log txt md rst html htm css js py sh ipynb pdf doc docx
xls xlsx ppt pptx parquet npy npz pt pth safetensors pkl h5 db sqlite srt vtt ass ssa sub idx nfo
zip tar gz tgz bz2 xz 7z rar mp3 wav flac m4a aac opus oga svg tif tiff heic raw psd part tmp
crdownload md5 sha256 cls
"""
NO_VIDEOS = frozenset(f".{suffix}" for suffix in _BESIDE_VIDEOS.split())
"""Suffixes of files that often lie beside videos. Every other file is tried: FFmpeg reads more
formats than a list could name."""

SYSTEM_NAMES = frozenset(
    (
        "__MACOSX",
        "@eaDir",
        "lost+found",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "Thumbs.db",
        "desktop.ini",
    )
)
"""Names that operating systems and servers leave behind; names with a leading dot are hidden."""


def suffix(path: str) -> str:
    """The suffix of a path in small letters, as `.mp4`; empty where there is none."""
    return PurePosixPath(path).suffix.lower()


def is_hidden(path: str) -> bool:
    """Whether a path is hidden, or left behind by a system."""
    parts = PurePosixPath(path).parts
    return any(part.startswith(".") or part in SYSTEM_NAMES for part in parts)


def may_be_shown(path: str) -> bool:
    """Whether a file is to be tried as a video or a picture."""
    return not is_hidden(path) and suffix(path) not in NO_VIDEOS
