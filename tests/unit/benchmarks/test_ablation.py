"""The variants of the studies, as the jobs take them."""

import pytest

from benchmarks.ablation import EVALUATE, STUDIES, TOKENIZER
from pipelines.recipes.cli import parse


@pytest.mark.parametrize("name", STUDIES)
def test_the_jobs_take_every_variant_of_a_study(name: str) -> None:
    study = STUDIES[name]
    job = "train_vqgan" if study.figures == TOKENIZER else "train_ldm"
    recipes = []
    for flags in study.train.values():
        config = parse(job, list(flags))
        config.check()
        recipes.append(config.recipe())
    assert all(a not in recipes[:i] for i, a in enumerate(recipes))
    for flags in (study.evaluate or {}).values():
        parse("evaluate", [*EVALUATE, *study.sampling, *flags])
