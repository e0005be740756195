"""Hooks of MkDocs: the site has pages and files that lie outside `docs/`, under the links to them.

On the web view of a repository a link is a path from the file that it stands in. Pages move when
the site is built, so links are looked up by what they lead to in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "infra/README.md": "clusters.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "files/LICENSE.txt",
    "infra/Dockerfile": "files/Dockerfile.txt",
    "benchmarks/results.json": "files/results.json",
    "benchmarks/growth.json": "files/growth.json",
    "benchmarks/gpu.json": "files/gpu.json",
}
"""Place in the repository to place in the site, of what is not in `docs/`."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#])")
"""The path of a link or picture that leads to a file."""


def on_files(files: Files, config: Any) -> Files:
    """Add what lies elsewhere."""
    for source, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(REPOSITORY / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links by what they lead to in the repository become links within the site.

    What is not in the site is left as it is: a strict build refuses it.
    """
    site = page.file.src_uri
    source = next((there for there, place in ELSEWHERE.items() if place == site), f"docs/{site}")
    base = posixpath.dirname(source)

    def moved(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(base, match[1]))
        place = ELSEWHERE.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(place, posixpath.dirname(site) or ".")

    return LINK.sub(moved, markdown)
