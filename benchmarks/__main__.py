"""Comparisons with others, one after the other, each in a process of its own, and the picture of
them; 1 if a floor was missed.

    python -m benchmarks [NAME …]

Those that are left out by default, for half an hour is long: tokenizers, growth.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.results import table

NAMES = ("sampling", "quality", "data_plane", "loading", "plot")
LIMIT_S = 1800


def main() -> int:
    failed = []
    for name in sys.argv[1:] or NAMES:
        print(f"{name} …", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], timeout=LIMIT_S)
        failed += [name] if done.returncode else []
    print(table())
    print(f"below a floor, or broken: {', '.join(failed)}" if failed else "all floors are held")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
