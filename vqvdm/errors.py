"""The error a user can mend."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

LISTED = 24
"""Names in one line, at most."""


class UserError(ValueError):
    """What a user got wrong; the message is one line and says how to mend it."""


class StoppedError(RuntimeError):
    """A job was asked to stop before its end; the message, one line, says how far it came."""


def is_stop(error: BaseException) -> bool:
    """Whether a job ends since it was asked to: by Ctrl-C or SIGTERM, which Ray's drivers turn into
    an exit with its number."""
    is_signal = isinstance(error, SystemExit) and error.code == signal.SIGTERM
    return is_signal or isinstance(error, KeyboardInterrupt | StoppedError)


class IncompleteError(RuntimeError):
    """A job did all it could, and that is not what was asked for; the message is one line."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'seven'? ` where a known name is near, whatever its capitals; else nothing."""
    by_folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, 1)
    return f"did you mean {by_folded[near[0]]!r}? " if near else ""


def listed(names: Iterable[str], most: int = LISTED) -> str:
    """Names separated by commas; of more than `most` the first ones, and how many others."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
