"""One writer at a time, and locks that outlived their holders."""

import ast
import errno
import multiprocessing
import os
import time
import uuid
from pathlib import Path

import pytest

from pipelines.io import lock, storage, workspace
from pipelines.io.processes import born
from vqvdm.errors import UserError


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4().hex}/base"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.01)
    monkeypatch.setattr(lock, "STALE_S", 3.0)


def left_by(folder: str, **changes: object) -> None:
    storage.publish_json(lock._own_note("train_ldm") | changes, storage.join(folder, lock.NAME))


def test_the_second_is_refused_until_the_first_has_ended(folder: str) -> None:
    refused = pytest.raises(UserError, match=rf"process {os.getpid()} on .*another --name")
    with lock.writing(folder, "train_ldm"), refused:
        lock.writing(folder, "train_ldm").__enter__()
    with lock.writing(folder, "train_ldm") as owner:
        assert lock.still_held(folder, owner)
    assert storage.walk(folder) == []


def left_behind(folder: str, job: str, **changes: object) -> str:
    """The note of a reader that another process holds."""
    other = lock._own_note(job) | {"pid": os.getppid(), "born": born(os.getppid())} | changes
    uri = storage.join(folder, lock.READERS, f"{other['owner']}.json")
    storage.publish_json(other, uri)
    return uri


def test_a_writer_is_refused_while_others_read_and_they_while_it_writes(folder: str) -> None:
    with lock.reading("sample", folder), lock.reading("evaluate", folder):
        note = left_behind(folder, "sample")
        with pytest.raises(UserError, match=r"being read by sample, process \d+ on .*: wait"):
            lock.writing(folder, "train_ldm").__enter__()
        storage.delete(note)
    with lock.writing(folder, "train_ldm"):
        by = r"being written by another job \(train_ldm, process"
        with pytest.raises(UserError, match=by):
            lock.reading("sample", folder).__enter__()
    assert storage.walk(folder) == []


def test_readers_that_died_are_forgotten(folder: str) -> None:
    left_behind(folder, "sample", born="1")
    with lock.writing(folder, "train_ldm"):
        pass
    with lock.reading("evaluate", folder):
        pass
    assert storage.walk(folder) == []


def test_silent_readers_of_other_machines_are_waited_for_together(folder: str) -> None:
    for number in range(5):
        left_behind(folder, "sample", machine=f"another {number}")
    since = time.monotonic()
    with lock.writing(folder, "train_ldm"):
        assert 3 <= time.monotonic() - since < 6
    assert storage.walk(folder) == []


def test_a_long_reader_forgets_those_whose_machines_are_gone(folder: str) -> None:
    left_behind(folder, "sample", machine="gone")
    alive = left_behind(folder, "sample", machine="alive")
    with lock.reading("evaluate", folder):
        time.sleep(lock.STALE_S + 0.1)
        storage.publish_json(storage.read_json(alive) | {"beats": 1}, alive)
    assert [file.uri for file in storage.walk(folder)] == [alive]


def test_what_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "makedirs", refuse)
    with lock.reading("sample", str(tmp_path)):
        pass


def test_to_read_a_folder_that_is_not_there_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with lock.reading("sample", "clips", f"{tmp_path}/ldm/base"):
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_a_process_that_died_is_taken_at_once(folder: str) -> None:
    child = multiprocessing.get_context("spawn").Process(target=os.getpid)
    child.start()
    left_by(folder, pid=child.pid, born="1")  # another process of that number
    with lock.writing(folder, "train_ldm"):
        pass
    child.join()
    left_by(folder, pid=child.pid, born="1")
    with lock.writing(folder, "train_ldm"):
        pass


def test_a_silent_lock_of_another_machine_is_taken_after_a_while(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    left_by(folder, machine="another", host="node7")
    with lock.writing(folder, "train_ldm"):
        assert "on node7: waiting" in capsys.readouterr().out


def test_a_renewed_lock_of_another_machine_is_respected(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    with lock.writing(folder, "train_ldm"):
        monkeypatch.setattr(lock, "machine", lambda: "another")  # who asks sits elsewhere
        with pytest.raises(UserError, match="another job"):
            lock.writing(folder, "train_ldm").__enter__()


def test_whoever_wrote_last_of_two_at_once_has_it(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.time, "sleep", lambda _: left_by(folder, owner="the other"))
    with pytest.raises(UserError, match="same time"):
        lock.writing(folder, "train_ldm").__enter__()
    found = workspace.published(folder, lock.NAME)
    assert found is not None
    assert found["owner"] == "the other"


def test_a_lock_that_was_taken_over_is_left_to_its_new_holder(folder: str) -> None:
    with lock.writing(folder, "train_ldm") as owner:
        left_by(folder, owner="another")
        assert not lock.still_held(folder, owner)
    assert not lock.still_held(folder, owner)


def test_a_job_whose_place_was_taken_stops(folder: str) -> None:
    lock.refuse_taken(folder)
    with lock.writing(folder, "train_ldm"):
        lock.refuse_taken(folder)
        storage.delete(storage.join(folder, lock.NAME))  # By its user: nobody took it.
        lock.refuse_taken(folder)
        left_by(folder, owner="another")
        with pytest.raises(UserError, match="another job has taken over"):
            lock.refuse_taken(folder)
    assert workspace.published(folder, lock.NAME)["owner"] == "another"


def test_a_job_that_was_suspended_while_another_came_and_went(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is gone, as that of the other is: it must not take it for its own."""
    monkeypatch.setattr(lock, "BEAT_S", 2.0)
    with lock.writing(folder, "train_ldm") as owner:
        now = time.time
        monkeypatch.setattr(lock.time, "time", lambda: now() + lock.STALE_S + 1)
        storage.delete(storage.join(folder, lock.NAME))
        time.sleep(2.5)  # Nor is it renewed.
        assert not lock.still_held(folder, owner)
        with pytest.raises(UserError, match="another job has taken over"):
            lock.refuse_taken(folder)
    assert storage.walk(folder) == []


CHANGES = ("keep_only", "publish_json", "publish_bytes", "publish_file")


def calls_in(function: ast.FunctionDef) -> list[str]:
    """Functions of modules that a function calls, as `lock.writing`, in order of lines."""
    found = [
        (node.lineno, f"{node.func.value.id}.{node.func.attr}")
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
    ]
    return [name for _, name in sorted(found)]


def test_every_job_asks_before_it_deletes_or_publishes() -> None:
    """In a module that takes a lock, whatever deletes or publishes asks for it first."""
    pipelines = Path(lock.__file__).parents[1]
    checked = set()
    for path in pipelines.rglob("*.py"):
        if path == Path(lock.__file__) or "lock.writing(" not in (text := path.read_text()):
            continue
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef):
                calls = calls_in(function)
                changes = [calls.index(f"storage.{n}") for n in CHANGES if f"storage.{n}" in calls]
                if changes:
                    asked = "lock.refuse_taken" in calls[: min(changes)]
                    assert asked, f"{path.name}: {function.name} does not ask lock.refuse_taken"
                    checked.add(path.stem)
    jobs = {"shard_videos", "encode_latents", "sample", "evaluate", "sweep", "train_detector"}
    assert checked >= jobs | {"stage"}


def test_a_lock_that_this_process_could_not_remove_is_taken_at_once(folder: str) -> None:
    left_by(folder)  # Storage was away when its job ended; the process, a notebook say, lives on.
    with lock.writing(folder, "train_ldm") as owner:
        assert lock.still_held(folder, owner)
    assert storage.walk(folder) == []


def test_a_node_that_does_not_see_the_lock_says_so(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SEEN_S", 0.0)
    with lock.writing(folder, "train_ldm") as owner:
        lock.refuse_unseen(folder, owner)
        for elsewhere, who in ((folder, "another"), (f"{folder}-of-this-node", owner)):
            with pytest.raises(UserError, match=r"does not see the lock .*not shared .*s3://"):
                lock.refuse_unseen(elsewhere, who)


def test_a_worker_looks_for_the_lock_once(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task must not cost a request."""
    read, reads = storage.read_json, list[str]()
    monkeypatch.setattr(lock, "SEEN_S", 0.0)
    with lock.writing(folder, "sample") as owner:
        monkeypatch.setattr(storage, "read_json", lambda uri: reads.append(uri) or read(uri))
        for _ in range(3):
            lock.refuse_unseen_once(folder, owner)
        assert len([uri for uri in reads if uri.endswith(lock.NAME)]) == 1
        for _ in range(2):
            with pytest.raises(UserError, match="not shared"):
                lock.refuse_unseen_once(folder, "another")
