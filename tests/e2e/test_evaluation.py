"""Evaluation of a tiny model on real clips: figures, report in a browser, registry, server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from pipelines.demo.settings import DIGITS
from pipelines.io import storage
from pipelines.sampling.settings import Sample
from pipelines.tracking import registry
from pipelines.tracking.server import EXPERIMENT, tracking_uri
from pipelines.tracking.start import start_run
from tests.e2e.conftest import free_port, run_job
from tests.tiny import write_bundle
from vqvdm.checkpoint import load_config

SIZE = 32
SMALL = ("--steps", 2, "--num-samples", 70, "--detector-steps", 10, "--num-workers", 1)
ALL = ("--real-split", "all")  # every class is among them
SERVER_TIMEOUT_S = 120
PICTURE = """async film => {
  while (film.readyState < 2) await new Promise(done => setTimeout(done, 20));
  const canvas = document.createElement('canvas');
  canvas.width = film.videoWidth; canvas.height = film.videoHeight;
  canvas.getContext('2d').drawImage(film, 0, 0);
  return {size: [film.videoWidth, film.videoHeight], shown: film.clientWidth,
          pixels: canvas.toDataURL()};
}"""
"""The pixels that a video shows at this moment."""


@dataclass(frozen=True)
class Evaluated:
    """A root with clips, a registered model, and its evaluation."""

    root: str
    figure: str
    result: dict[str, Any]

    @property
    def page(self) -> str:
        return f"{self.root}/eval/base/report.html"


@pytest.fixture(scope="module")
def evaluated(local_ray, digit_videos: Path, tmp_path_factory) -> Evaluated:
    root = tmp_path_factory.mktemp("evaluated")
    # Many clips of few videos: windows overlap.
    flags = ("--videos", digit_videos, "--size", SIZE, "--stride", 4, "--val-fraction", 0.4)
    assert run_job("shard_videos", "--root", root, *flags).status == 0
    index = storage.read_json(f"{root}/clips/index.json")
    bundle = write_bundle(root / "ldm" / "base", index["classes"], size=SIZE)
    with start_run("train_ldm", Sample(root=str(root))) as run:
        registry.register(run, str(root), str(bundle))
        run.output(load_config(bundle)["fingerprint"])
    outcome = run_job("evaluate", "--root", root, *SMALL, *ALL)
    assert outcome.status == 0, outcome.stderr
    result = storage.read_json(f"{root}/eval/base/metrics.json")
    return Evaluated(str(root), outcome.stdout, result)


@pytest.mark.e2e
def test_everything_a_figure_depends_on_is_stated(evaluated: Evaluated) -> None:
    metrics, protocol = evaluated.result["metrics"], evaluated.result["protocol"]
    assert np.isfinite(list(metrics.values())).all()
    wanted = {"psnr", "ssim", "fvd_builtin", "floor/fvd_builtin", "kvd_builtin", "rfvd_builtin"}
    wanted |= {"infinity/fvd_builtin", "fvd_builtin_ci95", "nearest/samples", "nearest/close"}
    wanted |= {"samples/displacement_ratio", "speed/seconds_per_100_steps"}
    assert wanted <= metrics.keys()
    # An untrained model is far from real clips, and real ones are near each other.
    assert metrics["fvd_builtin"] > 3 * metrics["floor/fvd_builtin"]
    assert (protocol["samples"], protocol["real_clips"], protocol["sampling"]["seed"]) == (
        70,
        70,
        0,
    )
    assert len(protocol["detector"]["sha256"]) == 64
    assert "is" in evaluated.result["not_measured"]
    # Every video has a clip among the real ones: none is left to train a classifier on.
    assert "that it judges: lower --num-real" in evaluated.result["not_measured"]["accuracy"]
    assert not evaluated.result["published"]["comparable"]
    says = evaluated.figure.splitlines()
    assert "features of 70 real clips, and thumbnails of what is searched for copies" in says
    assert any(line.startswith("accuracy is not measured: ") for line in says)
    assert "PSNR" in evaluated.figure and "FVD by builtin" in evaluated.figure


@pytest.mark.e2e
def test_a_detector_of_ones_own(evaluated: Evaluated) -> None:
    flags = ("--root", evaluated.root, "--steps", 12, "--batch-size", 8, "--size", SIZE)
    outcome = run_job("train_detector", *flags)
    assert outcome.status == 0, outcome.stderr
    assert "there already, verified" in run_job("train_detector", *flags).figure
    assert "--overwrite" in run_job("train_detector", *flags, "--seed", 1).stderr
    more = ("--detector", "own", "--metrics", "fvd,is", "--repeats", 2, "--overwrite")
    more += ("--fps", 16)
    before = Path(evaluated.page).read_bytes(), storage.walk(f"{evaluated.root}/features")
    outcome = run_job("evaluate", "--root", evaluated.root, *SMALL, *ALL, *more)
    try:
        assert outcome.status == 0, outcome.stderr
        result = storage.read_json(f"{evaluated.root}/eval/base/metrics.json")
        assert {"fvd_own", "fvd_own_ci95", "is_own", "real/is_own"} <= result["metrics"].keys()
        assert 1 <= result["metrics"]["is_own"] <= 10
        assert result["estimates"]["fvd_own"]["repeats"] == 2
        assert result["protocol"]["classifier"]["name"] == "own"
        assert result["protocol"]["real_fps"] == result["protocol"]["fps"] == [16]
        assert result["protocol"]["real_clips"] == 70
    finally:
        Path(evaluated.page).write_bytes(before[0])
        storage.publish_json(evaluated.result, f"{evaluated.root}/eval/base/metrics.json")


@pytest.mark.e2e
def test_features_are_kept(evaluated: Evaluated) -> None:
    cached = storage.walk(f"{evaluated.root}/features")
    again = run_job("evaluate", "--root", evaluated.root, *SMALL, *ALL, "--overwrite")
    assert again.status == 0, again.stderr
    result = storage.read_json(f"{evaluated.root}/eval/base/metrics.json")
    stable = {k: v for k, v in result["metrics"].items() if not k.startswith("speed/")}
    assert stable == pytest.approx({name: evaluated.result["metrics"][name] for name in stable})
    assert storage.walk(f"{evaluated.root}/features") == cached  # nothing was extracted again


@pytest.mark.e2e
def test_what_does_not_compare_is_refused(evaluated: Evaluated) -> None:
    flags = ("--overwrite", "--fps", 12)
    outcome = run_job("evaluate", "--root", evaluated.root, *SMALL, *ALL, *flags)
    assert outcome.status == 2
    assert "real clips have 8, 16 frames a second" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.e2e
def test_the_report_in_a_browser(evaluated: Evaluated, browser) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda r: r.url.startswith("data:") or problems.append(r.url))
    tab.goto(Path(evaluated.page).as_uri())
    problems[:] = [each for each in problems if each != Path(evaluated.page).as_uri()]
    assert tab.inner_text("h1") == "Evaluation of ldm/base"
    assert "compare with others of the same clips only" in tab.inner_text("#verdict")
    assert "by builtin" in tab.inner_text("#figures")
    assert tab.locator("#published").count() == 0  # these clips are in no published table
    for word in ("this model", "real clips", "fvd_builtin", "psnr"):
        assert word in tab.inner_text("#metrics")
    assert evaluated.result["clips"] in tab.inner_text("#lineage")
    tab.get_by_text("Settings of this evaluation").click()
    assert '"num_samples": 70' in tab.inner_text("#settings")
    assert tab.locator("#samples .trio").count() == 10
    titles = tab.locator("#samples h3").all_inner_texts()
    assert sorted(titles) == sorted(DIGITS)
    rates = [text.split(", ")[1] for text in tab.locator("#samples figcaption").all_inner_texts()
             if ", " in text]  # fmt: skip
    assert rates[::2] == rates[1::2] and set(rates) == {"8 fps", "16 fps"}
    # A sample, a real clip of its class and its reconstruction; then the nearest clips.
    assert tab.locator("#samples video").count() == 30
    assert tab.locator("#nearest video").count() == 20
    for where in ("#samples video >> nth=0", "#samples video >> nth=29", "#nearest video >> nth=1"):
        tab.locator(where).scroll_into_view_if_needed()
        first = tab.locator(where).evaluate(PICTURE)
        assert first["size"] == [128, 128] and first["shown"] > 50
        tab.wait_for_function(
            f"async ([film, first]) => (await ({PICTURE})(film)).pixels !== first",
            arg=[tab.locator(where).element_handle(), first["pixels"]],
        )
    assert problems == []
    tab.close()


@pytest.mark.e2e
@pytest.mark.parametrize("width", [375, 1280])
def test_the_report_fits_the_screen(evaluated: Evaluated, browser, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 812})
    tab.goto(Path(evaluated.page).as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    beyond = tab.evaluate(
        "w => [...document.querySelectorAll('main *')].filter(e => !e.closest('pre') && "
        "e.getBoundingClientRect().right > w + 1).map(e => e.tagName + ' ' + e.textContent)",
        width,
    )
    assert beyond == []
    small = tab.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.textContent.trim() && "
        "parseFloat(getComputedStyle(e).fontSize) < 11).map(e => e.tagName)"
    )
    assert small == []
    # Metrics come first, and can be seen without scrolling.
    assert tab.locator("#figures").bounding_box()["y"] < 200
    tab.close()


@contextlib.contextmanager
def serving(command: list[str], port: int, log: Path) -> Iterator[str]:
    """A server that answers at its port, ended with its subprocesses."""
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + SERVER_TIMEOUT_S
    with (
        log.open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True) as server,
    ):
        try:
            while True:
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"{url}/health", timeout=5),
                ):
                    break
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 15)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 9)


def mlflow_command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("mlflow")), *arguments]


@pytest.mark.e2e
def test_the_champion_is_served(evaluated: Evaluated, tmp_path: Path) -> None:
    port, name = free_port(), registry.model_name(evaluated.root)
    command = mlflow_command("models", "serve", "-m", f"models:/{name}@champion")
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with serving(command, port, tmp_path / "serve.log") as url:
        asked = {
            "dataframe_records": [{"class": "zero", "fps": 8.0}, {"class": "six", "fps": 16.0}],
            "params": {"steps": 2, "seed": 3},
        }
        request = urllib.request.Request(
            f"{url}/invocations", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            videos = np.array(json.load(answer)["predictions"])
        # What makes no sense is refused in one line; test_registry.py has the others.
        request.data = json.dumps({"dataframe_records": [{"class": "ten", "fps": 8.0}]}).encode()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code == 400
        assert re.match("unknown class 'ten': [^\n]+$", json.load(refused.value)["message"])
    assert videos.shape == (2, 16, SIZE, SIZE, 3)
    from vqvdm import VideoGenerator

    generator = VideoGenerator.load(f"{evaluated.root}/ldm/base")
    expected = generator.sample(["zero"], fps=8.0, steps=2, seed=[(3, 0)])
    assert np.abs(videos[0] - expected[0].astype(int)).max() <= 1


@pytest.mark.e2e
@pytest.mark.slow  # MLflow's own pages take a minute or more to draw beside other work.
def test_mlflow_shows_runs_charts_and_videos(evaluated: Evaluated, browser, tmp_path: Path) -> None:
    port, uri = free_port(), tracking_uri()
    command = mlflow_command("ui", "--host", "127.0.0.1", "--port", str(port))
    command += ["--backend-store-uri", uri, "--workers", "1"]
    with serving(command, port, tmp_path / "ui.log") as url:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment
        (run, *_) = client.search_runs(
            [experiment.experiment_id],
            f"tags.root = '{evaluated.root}' and tags.stage = 'evaluate'",
        )
        tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        tab.set_default_timeout(45_000)
        home = f"{url}/#/experiments/{experiment.experiment_id}/runs"
        tab.goto(home)
        tab.get_by_role("link", name="evaluate").first.wait_for()
        tab.goto(f"{home}/{run.info.run_id}")
        for name in ("input.ldm", "input.clips", "input.ldm.run"):
            shown = tab.get_by_text(f"{name}: {run.data.tags[name]}")
            shown.or_(tab.get_by_text(name, exact=True)).first.wait_for()
        tab.goto(f"{home}/{run.info.run_id}/model-metrics")
        tab.get_by_text("fvd_builtin").first.wait_for()
        # A chart with something drawn in it.
        tab.locator(".js-plotly-plot :is(.barlayer, .scatterlayer) path").first.wait_for()
        tab.goto(f"{home}/{run.info.run_id}/artifacts")
        tab.get_by_text("comparison.gif").first.click()
        films = tab.locator("img[src*='comparison.gif'], img[src^='blob:']")
        films.first.wait_for()
        assert films.first.evaluate("film => [film.naturalWidth, film.naturalHeight]") == [
            8 * SIZE,
            3 * SIZE,
        ]
        tab.close()
