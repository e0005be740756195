"""Inspection: what a training will see of a root, what was lost and why, and what looks wrong.

    videos.parquet ─▶ manifest of videos ─┐
    clips/*.tar ─────▶ pixels of a sample ┼─▶ findings ─▶ inspection/report.html
    vqgan, latents, ldm ▶ what they are of┘

It runs in the driver alone: it reads the manifest, listings, and the beginning of some shards.
"""

from __future__ import annotations

from pipelines.inspection import report
from pipelines.inspection.findings import Finding, check_account, find
from pipelines.inspection.pixels import look_at
from pipelines.inspection.settings import InspectData
from pipelines.inspection.shards import check_shards
from pipelines.inspection.stages import check_stages
from pipelines.inspection.videos import summarise
from pipelines.io import checksums, storage
from pipelines.io.workspace import require
from pipelines.sharding import manifest
from pipelines.tracking.start import start_run
from vqvdm.errors import IncompleteError


def inspect_data(config: InspectData) -> str:
    """Read ROOT and publish ROOT/inspection: a page, and the findings as JSON."""
    config.check()
    space = config.workspace
    index = require(space.clips, "index.json", "shard_videos")
    folder = space.inspection
    if config.dry_run:
        return f"would look at {config.samples} clips of {space.root}, into {folder}"
    videos = summarise(manifest.read(space.manifest), index["classes"])
    pixels = look_at(space.clips, index, config.samples)
    findings = check_account(videos, index) + find(videos, pixels, index["spec"])
    findings += check_shards(space.clips, index) + check_stages(space, index)
    findings.sort(key=lambda finding: finding.rank)
    _print(videos.table, findings)
    page = report.page(space.root, index, videos, pixels, findings)
    with start_run("inspect_data", config, {"clips": index["fingerprint"]}) as run:
        storage.publish_bytes(page.encode(), storage.join(folder, "report.html"))
        content = report.as_json(index, videos, findings)
        storage.publish_bytes(checksums.json_bytes(content), storage.join(folder, "findings.json"))
        run.bytes(page.encode(), "inspection.html")
        run.metrics(videos.metrics | pixels.metrics)
    wrong = sum(finding.kind == "wrong" for finding in findings)
    figure = f"{videos.words}; {report.count(findings)}: {folder}/report.html"
    if wrong and config.strict:
        raise IncompleteError(figure)
    return figure


def _print(table: str, findings: list[Finding]) -> None:
    print(table, flush=True)
    for finding in findings:
        print(f"{finding.kind}: {finding.line}", flush=True)
