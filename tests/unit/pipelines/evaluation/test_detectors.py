"""Names and URIs of detectors, and the errors for missing or wrong files."""

from pathlib import Path

import pytest
import torch

from pipelines.evaluation import detectors as detector_files
from pipelines.evaluation.detectors import DetectorFile, find_detector
from pipelines.io import storage
from pipelines.io.workspace import Workspace
from tests.unit.vqvdm.metrics.test_detectors import Both, saved
from vqvdm.errors import UserError


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "file"), [("i3d", "i3d_torchscript.pt"), ("c3d", "c3d_ucf101.pt")]
)
def test_a_missing_file_and_its_place_are_named(space: Workspace, name: str, file: str) -> None:
    with pytest.raises(UserError, match=f"{space.root}/detectors/{file} is missing: download"):
        find_detector(name, space)


def test_a_published_detector_is_found_in_its_place(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "detectors").mkdir()
    path = saved(tmp_path / "detectors" / "i3d_torchscript.pt", Both())
    monkeypatch.setitem(detector_files.SHA256, "i3d", storage.sha256(str(path)))
    found = find_detector("i3d", space)
    assert (found.name, found.uri) == ("i3d", str(path))
    assert found.sha256 == storage.sha256(str(path))
    assert find_detector(str(path), space) == found
    assert find_detector(f"i3d#sha256={found.sha256}", space) == found
    assert found.load().sha256 == found.sha256
    path.rename(tmp_path / "renamed.pt")
    assert find_detector(str(tmp_path / "renamed.pt"), space).name == "i3d"


def test_only_the_published_file_is_called_i3d(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "detectors").mkdir()
    path = saved(tmp_path / "detectors" / "i3d_torchscript.pt", Both())
    for text in ("i3d", str(path)):
        found = find_detector(text, space)
        assert found.name == "i3d_torchscript"
        assert found.description == (
            "not the published i3d_torchscript.pt, whose sha256 is "
            "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
        )


def test_another_checksum_is_refused(space: Workspace, tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pt", Both())
    with pytest.raises(UserError, match="not 00ff: download it again"):
        find_detector(f"{path}#sha256=00ff", space)
    found = find_detector(str(path), space)
    saved(path, Both().half())
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match="has sha256"):
        found.load()


def test_the_wrong_i3d_is_recognised(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "detectors").mkdir()
    torch.save(Both().state_dict(), tmp_path / "i3d_rgb_imagenet.pt")
    with pytest.raises(UserError, match="the wrong I3D"):
        find_detector(str(tmp_path / "i3d_rgb_imagenet.pt"), space)
    torch.save(Both().state_dict(), tmp_path / "detectors" / "i3d_torchscript.pt")
    with pytest.raises(UserError, match="no TorchScript but a state dict"):
        find_detector("i3d", space)


def test_a_detector_trained_here(space: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run jobs/train_detector\.py --name own"):
        find_detector("own", space)
    (tmp_path / "detectors" / "own").mkdir(parents=True)
    path = saved(tmp_path / "detectors" / "own" / "detector.pt", Both())
    config = {"sha256": storage.sha256(str(path)), "classes": ["a", "b"]}
    storage.publish_json(config, f"{space.detector('own')}/config.json")
    found = find_detector("own", space)
    assert (found.name, found.classes) == ("own", ("a", "b"))
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="has sha256"):
        find_detector("own", space)


def test_figures_of_the_builtin_are_labelled(space: Workspace) -> None:
    assert "not comparable with published figures" in find_detector("builtin", space).description


def test_a_node_that_lacks_the_file_says_so(space: Workspace, tmp_path: Path) -> None:
    found = DetectorFile("own", str(tmp_path / "own.pt"), "sum")
    with pytest.raises(UserError, match=r"own\.pt: no such file on .* all nodes find it"):
        found.load()
