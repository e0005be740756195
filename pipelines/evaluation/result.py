"""The result: figures with everything that they depend on, and the main ones in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipelines.evaluation import protocols, published
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.metrics import Metrics, Sets
from pipelines.io import checksums

OPTIONS = ("scenes", "crop_bars", "filters")
"""Settings of clips that a published protocol knows nothing of."""


def result(
    inputs: Inputs, metrics: Metrics, sets: Sets, videos: int, speed: dict[str, Any]
) -> dict[str, Any]:
    """The content of `metrics.json`: figures with everything that they depend on.

    `videos` are those that the real clips were drawn from.
    """
    config, chosen, spec = inputs.config, inputs.config.chosen, inputs.index["spec"]
    protocol = {
        "name": config.protocol,
        "about": protocols.PROTOCOLS[config.protocol].description,
        "samples": chosen.num_samples,
        "repeats": chosen.repeats,
        "real_clips": sets.real.count,
        "floor_clips": sets.floor.count,
        "floor": "other real clips, in the proportions of the real ones' classes and frame rates",
        "real_split": chosen.real_split,
        "real_draw": chosen.real_draw,
        "is_splits": chosen.is_splits,
        "covariance_ddof": chosen.ddof,
        "videos": videos,
        "clips": {k: spec[k] for k in ("frames", "size", "stride", "rates", *OPTIONS) if k in spec},
        "pixels": "lossless clips of consecutive frames, short side resized with antialiasing, "
        "centre square",
        "sampling": {
            "steps": config.steps,
            "guidance": config.guidance,
            "sampler": config.sampler or "the model's best",
            "seed": config.seed,
        },
        "fps": sets.samples[0].rates,
        "detector": (inputs.detector.as_json() if inputs.detector else {"name": "none"}),
        "classifier": inputs.classifier.as_json() if inputs.classifier else None,
        "lpips": inputs.lpips.as_json() if inputs.lpips else None,
        "accuracy": "classifier of single frames trained on training clips of other videos than "
        "the real clips; compares with figures of the same data only",
    }
    if "text" in inputs.bundle:
        protocol["captions"] = {
            "column": inputs.bundle["text"]["column"],
            "samples_told": sets.told,
            "which": "each sample is told that of a real clip of its class and frame rate",
        }
    if sets.only_at is not None:
        protocol["real_fps"] = sets.only_at
    table = published.table_for(config.preset)
    fixed = published.conditions(table, protocol, spec)
    reasons = [str(each) for each in fixed if not each.same]
    reasons += [inputs.doubt] if inputs.doubt else []
    # Settings of sampling belong to the model; the seed also draws the real clips.
    basis = {k: v for k, v in protocol.items() if k not in ("sampling", "fps")}
    basis["seed"] = config.seed
    return {
        "recipe": inputs.recipe,
        "metrics": metrics.flat | {k: v for k, v in speed.items() if isinstance(v, float)},
        "estimates": {name: asdict(each) for name, each in metrics.values.items()},
        "not_measured": metrics.not_measured,
        "protocol": protocol,
        "speed": speed,
        "published": {
            "table": table.title,
            "comparable": not reasons,
            "reasons": reasons,
            "doubts": published.doubts(table),
            "conditions": [asdict(each) | {"same": each.same} for each in fixed],
        },
        "preset": config.preset,
        "clips": inputs.index["fingerprint"],
        "settings": config.recipe(),
        "ldm": config.ldm,
        "measured_on": checksums.fingerprint([basis, inputs.index["fingerprint"]]),
    }


def headline(metrics: dict[str, float]) -> str:
    """The main figures in words."""
    names = {
        "psnr": "PSNR {:.1f} dB",
        "samples/clip_accuracy": "class accuracy {:.2f}",
        "real/clip_accuracy": "(real clips {:.2f})",
        "samples/displacement_ratio": "displacement ratio {:.2f}",
        "real/displacement_ratio": "(real {:.2f})",
    }
    text = [text.format(metrics[name]) for name, text in names.items() if name in metrics]
    for name, value in metrics.items():
        if name.split("_")[0] in ("fvd", "is") and not name.endswith(("_ci95", "_std")):
            word = name.replace("fvd", "FVD").replace("is", "IS", 1).replace("_", " by ", 1)
            text.append(f"{word} {value:.3g}")
            if f"floor/{name}" in metrics:
                text.append(f"(real {metrics[f'floor/{name}']:.3g})")
    return " ".join(text)
