"""The error a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """What a user got wrong; the message is one line and says how to mend it."""


class IncompleteError(RuntimeError):
    """A job did all it could, and that is not what was asked for; the message is one line."""
