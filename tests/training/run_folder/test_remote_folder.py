"""A run's folder in an object store: complete or absent after any failure, and one process at a time."""

import pathlib
import threading
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from jaxft.errors import UserError
from jaxft.parallel import processes
from jaxft.training.run_folder import remote_folder
from jaxft.training.run_folder.remote_folder import fetch_run, local_folder


@pytest.fixture
def address():
    return f"memory://{uuid.uuid4().hex}/runs/a"


def save_step(folder, name, content="x"):
    """Makes a step as orbax does: under another name, which is renamed when all is there."""
    temporary = folder / f"{name}.orbax-checkpoint-tmp"
    (temporary / "state/d").mkdir(parents=True)
    (temporary / "state/d/data").write_text(content)
    (temporary / "state/manifest").write_text(name)
    temporary.rename(folder / name)


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def stored(address):
    store = fsspec.filesystem("memory")
    root = store._strip_protocol(address)
    return {path.removeprefix(f"{root}/") for path in store.find(root)}


def test_a_run_comes_back_as_it_was_and_old_steps_go(address):
    with local_folder(address) as folder:
        (folder / "config.json").write_text("{}")
        (folder / "model").mkdir()
        (folder / "model/labels.json").write_text("[]")
        (folder / "cache").mkdir()
        (folder / "cache/big").write_text("x")
        (folder / "summary.json.tmp").write_text("half")
        for step in ("2", "4"):
            save_step(folder, f"checkpoints/{step}", step)
        save_step(folder, "best/2")
        (folder / "checkpoints/6.orbax-checkpoint-tmp").mkdir()
        (folder / "checkpoints/6.orbax-checkpoint-tmp/half").write_text("x")
        before = tree(folder)
    names = stored(address)
    assert not any("tmp" in name or name.startswith("cache") for name in names)
    with local_folder(address) as folder:
        local_only = {"cache/big", "summary.json.tmp", "checkpoints/6.orbax-checkpoint-tmp/half"}
        assert tree(folder) == {name: text for name, text in before.items() if name not in local_only}
        save_step(folder, "checkpoints/6", "6")
        (folder / "checkpoints/2/state/d/data").unlink()
        (folder / "checkpoints/2/state/manifest").unlink()
        (folder / "checkpoints/2/state/d").rmdir()
        (folder / "checkpoints/2/state").rmdir()
        (folder / "checkpoints/2").rmdir()
    steps = {name.split("/")[1] for name in stored(address) if name.startswith("checkpoints/")}
    assert steps == {"4", "6"}
    copy = fetch_run(address)
    assert set(tree(copy)) == {
        "config.json",
        "model/labels.json",
        "best/2/state/d/data",
        "best/2/state/manifest",
    }


def fails_after(monkeypatch, count):
    """Makes the store fail for ever after `count` objects."""
    left = iter(range(count))
    put_file = MemoryFileSystem.put_file

    def put(self, *args, **options):
        if next(left, None) is None:
            raise OSError("no route to the store")
        return put_file(self, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put)


@pytest.mark.parametrize("objects", range(6))
def test_wherever_an_upload_ends_no_step_is_half_there(objects, address, monkeypatch):
    """And a checkpoint is there only with the best weights that it names; all files are kept on this machine."""
    monkeypatch.setattr(remote_folder.time, "sleep", lambda _: None)
    with local_folder(address) as folder:
        (folder / "config.json").write_text("{}")
    with monkeypatch.context() as broken:
        with pytest.raises(
            UserError, match=f"{address} cannot be written: .*; the run's files are kept in (.*)"
        ) as error:
            with local_folder(address) as folder:
                save_step(folder, "best/2")
                save_step(folder, "checkpoints/2")
                (folder / "metrics.jsonl").write_text("{}")
                (folder / "summary.json").write_text("{}")
                fails_after(broken, objects)
    kept = remote_folder.Path(str(error.value).rpartition(" in ")[2])
    assert (kept / "checkpoints/2/state/manifest").read_text() == "checkpoints/2"
    with local_folder(address) as folder:
        steps = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("state")}
        assert steps == ({"best/2"} if objects >= 2 else set()) | (
            {"checkpoints/2"} if objects >= 4 else set()
        )
        for step in steps:
            assert set(tree(folder / step)) == {"state/d/data", "state/manifest"}
    assert (
        not any(name.startswith("best/") for name in stored(address)) or objects >= 2
    )  # half a step was removed


@pytest.mark.parametrize("moment", ["state/d/data", "state/manifest"])
def test_a_step_that_the_run_removes_during_its_upload_is_not_there(moment, address, monkeypatch):
    """An old checkpoint is removed file by file, while a thread uploads it."""
    put_file = MemoryFileSystem.put_file

    def put(self, local, remote, **options):
        if local.endswith(moment):
            manifest = pathlib.Path(local.rpartition("/checkpoints/2/")[0]) / "checkpoints/2/state/manifest"
            manifest.unlink(missing_ok=True)
        return put_file(self, local, remote, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    with local_folder(address) as folder:
        (folder / "config.json").write_text("{}")
        save_step(folder, "checkpoints/2")
    assert "checkpoints/2/file_list.json" not in stored(address)


def test_a_run_that_is_started_elsewhere_stops_uploading(address):
    with pytest.raises(UserError, match=f"--workdir {address}: another process trains in it since"):
        with local_folder(address) as first:
            (first / "config.json").write_text("first")
            with local_folder(address) as second:
                (second / "config.json").write_text("second")
            (first / "metrics.jsonl").write_text("{}")
    assert fsspec.filesystem("memory").cat_file(f"{address}/config.json") == b"second"
    assert "metrics.jsonl" not in stored(address)


def test_a_start_loses_no_step_of_the_process_before_it(address, monkeypatch):
    """The process before it goes on for a while: it replaces a step while the new one copies, and uploads another."""
    with local_folder(address) as folder:
        (folder / "config.json").write_text("{}")
        save_step(folder, "checkpoints/12")
    copy = remote_folder.copy_files

    def copy_slowly(files, root, target, names):
        if "checkpoints" in root:
            files.rm(root, recursive=True)  # by the process before, which then saves a newer one
            newer = f"{root.rpartition('/')[0]}/14"
            files.pipe_file(f"{newer}/state", b"x")
            files.pipe_file(f"{newer}/{remote_folder.FILE_LIST}", b'["state"]')
        copy(files, root, target, names)

    monkeypatch.setattr(remote_folder, "copy_files", copy_slowly)
    with local_folder(address) as folder:
        assert not (folder / "checkpoints/12").exists()  # not half of it
        monkeypatch.setattr(remote_folder, "copy_files", copy)
    assert {name for name in stored(address) if "14" in name} == {
        "checkpoints/14/state",
        f"checkpoints/14/{remote_folder.FILE_LIST}",
    }


def test_new_files_are_uploaded_while_the_run_goes_on(address, monkeypatch):
    monkeypatch.setattr(remote_folder, "INTERVAL", 0.01)
    with local_folder(address) as folder:
        (folder / "config.json").write_text("{}")
        save_step(folder, "checkpoints/2")
        waited = threading.Event()
        for _ in range(500):
            if "checkpoints/2/file_list.json" in stored(address):
                break
            waited.wait(0.01)
        else:
            pytest.fail("nothing was uploaded")


def test_an_error_of_the_run_is_not_hidden_and_names_the_address(address, monkeypatch, capsys):
    monkeypatch.setattr(remote_folder.time, "sleep", lambda _: None)
    with pytest.raises(UserError, match=f"^{address}/checkpoints: every checkpoint is damaged$"):
        with local_folder(address) as folder:
            fails_after(monkeypatch, 0)
            (folder / "metrics.jsonl").write_text("{}")
            raise UserError(f"{folder}/checkpoints: every checkpoint is damaged")
    assert "the run's files are kept in" in capsys.readouterr().out


def test_folders_of_others_and_several_processes_are_refused(address, monkeypatch):
    fsspec.filesystem("memory").pipe_file(f"{address}/photos/cat.png", b"x")
    with pytest.raises(UserError, match="holds files but no jaxft run"):
        with local_folder(address):
            pytest.fail("opened")
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(UserError, match="name a folder that all hosts share"):
        with local_folder(address):
            pytest.fail("opened")
