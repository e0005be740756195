"""Which files beside videos are none, or proxies of others, by their names alone.

Paths are taken apart as text: as objects, those of millions of files take most of a listing.
"""

from __future__ import annotations

_BESIDE_VIDEOS = """
csv tsv json jsonl xml yaml yml toml ini cfg log txt md rst html htm css js py sh ipynb pdf doc docx
xls xlsx ppt pptx parquet npy npz pt pth safetensors pkl h5 db sqlite srt vtt ass ssa sub idx nfo
zip tar gz tgz bz2 xz 7z rar mp3 wav flac m4a aac opus oga svg tif tiff heic raw psd part tmp
crdownload md5 sha256 cls heif hif amr wma aif aiff ac3 mka smi sbv ttml dfxp lrc description ytdl
sha1 sha512 sfv par2 sig asc torrent url lnk webloc cff bib plist kml edl fcpxml cube
"""
# Copies of low resolution would be cut as videos of their own, and get a split of their own.
_PROXIES = "lrv lrf"
# Thumbnails, metadata, places and raw pictures; the indices of AVCHD, Blu-ray and DVD.
_BESIDE_RECORDINGS = """
thm scr aae xmp gpx fit gps nmea 3gf cpi mpl bdm tdt tid clpi mpls bdmv bdjo ifo bup moi modd moff
bim ppn smi ctg cif rmd ale dng gpr cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf srw pef insp
"""
NO_VIDEOS = frozenset(
    f".{suffix}" for suffix in (_BESIDE_VIDEOS + _PROXIES + _BESIDE_RECORDINGS).split()
)
"""Suffixes of files that often lie beside videos, those of cameras and phones included. Every
other file is tried: FFmpeg reads more formats than a list could name."""

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
    name = path.rstrip("/").rpartition("/")[2]
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def parts(path: str) -> list[str]:
    """The names that a path consists of."""
    return [part for part in path.split("/") if part not in ("", ".")]


def is_hidden(path: str) -> bool:
    """Whether a path is hidden, or left behind by a system."""
    names = parts(path)
    return any(name[0] == "." for name in names) or not SYSTEM_NAMES.isdisjoint(names)


def may_be_shown(path: str) -> bool:
    """Whether a file is to be tried as a video or a picture."""
    return not is_hidden(path) and suffix(path) not in NO_VIDEOS
