"""Comparing settings with those that filled a place before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vqvdm.errors import UserError, listed

SHOWN = 4
"""Settings that are named in one line, at most."""
LENGTH = 60
"""Characters of the value of one, at most."""


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by dotted name, as text."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return found


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, in words: `steps 1300 → 250, lr 0.001 → 0.01`; empty if none do."""
    old, new = flat(before), flat(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    words = (f"{n} {_short(old.get(n))} → {_short(new.get(n))}" for n in names)
    return listed(words, SHOWN)


def _short(value: str | None) -> str:
    """A value in a line: of a long one, such as a list of prompts, the beginning."""
    text = "none" if value is None else value
    return text if len(text) <= LENGTH else f"{text[: LENGTH - 1]}…"


def refuse_other(
    folder: str, found: str, wanted: str, changed: str = "", flag: str = "", cure: str = ""
) -> None:
    """`UserError` if `folder` was filled by a run with other settings or input.

    `changed` tells which, where it is known, `flag` the setting that names the folder, and `cure`
    what else to pass.
    """
    if found != wanted:
        unknown = "other settings, from other input or by an earlier version"
        what = f"other settings ({changed})" if changed else unknown
        other = f"{flag} or --root" if flag else "--root"
        raise UserError(
            f"{folder} was filled with {what}: pass {f'{cure}, ' if cure else ''}--overwrite to "
            f"replace it, or another {other}"
        )
