"""Why a video gives fewer clips than it might: the one list of reasons.

A *failure* is a defect of a file, or a limit that it exceeds: `--strict` exits with an error and
`--retry-failed` tries again. What a filter removes is not a failure.
"""

from __future__ import annotations

FAILURES = {
    "missing": "The file is listed but not there: it was deleted, or is a dangling link.",
    "no_permission": "The file may not be read.",
    "not_a_file": "A folder, pipe or device with the name of a video.",
    "empty": "The file holds no bytes, or the folder no images.",
    "unreadable": "FFmpeg finds no video format in the file, or one that lists other files; its "
    "index may be cut off.",
    "no_video_stream": "The file holds no video: only sound, or a cover.",
    "unknown_codec": "FFmpeg has no decoder for the video, or its header names none.",
    "no_frame_size": "The header gives no width or height.",
    "no_frame_rate": "Neither header nor time stamps give the frame rate.",
    "damaged": "Some frames do not decode cleanly, or the file ends early. Clips of clean frames "
    "only are kept, also those after the damage.",
    "too_short": "There are fewer clean frames in a row than a clip takes.",
    "too_many_pixels": "A frame has more pixels than `--limits.max-pixels`; the score is how many.",
    "too_long": "The video, or a span of it, lasts longer than `--limits.max-duration-s`; the "
    "score is its length in seconds.",
    "timed_out": "Decoding took longer than `--timeout-s` allows, and was ended.",
    "crashed": "The decoder crashed.",
    "out_of_memory": "Decoding took more memory than `--max-memory-gb`.",
    "no_answer": "The server of a URL does not answer in time, or with an error.",
    "incomplete": "Fewer bytes arrived from a URL than its server announced, in several attempts.",
    "too_large": "A URL sends more than 64 GiB, more than 8 GiB without announcing how much, or "
    "for longer than six hours, as live streams do.",
    "web_page": "A URL leads to a page of text instead of a video.",
    "not_a_member": "A link, sparse file or device in a tar, or a member whose name leads out of "
    "it: such are not followed.",
    "damaged_tar": "A tar is cut off or damaged at this member, or from there on: what comes "
    "after it cannot be read.",
    "bad_description": "The JSON, text or class beside a video in a tar cannot be read.",
}
"""Reasons of `partial` and `rejected` videos that are failures."""

FILTERED = {
    "too_small": "The short side is below `--filters.min-size`; the score is its length.",
    "too_brief": "The video is shorter than `--filters.min-duration-s`; the score is its length "
    "in seconds.",
    "low_frame_rate": "The video's own rate is below `--filters.min-fps`; the score is that rate.",
    "static": "Every clip moves less than `--filters.min-motion`; the score is the highest mean "
    "difference between neighbouring frames, of 255.",
    "near_duplicate": "Another video, named in the details, is closer than "
    "`--filters.min-distance`; the score is how close, in bits of 64.",
    "empty_span": "Nothing of the video falls into this span of its file: the header gives no "
    "length, so that the first span has all, or there are too few seconds for so many spans.",
    "black": "Every clip is darker than `--filters.min-brightness`; the score is the highest mean, "
    "of 255.",
}
"""Reasons of videos, and of single clips, that a filter removed."""

REASONS = FAILURES | FILTERED


class VideoError(Exception):
    """A file cannot be used as a video, or only in part; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, detail: str = "", score: float | None = None) -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.score = reason, detail, score

    def bare(self) -> VideoError:
        """The same without its traceback, which keeps decoders and frames alive."""
        return VideoError(self.reason, self.detail, self.score)

    def __reduce__(self) -> tuple:
        return VideoError, (self.reason, self.detail, self.score)
