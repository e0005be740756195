"""One writer at a time, and the locks of dead holders."""

import multiprocessing
import os
import uuid
from pathlib import Path

import pytest

from pipelines.io import lock, storage, workspace
from vqvdm.errors import UserError


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4().hex}/base"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.01)
    monkeypatch.setattr(lock, "STALE_S", 3.0)


def left_by(folder: str, **changes: object) -> None:
    storage.publish_json(lock._own_lock() | changes, storage.join(folder, lock.NAME))


def test_the_second_is_refused_until_the_first_has_ended(folder: str) -> None:
    refused = pytest.raises(UserError, match=rf"process {os.getpid()} on .*another --name")
    with lock.locked(folder), refused:
        lock.locked(folder).__enter__()
    with lock.locked(folder) as owner:
        assert lock.still_held(folder, owner)
    assert storage.walk(folder) == []


def test_a_lock_of_a_process_that_died_is_taken_at_once(folder: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    left_by(folder, pid=process.pid, born="1")  # another process of that number
    with lock.locked(folder):
        pass
    process.join()
    left_by(folder, pid=process.pid, born="1")
    with lock.locked(folder):
        pass


def test_a_silent_lock_of_another_machine_is_taken_after_a_while(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    left_by(folder, machine="another", host="node7")
    with lock.locked(folder):
        assert "on node7: waiting" in capsys.readouterr().out


def test_a_renewed_lock_of_another_machine_is_respected(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    with lock.locked(folder):
        monkeypatch.setattr(lock, "_machine", lambda: "another")  # as on another machine
        with pytest.raises(UserError, match="another job"):
            lock.locked(folder).__enter__()


def test_of_two_at_the_same_moment_the_last_to_write_holds_it(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.time, "sleep", lambda _: left_by(folder, owner="the other"))
    with pytest.raises(UserError, match="same time"):
        lock.locked(folder).__enter__()
    found = workspace.published(folder, lock.NAME)
    assert found is not None
    assert found["owner"] == "the other"


def test_a_lock_that_was_taken_over_is_left_to_its_new_holder(folder: str) -> None:
    with lock.locked(folder) as owner:
        left_by(folder, owner="another")
        assert not lock.still_held(folder, owner)
    assert not lock.still_held(folder, owner)


def test_a_lock_that_this_process_could_not_remove_is_taken_at_once(folder: str) -> None:
    left_by(folder)  # As if storage did not answer when the job ended, and its process still runs.
    with lock.locked(folder) as owner:
        assert lock.still_held(folder, owner)
    assert storage.walk(folder) == []
