"""Requests to the sampler, and checks of its videos."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import sample as page
from pipelines.cluster.devices import Devices
from pipelines.io import lock, room, storage
from pipelines.sample import Request, grid_of, refuse_other, sample, verify_samples, wanted_classes
from pipelines.sampling.settings import Sample
from pipelines.sampling.worker import PublishingWorker, SampleBatch
from pipelines.video import Frames
from pipelines.video.encoder import decode_clip, encode_h264
from pipelines.video.grid import CAPTION
from tests.in_process_graphs import run_graphs_in_process
from tests.tiny import DENOISER, write_bundle
from vqvdm.diffusion.denoiser import described
from vqvdm.errors import UserError
from vqvdm.tokenizer.pixels import PIXELS

DIGITS = ["zero", "one", "seven"]


def test_wanted_classes_are_all_or_those_named() -> None:
    assert wanted_classes("all", DIGITS) == DIGITS
    assert wanted_classes("seven, zero", DIGITS) == ["seven", "zero"]
    assert wanted_classes("all", []) == [None]


def test_a_class_named_twice_is_sampled_once() -> None:
    assert wanted_classes("zero,one,zero", DIGITS) == ["zero", "one"]


@pytest.mark.parametrize(
    ("text", "in_turn", "wanted"),
    [
        ("salt,pepper", False, ["salt,pepper"]),
        ("zero, salt,pepper ,salt", False, ["zero", "salt,pepper", "salt"]),
        ("salt,salt,pepper", False, ["salt", "salt,pepper"]),
        ("zero:salt,pepper,salt:a:b:zero", True, ["zero:salt,pepper", "salt:a:b:zero"]),
        ("a:b,zero", False, ["a:b", "zero"]),
    ],
)
def test_names_of_classes_may_hold_commas_and_colons(
    text: str, in_turn: bool, wanted: list[str]
) -> None:
    known = ["zero", "salt", "salt,pepper", "a:b"]
    assert wanted_classes(text, known, in_turn) == wanted


def test_an_unknown_class_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="'sevn': did you mean 'seven'"):
        wanted_classes("zero,sevn", DIGITS)
    with pytest.raises(UserError, match="unconditional"):
        wanted_classes("zero", [])


def test_a_class_that_nothing_is_near_to_is_answered_with_those_that_exist() -> None:
    with pytest.raises(UserError) as caught:
        wanted_classes("cat", ["parrot", "boat"])
    assert str(caught.value) == "unknown class 'cat': Classes: parrot, boat"
    with pytest.raises(UserError, match=r"c00, .*c23 and 77 more$"):
        wanted_classes("cat", [f"c{i:02}" for i in range(101)])


def test_samples_of_other_settings_are_told_apart(tmp_path: Path) -> None:
    folder, before = str(tmp_path), Sample(steps=20, guidance=2.0).recipe()
    storage.publish_json({"settings": before, "ldm": "a"}, f"{folder}/settings.json")
    words = r"\(steps 20 → 12\): pass --overwrite to replace it, or another --output"
    with pytest.raises(UserError, match=words):
        refuse_other(Sample(steps=12), folder, "abc", "def", "a")
    with pytest.raises(UserError, match=r"\(base has been retrained\)"):
        refuse_other(Sample(steps=20), folder, "abc", "def", "b")
    (tmp_path / "settings.json").unlink()  # as samples of earlier versions
    with pytest.raises(UserError, match="other settings, from other input or by"):
        refuse_other(Sample(steps=12), folder, "abc", "def", "a")


def test_missing_and_changed_samples_are_named(tmp_path: Path) -> None:
    rows = []
    for number in range(3):
        content = str(number).encode()
        file = Request("zero", number, 8.0).file
        storage.publish_bytes(content, str(tmp_path / file))
        rows.append({"file": file, "sha256": hashlib.sha256(content).hexdigest()})
    verify_samples(str(tmp_path), rows)
    (tmp_path / "zero/00002.mp4").unlink()
    with pytest.raises(UserError, match=r"zero/00002\.mp4 is missing.*--overwrite"):
        verify_samples(str(tmp_path), rows)
    (tmp_path / "zero/00001.mp4").write_bytes(b"2")
    with pytest.raises(UserError, match=r"zero/00001\.mp4 .* changed"):
        verify_samples(str(tmp_path), rows)
    with pytest.raises(UserError, match=r"one/\.\./zero/00000\.mp4 is missing"):
        verify_samples(str(tmp_path), [rows[0] | {"file": "one/../zero/00000.mp4"}])


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    bundle = {
        "classes": DIGITS,
        "fingerprint": "abc",
        "latents": {"shape": [3, 16, 8, 8]},
        **described(DENOISER),
    }
    storage.publish_json(bundle, str(tmp_path / "ldm/base/config.json"))
    storage.publish_json({"model": PIXELS}, str(tmp_path / "ldm/base/vqgan/config.json"))
    config = Sample(root=str(tmp_path), num_per_class=5, classes="zero,one", dry_run=True)
    plan = sample(config)
    assert "10 videos of 2 classes" in plan
    assert [path.name for path in tmp_path.iterdir()] == ["ldm"]
    with pytest.raises(UserError, match="num-per-class"):
        sample(replace(config, num_per_class=0))
    with pytest.raises(UserError, match=r"ldm/other/config\.json.*train_ldm"):
        sample(replace(config, ldm="other"))


class InThisProcess:
    """Makes batches one after the other, and may be killed after some of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[int] = []
        self.killed_after: int | None = None
        monkeypatch.setattr(page, "make_batches", self)
        monkeypatch.setattr(page, "choose_devices", lambda request: Devices())

    def __call__(
        self, config: Sample, batches: Sequence[SampleBatch], devices: Devices
    ) -> Iterator[dict]:
        bundle = config.workspace.ldm(config.ldm)
        worker = PublishingWorker(bundle, config, "auto", devices, batches)
        for number, batch in enumerate(batches):
            if len(self.made) == self.killed_after:
                raise KeyboardInterrupt
            self.made += [request.number for request in batch.requests]
            yield worker({"batch": number})


@pytest.fixture
def quick_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    write_bundle(tmp_path / "ldm/base", classes=["a/b", ".."])
    return Sample(root=str(tmp_path), ldm="base", num_per_class=6, steps=1, batch_size=2, fps=8.0)


@pytest.mark.long
def test_only_samples_are_deleted_and_only_where_others_can_be_made(
    quick_sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch)
    few = replace(quick_sample, num_per_class=1)
    sample(few)
    before = listing(few)
    kept = tmp_path / "samples/base/favourites/notes.txt"
    storage.publish_bytes(b"mine", str(kept))
    for name in ("base/guided", ".."):
        with pytest.raises(UserError, match=r"is no name: it becomes a folder in .*/samples"):
            sample(replace(few, output=name))

    def lacks(request: object) -> Devices:
        raise UserError("no GPU")

    with monkeypatch.context() as patch:
        patch.setattr(page, "choose_devices", lacks)
        with pytest.raises(UserError, match="no GPU"):
            sample(replace(few, steps=2, overwrite=True))
    page.verify_samples(str(tmp_path / "samples/base"), before)
    sample(replace(few, steps=2, overwrite=True))
    assert listing(few) != before and kept.read_bytes() == b"mine"


def test_a_batch_whose_disk_was_full_is_made_again(
    quick_sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Worker:
        full = True

        def __init__(self, bundle: str, config: Sample, *_: object) -> None:
            self.batches: Sequence[SampleBatch] = _[-1]  # type: ignore[assignment]

        def __call__(self, row: dict) -> dict:
            if Worker.full:
                Worker.full = False
                with room.filling("/scratch", 1, room.SCRATCH_CURE):
                    raise OSError(errno.ENOSPC, "No space left on device")
            files = [{"file": each.file} for each in self.batches[row["batch"]].requests]
            return row | {"rows": json.dumps(files).encode()}

    monkeypatch.setattr(page, "PublishingWorker", Worker)
    run_graphs_in_process(monkeypatch)
    requests = [[Request("one", number, 8.0)] for number in (1, 2, 3)]
    batches = [SampleBatch("made", "recipe", tuple(each)) for each in requests]
    logged = SimpleNamespace(progress=lambda *_: None)
    rows = page.make_samples(quick_sample, batches, logged, Devices())  # type: ignore[arg-type]
    assert [row["file"][-5] for row in rows] == ["2", "3", "1"]


@pytest.mark.long
def test_a_job_that_was_killed_goes_on_where_it_stopped(
    quick_sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "samples/base"
    graph = InThisProcess(monkeypatch)
    assert sample(replace(quick_sample, output="undisturbed")).startswith("12 videos")
    graph.made, graph.killed_after = [], 4
    with pytest.raises(KeyboardInterrupt):
        sample(quick_sample)
    graph.killed_after = None
    changed = folder / "a%2Fb" / "00001.mp4"
    changed.write_bytes(b"another")
    graph.made = []
    sample(quick_sample)
    # The batch of the changed video, and the four that were not made yet.
    assert len(graph.made) == 2 + 8
    undisturbed = tmp_path / "samples/undisturbed"
    names = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    assert names == sorted(
        ["grid.gif", "samples.jsonl", "settings.json"]
        + [f"{label}/{number:05d}.mp4" for label in ("a%2Fb", "%2E%2E") for number in range(6)]
    )
    for name in names:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    graph.made = []
    assert "there already, verified" in sample(quick_sample) and not graph.made


@pytest.mark.long
def test_a_job_that_was_killed_at_its_picture_makes_no_video_again(
    quick_sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples are listed by then, and count."""
    folder, graph = tmp_path / "samples/base", InThisProcess(monkeypatch)
    few, make_picture = replace(quick_sample, num_per_class=1), page.grid_of

    def killed(*_: object) -> bytes:
        raise KeyboardInterrupt

    for config in (few, replace(few, overwrite=True)):
        monkeypatch.setattr(page, "grid_of", killed)
        with pytest.raises(KeyboardInterrupt):
            sample(config)
        assert len(listing(few)) == 2 and not (folder / "grid.gif").exists()
        monkeypatch.setattr(page, "grid_of", make_picture)
        assert graph.made == [0, 0]
        assert sample(config).startswith("2 videos, ") and graph.made == [0, 0]
        assert {path.name for path in folder.iterdir() if path.is_file()} == {
            "grid.gif",
            "samples.jsonl",
            "settings.json",
        }
        assert not list((folder / "batches").glob("*"))
        assert "there already, verified" in sample(few)
        graph.made = []
    # A picture that is gone is made again, and one of other samples does not stay.
    before = (folder / "grid.gif").read_bytes()
    (folder / "grid.gif").unlink()
    assert sample(few).startswith("2 videos, ") and graph.made == []
    assert (folder / "grid.gif").read_bytes() == before
    (folder / "samples.jsonl").unlink()
    monkeypatch.setattr(page, "grid_of", killed)
    with pytest.raises(KeyboardInterrupt):
        sample(replace(few, seed=1))
    assert not (folder / "grid.gif").exists()


@pytest.fixture
def going_on(quick_sample: Sample, tmp_path: Path) -> Sample:
    """A model that goes on from frames, and two videos to start from."""
    write_bundle(tmp_path / "ldm/going", known_frames=True)
    for folder, colour in (("seven", 40), ("other", 200)):
        write_file(tmp_path / f"given/{folder}/a.mp4", np.full((20, 48, 64, 3), colour, np.uint8))
    return replace(
        quick_sample, ldm="going", mode="predict", condition=f"{tmp_path}/given", num_per_class=2
    )


def write_file(path: Path, video: Frames, fps: float = 8.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_h264(video, fps))


def listing(config: Sample) -> list[dict]:
    return page.published_rows(config.workspace.samples(config.output or config.ldm))


@pytest.mark.long
def test_each_condition_is_gone_on_from_with_the_class_of_its_folder(
    going_on: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = InThisProcess(monkeypatch)
    assert sample(going_on).startswith("4 videos")
    folder = tmp_path / "samples/going"
    rows = listing(going_on)
    assert [(row["file"], row["class"], row["mode"], row["condition"]) for row in rows] == [
        ("seven/00002.mp4", "seven", "predict", "seven/a.mp4"),
        ("seven/00003.mp4", "seven", "predict", "seven/a.mp4"),
        ("unlabelled/00000.mp4", None, "predict", "other/a.mp4"),
        ("unlabelled/00001.mp4", None, "predict", "other/a.mp4"),
    ]
    assert not list((folder / "batches").glob("*"))
    video = decode_clip((folder / "seven/00002.mp4").read_bytes())
    assert video.shape == (16, 32, 32, 3)
    # The grid shows what was given, of the right size, then black, and what was made of it.
    with Image.open(folder / "grid.gif") as picture:
        assert (picture.size, picture.n_frames) == ((3 * 32, 2 * 32), 16)
        corners = []
        for frame in (0, 7, 8, 15):
            picture.seek(frame)
            shown = picture.convert("L")
            corners.append([shown.getpixel((16, 16)), shown.getpixel((16, 48))])
    assert np.allclose(corners[:2], [[200, 40]] * 2, atol=4) and corners[2:] == [[0, 0]] * 2
    graph.made = []
    assert "there already, verified" in sample(going_on) and not graph.made
    write_file(tmp_path / "given/seven/a.mp4", np.full((20, 48, 64, 3), 90, np.uint8))
    with pytest.raises(UserError, match="--overwrite"):
        sample(going_on)


def test_a_condition_of_another_class_makes_other_videos(
    going_on: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch)
    single = replace(going_on, condition=f"{tmp_path}/given/seven/a.mp4", num_per_class=1)
    sample(single)
    assert [row["class"] for row in listing(single)] == ["seven"]
    (tmp_path / "given/seven").rename(tmp_path / "given/zero")
    with pytest.raises(UserError, match="--overwrite"):
        sample(replace(single, condition=f"{tmp_path}/given/zero/a.mp4"))


@pytest.mark.long
def test_named_classes_are_made_of_every_condition(
    going_on: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch)
    config = replace(going_on, classes="zero,seven", num_per_class=1, mode="interpolate")
    sample(config)
    assert [(row["file"], row["condition"]) for row in listing(config)] == [
        ("seven/00000.mp4", "other/a.mp4"),
        ("seven/00001.mp4", "seven/a.mp4"),
        ("zero/00000.mp4", "other/a.mp4"),
        ("zero/00001.mp4", "seven/a.mp4"),
    ]


@pytest.mark.long
def test_longer_videos_pass_through_classes_with_or_without_a_condition(
    going_on: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch)
    config = replace(going_on, mode="extend", frames=32, classes="zero:seven,zero", num_per_class=1)
    free = replace(config, condition=None, output="free")
    for each in (config, free):
        sample(each)
        rows = listing(each)
        assert {row["class"] for row in rows} == {"zero:seven", "zero"}
        for row in rows:
            file = tmp_path / "samples" / (each.output or each.ldm) / row["file"]
            assert decode_clip(file.read_bytes()).shape == (32, 32, 32, 3)
    assert [row["condition"] for row in listing(free)] == [None, None]


def shape_of(config: Sample) -> tuple[int, ...]:
    """The shape of all videos of a folder of samples."""
    folder = config.workspace.samples(config.output or config.ldm)
    files = [Path(folder, row["file"]) for row in listing(config)]
    (shape,) = {decode_clip(file.read_bytes()).shape for file in files}
    return shape


def test_other_sizes_and_lengths_are_other_samples(
    quick_sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = InThisProcess(monkeypatch)
    config = replace(quick_sample, num_per_class=1)
    sample(config)
    assert shape_of(config) == (16, 32, 32, 3)
    graph.made = []
    assert "there already" in sample(replace(config, size=32)) and not graph.made
    with pytest.raises(UserError, match="size none → 48"):
        sample(replace(config, size=48))
    other = replace(config, size=48, frames=8, output="other")
    sample(other)
    assert shape_of(other) == (8, 48, 48, 3)
    with Image.open(Path(other.workspace.samples("other"), "grid.gif")) as picture:
        assert picture.n_frames == 8


def test_conditions_are_fitted_to_the_size(
    going_on: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch)
    for mode, frames in (("predict", None), ("extend", 24)):
        config = replace(going_on, size=48, mode=mode, frames=frames, output=mode)
        sample(config)
        assert shape_of(config) == (frames or 16, 48, 48, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition": None}, "--mode predict starts from .* pass --condition"),
        ({"mode": "generate"}, "--condition does not go with --mode generate"),
        ({"mode": "extend"}, "--mode extend needs --frames"),
        ({"mode": "extend", "frames": 20}, "frames is 20: .* give 16 or 24"),
        ({"mode": "extend", "frames": 16, "classes": "zero:seven"}, "classes in turn: 2"),
        ({"mode": "extend", "frames": 24, "classes": "zero:sevn"}, "did you mean 'seven'"),
        ({"frames": 32}, "--frames 32: --mode predict makes videos of 16; --mode extend makes"),
        ({"frames": 8}, "--frames 8: --mode predict makes videos of 16$"),
        ({"size": 40}, "size is 40: this model makes multiples of 16; give 32 or 48"),
        (
            {"mode": "generate", "condition": None, "frames": 32},
            "16 frames at once; use --mode extend",
        ),
        ({"mode": "generate", "condition": None, "frames": 6}, "frames is 6: .* give 4 or 8"),
        ({"ldm": "base"}, r"ldm/base was not trained .*train_ldm\.py --conditioning\.share 0\.5"),
        ({"known_frames": 6}, "--known-frames 6: going takes 1, 4, 8, 12"),
        ({"known_frames": 16}, "--known-frames 16: going takes"),
        ({"known_frames": 0}, "--known-frames must be at least 1"),
        ({"mode": "generate", "condition": None, "known_frames": 4}, "--known-frames counts"),
        ({"mode": "interpolate", "known_frames": 8}, "--known-frames 8: going takes 1, 4$"),
        ({"condition": "/nowhere"}, "--condition /nowhere: no video is there"),
        ({"fps": 1.0}, r"a\.mp4 has 3 frames at 1 fps, where 8 are wanted"),
    ],
)
def test_obvious_mistakes_are_told_in_a_line(
    going_on: Sample, monkeypatch: pytest.MonkeyPatch, changes: dict, message: str
) -> None:
    InThisProcess(monkeypatch)
    with pytest.raises(UserError, match=message) as told:
        sample(replace(going_on, **changes))
    assert "\n" not in str(told.value)


@pytest.mark.long
def test_what_is_no_video_is_told(
    going_on: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch)
    (tmp_path / "given/broken.mp4").write_bytes(b"not a video")
    told = r"--condition \S+/broken\.mp4 cannot be used \(unreadable"
    with pytest.raises(UserError, match=told):
        sample(going_on)
    (tmp_path / "given/broken.mp4").unlink()
    sample(going_on)
    before = listing(going_on)
    (tmp_path / "given/broken.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=told):
        sample(replace(going_on, overwrite=True))
    page.verify_samples(str(tmp_path / "samples/going"), before)  # nothing is lost
    (tmp_path / "given/broken.mp4").unlink()
    assert sample(replace(going_on, overwrite=True, steps=2)).startswith("4 videos")


@pytest.fixture
def prompted(quick_sample: Sample, tmp_path: Path) -> Sample:
    """A model that takes prompts, and goes on from frames."""
    pytest.importorskip("transformers")
    write_bundle(tmp_path / "ldm/told", known_frames=True, captioned=True)
    prompts = ("a red ball", "a blue ball")
    return replace(quick_sample, ldm="told", num_per_class=2, prompts=prompts)


@pytest.mark.long
def test_prompts_are_made_alone_and_of_named_classes(
    prompted: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = InThisProcess(monkeypatch)
    assert sample(prompted).startswith("4 videos")
    assert [(row["file"], row["class"], row["prompt"]) for row in listing(prompted)] == [
        ("unlabelled/00000.mp4", None, "a red ball"),
        ("unlabelled/00001.mp4", None, "a red ball"),
        ("unlabelled/00002.mp4", None, "a blue ball"),
        ("unlabelled/00003.mp4", None, "a blue ball"),
    ]
    with Image.open(tmp_path / "samples/told/grid.gif") as picture:
        assert picture.size == (2 * 32, 2 * (CAPTION + 32))  # a prompt a row, below its name
    graph.made = []
    assert "there already, verified" in sample(prompted) and not graph.made
    # The same ones in a file are the same samples, others are not.
    lines = "a red ball\n\n  a blue ball \n"
    (tmp_path / "prompts.txt").write_text(lines)
    from_file = replace(prompted, prompts=(), prompts_file=f"{tmp_path}/prompts.txt")
    assert "there already, verified" in sample(from_file) and not graph.made
    with pytest.raises(UserError, match=r"prompts .* → \[\"a green ball\"\]\): pass --overwrite"):
        sample(replace(prompted, prompts=("a green ball",)))
    both = replace(prompted, classes="seven", num_per_class=1, output="both")
    sample(both)
    assert [(row["file"], row["prompt"]) for row in listing(both)] == [
        ("seven/00000.mp4", "a red ball"),
        ("seven/00001.mp4", "a blue ball"),
    ]
    plain = replace(prompted, prompts=(), classes="seven", num_per_class=1, output="plain")
    sample(plain)
    assert "prompt" not in listing(plain)[0]
    videos = {row["sha256"] for each in (both, plain) for row in listing(each)}
    assert len(videos) == 3


def test_prompts_that_a_bundle_cannot_read_delete_no_samples(
    prompted: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch)
    few = replace(prompted, num_per_class=1, prompts=("a red ball",))
    sample(few)
    before = listing(few)
    (tmp_path / "ldm/told/text_encoder/model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"ldm/told lacks text_encoder/model\.safetensors, which re"
    ):
        sample(replace(few, steps=2, overwrite=True))
    page.verify_samples(str(tmp_path / "samples/told"), before)
    # Videos of classes need no text encoder.
    assert sample(replace(few, prompts=(), overwrite=True)).startswith("2 videos")


@pytest.mark.long
def test_prompts_go_with_frames_that_are_given(
    prompted: Sample, going_on: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch)
    given = {"mode": "predict", "condition": going_on.condition, "num_per_class": 1}
    config = replace(prompted, **given, output="going")
    sample(config)
    assert [(row["file"], row["condition"], row["prompt"]) for row in listing(config)] == [
        ("seven/00002.mp4", "seven/a.mp4", "a red ball"),
        ("seven/00003.mp4", "seven/a.mp4", "a blue ball"),
        ("unlabelled/00000.mp4", "other/a.mp4", "a red ball"),
        ("unlabelled/00001.mp4", "other/a.mp4", "a blue ball"),
    ]
    with Image.open(tmp_path / "samples/going/grid.gif") as picture:
        assert picture.size == (2 * 32, 4 * (CAPTION + 32))  # prompts above what was given and made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ("a red ball",)}, r"ldm/base was trained without captions, .*--text-encoder"),
        ({"prompts_file": "/nowhere.txt"}, r"--prompts-file /nowhere\.txt: no such file"),
        ({"prompts_file": "/dev/null"}, "--prompts-file /dev/null is empty: give a prompt a line"),
    ],
)
def test_mistakes_with_prompts_are_told_in_a_line(
    quick_sample: Sample, changes: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message) as told:
        sample(replace(quick_sample, **changes))
    assert "\n" not in str(told.value)


def test_modes_and_lengths_are_no_part_of_a_recipe_from_before() -> None:
    later = {"mode", "known_frames", "frames", "condition", "size", "prompts", "prompts_file"}
    assert not later & Sample().recipe().keys()
    assert Sample(mode="extend", frames=64).recipe() == Sample().recipe() | {
        "mode": "extend",
        "frames": 64,
    }


def test_the_grid_has_a_limit(tmp_path: Path) -> None:
    video = encode_h264(np.zeros((2, 8, 8, 3), np.uint8), 8.0)
    requests = [Request(f"c{label:02d}", number, 8.0) for label in range(50) for number in range(9)]
    for request in requests:
        storage.publish_bytes(video, str(tmp_path / request.file))
    with Image.open(io.BytesIO(grid_of(str(tmp_path), requests))) as picture:
        assert picture.size == (8 * 8, 13 * (CAPTION + 8))


def test_long_videos_are_shown_at_their_own_speed(tmp_path: Path) -> None:
    """Every third frame of 300, three times as long."""
    shades = np.arange(300).repeat(8 * 8 * 3).reshape(300, 8, 8, 3) * 200 // 300
    video = encode_h264(shades.astype(np.uint8), 10.0)
    requests = [Request(None, number, 10.0) for number in range(2)]
    for request in requests:
        storage.publish_bytes(video, str(tmp_path / request.file))
    with Image.open(io.BytesIO(grid_of(str(tmp_path), requests))) as picture:
        assert (picture.size, picture.n_frames) == ((2 * 8, 8), 100)
        assert picture.info["duration"] == 300
        for place in (0, 50, 99):
            picture.seek(place)
            shown = picture.convert("L").getpixel((12, 4))
            assert shown == pytest.approx(200 * 3 * place / 300, abs=6)


def test_the_rate_is_one_that_the_model_was_trained_at(capsys: pytest.CaptureFixture[str]) -> None:
    bundle: dict[str, Any] = {"fps": [8.0, 16.0]}
    assert Sample().for_model(bundle).rate == 16.0
    assert Sample().for_model({"fps": [8.0]}).rate == 8.0
    assert Sample(fps=24.0).for_model(bundle).rate == 24.0
    for fps in (None, 8.0, 16.001):
        page.tell_rate(Sample(fps=fps).for_model(bundle), bundle)
    assert not capsys.readouterr().out
    page.tell_rate(Sample(fps=24.0).for_model(bundle), bundle)
    said = capsys.readouterr().out
    assert said.startswith("note: ldm/base was trained on clips of 8, 16 frames a second")
    assert "asked for 24" in said and said.count("\n") == 1
    many = {"fps": [8.0, 30.0, 60.0], "rate_count": 200}
    page.tell_rate(Sample(fps=24.0).for_model(many), many)
    assert not capsys.readouterr().out
