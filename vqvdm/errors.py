"""The error a user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class UserError(ValueError):
    """What a user got wrong; the message is one line and says how to mend it."""


class IncompleteError(RuntimeError):
    """A job did all it could, and that is not what was asked for; the message is one line."""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it wraps; frameworks carry the errors of workers in several ways."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or any(found is other for other in seen):
            continue
        seen.append(found)
        yield found
        waiting += [getattr(found, "cause", None), found.__cause__]
        waiting += getattr(found, "worker_failures", {}).values()


def find_user_error(error: BaseException) -> UserError | None:
    """The user's mistake behind an error, if it is one."""
    # A subclass may be a framework's copy that prints a traceback: the plain one is wanted.
    return next((e for e in _causes(error) if type(e) is UserError), None)
