"""The evaluation report: one self-contained page."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from typing import Any

from pipelines.config.schema import Evaluate

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 56rem; padding: 1rem;
       color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left }
td:last-child { font-variant-numeric: tabular-nums }
img { width: 100%; image-rendering: pixelated; border-radius: .3rem }
pre { overflow-x: auto; background: #f5f5f5; padding: .8rem; font-size: .8rem }
"""


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(_shown(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def page(config: Evaluate, bundle: dict[str, Any], result: dict[str, Any], gif: bytes) -> str:
    """HTML with the comparison of real, reconstructed and sampled videos, and all figures."""
    picture = base64.b64encode(gif).decode()
    settings = json.dumps(bundle["model"] | bundle["objective"], indent=1)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of {html.escape(config.ldm)}</title><style>{STYLE}</style></head><body>
<h1>Evaluation of ldm/{html.escape(config.ldm)}</h1>
<p>Rows from above: real clips, the same through the tokenizer and back, samples.</p>
<img alt="real, reconstructed and sampled videos" src="data:image/gif;base64,{picture}">
<h2>Metrics</h2>{_table(result["metrics"])}
<h2>Protocol</h2>{_table(result["protocol"])}
<h2>Lineage</h2>{_table({"ldm": bundle["fingerprint"], **bundle["inputs"]})}
<h2>Settings</h2><pre>{html.escape(settings)}</pre>
</body></html>
"""
