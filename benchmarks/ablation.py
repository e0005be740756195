"""What settled the recipes: one change at a time, several seeds each.

    python -m benchmarks.ablation STUDY --root runs/demo [--seeds 3] [--steps N] [--only NAME …]

STUDY is one of `STUDIES`. Every row is made by the jobs themselves; their command lines are
printed, so that each can be run again by hand. Clips have to be there, and for the studies of the
generator latents too: `make demo` leaves both in runs/demo. A run that is finished already is only
read, so a study can be stopped and gone on with. Two studies with a worker each, on a core each,
get further than one with two.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.jobs import job, own_ray
from pipelines.evaluate import evaluate
from pipelines.io import storage
from pipelines.io.workspace import Workspace, require
from pipelines.train_ldm import train_ldm
from pipelines.train_vqgan import train_vqgan

Flags = tuple[str, ...]
TOKENIZER = ("val/psnr", "codebook/usage", "codebook/perplexity")
GENERATOR = (
    "samples/clip_accuracy",
    "samples/frame_accuracy",
    "samples/displacement_ratio",
    "fvd_builtin",
)

EVALUATE = (
    *("--num-samples", "200", "--metrics", "accuracy,motion,fvd"),
    # Not the recipe's, which may change: studies are to be compared. A variant's own comes later.
    *("--guidance", "3"),
)
RAW = argparse.RawDescriptionHelpFormatter


@dataclass(frozen=True)
class Study:
    """Variants of one stage: their flags, changed in training or in sampling."""

    train: Mapping[str, Flags]
    figures: tuple[str, ...]
    evaluate: Mapping[str, Flags] | None = None
    """Where it is sampling that differs: one model, evaluated with these flags."""
    sampling: Flags = ()
    """How all variants are sampled, where the recipe's way would not suit them."""


UCF101 = ("--model.width", "32", "--model.multipliers", "1", "2", "5", "--model.depths")
"""Half as wide as the recipe's, which takes too long on a processor; for latents of 16x16."""
DIT = ("--denoiser", "dit", "--lr", "1e-3", "--dit.head-width", "32", "--dit.width")
"""Transformers beside the demo's U-Net (0.62 GFLOP an evaluation): with patches of 2 they take
about half of its arithmetic, of 1 about as much."""

STUDIES = {
    "quantiser": Study(
        {
            "VQ 1024, 3 channels": (),
            "VQ 1024, cosine": ("--model.cosine",),
            "FSQ 8·8·8": ("--model.quantizer", "fsq"),
            "FSQ 8·8·8·5": ("--model.quantizer", "fsq", "--model.levels", "8", "8", "8", "5"),
        },
        TOKENIZER,
    ),
    "channels": Study(
        {
            "3 channels": (),
            "4 channels": ("--model.codebook-channels", "4"),
            "8 channels": ("--model.codebook-channels", "8"),
        },
        TOKENIZER,
    ),
    "decoder": Study(
        {
            "time folded last": (),
            "time folded at once": ("--model.blocks", "2", "4", "4", "2", "2", "2"),
            "factorised": ("--model.factorised",),
            "twice as wide a decoder": ("--model.decoder-widths", "48", "192"),
        },
        TOKENIZER,
    ),
    "objective": Study(
        {
            "flow": (),
            "v, min-SNR": ("--objective.name", "v"),
            "epsilon": ("--objective.name", "epsilon"),
        },
        GENERATOR,
        # The one sampler that fits all; each objective's own differ in their evaluations.
        sampling=("--sampler", "dpm", "--steps", "23"),
    ),
    "dropout": Study(
        {
            "p = 0.2": (),
            "p = 0.1": ("--objective.class-dropout", "0.1"),
            "p = 0.5": ("--objective.class-dropout", "0.5"),
        },
        GENERATOR,
    ),
    "depths": Study(
        {
            "2, 2, 2": (*UCF101, "2", "2", "2"),
            "1, 2, 2": (*UCF101, "1", "2", "2"),
            "1, 1, 2": (*UCF101, "1", "1", "2"),
        },
        ("val/loss", *GENERATOR),
    ),
    "attention": Study(
        {
            "frames by number": (),
            "frames in seconds": ("--model.temporal-positions", "seconds"),
            "joint at the lower level": ("--model.joint-attention-from", "1"),
            "joint": ("--model.joint-attention-from", "0"),
        },
        ("val/loss", *GENERATOR),
    ),
    "net": Study(
        {
            "U-Net": (),
            "DiT, patches of 2": (*DIT, "192", "--dit.depth", "6", "--dit.patch", "2"),
            "DiT": (*DIT, "128", "--dit.depth", "5"),
        },
        ("val/loss", *GENERATOR),
    ),
    "guidance": Study(
        {"flow": ()},
        GENERATOR,
        {f"guidance {g}": ("--guidance", str(g)) for g in (1, 2, 2.5, 3, 4)},
    ),
    "steps": Study(
        {"flow": ()},
        GENERATOR,
        {f"{steps} steps": ("--steps", str(steps)) for steps in (6, 12, 20, 100)},
    ),
}


def slug(text: str) -> str:
    """A name to publish under."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def train(study: Study, variant: str, seed: int, common: Flags) -> str:
    """Train a variant from a seed; returns the name it is published under.

    It is named by what was changed, so the recipe itself is trained once for all studies.
    """
    page = train_vqgan if study.figures == TOKENIZER else train_ldm
    published = slug(" ".join(("ablation", *study.train[variant], "seed", str(seed))))
    job(page, *common, "--name", published, "--seed", str(seed), *study.train[variant])
    return published


def figures(
    study: Study, seed: int, common: Flags, space: Workspace, only: Sequence[str]
) -> Iterator[tuple[str, dict[str, float]]]:
    """The figures of every variant, from one seed."""
    for variant in study.train:
        if only and not study.evaluate and variant not in only:
            continue
        published = train(study, variant, seed, common)
        if study.figures == TOKENIZER:
            yield (
                variant,
                require(space.vqgan(published), "config.json", "train_vqgan")["validation"],
            )
            continue
        trained = require(space.ldm(published), "config.json", "train_ldm")
        for sampled, flags in (study.evaluate or {variant: ()}).items():
            if only and sampled not in only:
                continue
            how = (*EVALUATE, *study.sampling, *flags)
            job(evaluate, "--root", space.root, "--ldm", published, "--overwrite", *how)
            measured = require(space.eval(published), "metrics.json", "evaluate")["metrics"]
            yield sampled, measured | trained["validation"]


def table(study: Study, found: Mapping[str, list[dict[str, float]]]) -> str:
    """Markdown: a row a variant, each figure's mean over the seeds and its smallest and largest."""
    lines = [f"| variant | {' | '.join(study.figures)} |", "|---" * (len(study.figures) + 1) + "|"]
    for variant, rows in found.items():
        cells = []
        for figure in study.figures:
            values = [row[figure] for row in rows]
            cells.append(f"{statistics.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--root", default="runs/demo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="training steps; by default the demo's")
    parser.add_argument("--num-workers", type=int, help="of each training; by default the demo's")
    parser.add_argument("--only", nargs="*", default=[], help="variants; by default all")
    asked = parser.parse_args()
    study, space = STUDIES[asked.study], Workspace(storage.absolute(asked.root))
    common: Flags = ("--root", space.root)
    common += ("--steps", str(asked.steps)) if asked.steps else ()
    common += ("--num-workers", str(asked.num_workers)) if asked.num_workers else ()
    own_ray(trains=True)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(asked.seeds):
        for variant, row in figures(study, seed, common, space, asked.only):
            found.setdefault(variant, []).append(row)
            print(variant, f"seed {seed}", {name: row[name] for name in study.figures}, flush=True)
    print(f"\n{table(study, found)}")


if __name__ == "__main__":
    main()
