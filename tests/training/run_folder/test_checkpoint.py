"""Checkpoints: what was saved comes back to the bit, damage anywhere is found, a full disk costs one save."""

import contextlib
import re
import resource
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.training.run_folder import checkpoint
from jaxft.training.run_folder.checkpoint import RunCheckpoints
from jaxft.training.run_folder.tree_digest import digest_tree


def tree(step: int, size: int = 2000) -> dict:
    key = jax.random.key(step)
    return {
        "step": jnp.int32(step),
        "backbone/kernel": jax.random.normal(key, (size, 3)),
        "head/bias": jax.random.normal(key, (5,)).astype(jnp.bfloat16),
    }


def abstract(_=None, size: int = 2000) -> dict:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree(0, size))


def same(a, b) -> bool:
    return all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a) and a.keys() == b.keys()


@pytest.fixture
def log_lines():
    return []


@pytest.fixture
def saved(tmp_path, log_lines):
    """A folder with checkpoints 1 and 2."""
    checkpoints = RunCheckpoints(tmp_path / "checkpoints", keep=2, log=log_lines.append)
    for step in (1, 2):
        checkpoints.save(step, tree(step), {"progress": {"best": 0.1 + 0.2, "labels": ["O", "B-X"]}})
    checkpoints.close()
    return checkpoints.folder


def restore(folder, log, **options):
    checkpoints = RunCheckpoints(folder, keep=2, log=log, **options)
    try:
        return checkpoints.restore(abstract)
    finally:
        checkpoints.close()


@pytest.mark.parametrize("file_size", [checkpoint.FILE_SIZE, 1 << 14])
def test_a_donated_state_is_saved_as_it_was(file_size, tmp_path, log_lines, monkeypatch):
    """In one file, and in several, which cut arrays."""
    monkeypatch.setattr(checkpoint, "FILE_SIZE", file_size)
    step = jax.jit(lambda t: jax.tree.map(lambda x: x * 3 + 1, t), donate_argnums=0)
    state = tree(1, size=100_000)
    checkpoints = RunCheckpoints(tmp_path / "checkpoints", keep=2, log=log_lines.append)
    for number in (1, 2, 3):
        expected = jax.tree.map(lambda x: np.array(x, copy=True), state)
        checkpoints.save(number, state, {"number": number, "x": float("nan")})
        for _ in range(5):  # while the save is under way
            state = step(state)
    checkpoints.wait()
    restored_step, actual, meta = checkpoints.restore(lambda _: abstract(size=100_000))
    checkpoints.close()
    assert (restored_step, meta["number"]) == (3, 3) and same(actual, expected)
    assert checkpoints.steps() == [2, 3] and log_lines == []
    files = [path for path in (checkpoints.folder / "3/state").rglob("d/*") if path.stat().st_size > 1 << 13]
    assert (len(files) > 4) == (file_size == 1 << 14)


def test_any_flipped_bit_changes_the_digest():
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int32):
        x = np.array(jax.random.normal(jax.random.key(0), (300,)) * 100).astype(dtype)
        before = int(digest_tree([jnp.asarray(x)])[0])
        bits = x.view(f"uint{8 * x.dtype.itemsize}")
        for position in (0, 1, 17, 299):
            for bit in range(8 * x.dtype.itemsize):
                bits[position] ^= 1 << bit
                assert int(digest_tree([jnp.asarray(x)])[0]) != before
                bits[position] ^= 1 << bit


def test_damage_to_any_file_is_found_or_harmless(saved, tmp_path, log_lines):
    """A bit flipped in, or the end cut off, each file of the newest checkpoint: never a silently wrong state."""
    _, _, meta = restore(saved, log_lines.append)
    used = set()
    for path in sorted(p.relative_to(saved) for p in (saved / "2").rglob("*") if p.is_file()):
        for damage in ("flip", "cut", "empty", "remove"):
            copy = tmp_path / "copy"
            shutil.copytree(saved, copy)
            content = bytearray((copy / path).read_bytes())
            if damage == "flip" and content:
                content[len(content) // 2] ^= 4
            (copy / path).write_bytes(content if damage == "flip" else content[: len(content) // 2])
            if damage == "empty":
                (copy / path).write_bytes(b"")
            elif damage == "remove":
                (copy / path).unlink()
            log_lines.clear()
            step, restored, restored_meta = restore(copy, log_lines.append)
            assert same(restored, tree(step)) and restored_meta == meta, (path, damage)
            if step == 1:
                assert any(f"checkpoint {copy / '2'} is damaged" in line for line in log_lines), (
                    path,
                    damage,
                )
                assert (tmp_path / "copy.damaged/2").is_dir()  # kept for whoever wants to look
                used.add(path.parts[1])
            for folder in (copy, tmp_path / "copy.damaged"):
                shutil.rmtree(folder, ignore_errors=True)
    assert used >= {"state", "meta"}


DAMAGED_AMONG_MANY = """
import gc, pathlib, sys
import jax
from jaxft.training.run_folder.abandoned_work import quiet_orbax
from jaxft.training.run_folder.checkpoint import RunCheckpoints

quiet_orbax()
tree = {f"p{i}": jax.random.normal(jax.random.key(i), (300, 100)) for i in range(60)}
checkpoints = RunCheckpoints(pathlib.Path(sys.argv[1]), keep=None, log=print)
for step in range(9):
    checkpoints.save(step, tree, {})
checkpoints.wait()
for path in checkpoints.folder.glob("[1-8]/state/**/d/*"):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in tree.items()}
print("step", checkpoints.restore(lambda _: abstract)[0])
checkpoints.close()
gc.collect()
"""


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "5",
        "[]",
        '{"metrics": []}',
        '{"commit_timestamp_nsecs": "x"}',
        '{"x": 1, "y": 1}',
        "[" * 9999,
    ],
)
def test_damaged_notes_of_orbax_cost_no_checkpoint(content, saved, log_lines):
    """Orbax could not even list the checkpoints; its notes are not needed to read one."""
    notes = saved / "2" / checkpoint.NOTES
    if content is None:
        notes.unlink()
        notes.mkdir()
    else:
        notes.write_text(content)
    with pytest.raises(UserError, match=f"{notes}: damaged, and not needed .*; remove the file"):
        restore(saved, log_lines.append, read_only=True)
    step, restored, _ = restore(saved, log_lines.append)
    assert step == 2 and same(restored, tree(2))
    assert any(f"{notes} is damaged and was renamed" in line for line in log_lines)
    assert restore(saved, log_lines.append, read_only=True)[0] == 2


def test_damage_is_one_line_without_the_traces_of_orbax_threads(python, environment, tmp_path):
    done = subprocess.run(
        [*python, "-c", DAMAGED_AMONG_MANY, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    *warnings, step = done.stdout.splitlines()
    assert len(warnings) == 8 and step == "step 0"
    for warning in warnings:
        assert re.fullmatch(r"warning: checkpoint \S+ is damaged \(.+\); trying the one before", warning)
        assert "details: <bound method" not in warning
    assert done.stderr == "" and done.returncode == 0


def test_where_all_are_damaged_nothing_is_removed(saved, log_lines):
    for step in ("1", "2"):
        for path in (saved / step).rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:20])

    def files() -> list[str]:
        return sorted(str(path).removesuffix(".damaged") for path in saved.rglob("*"))

    before = files()
    for _ in range(2):
        with pytest.raises(UserError, match=r"every checkpoint is damaged \(1, 2\); remove the folder"):
            restore(saved, log_lines.append)
    assert files() == before


def test_a_checkpoint_of_another_run_is_refused_not_taken_for_damaged(saved, log_lines):
    def other(_):
        raise UserError("other labels")

    checkpoints = RunCheckpoints(saved, keep=2, log=log_lines.append)
    with pytest.raises(UserError, match="other labels"):
        checkpoints.restore(other)
    assert checkpoints.steps() == [1, 2] and log_lines == []
    checkpoints.close()


def test_reading_leaves_a_save_under_way_alone(saved, log_lines):
    unfinished = saved / "3.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert restore(saved, log_lines.append, read_only=True)[0] == 2
    assert unfinished.is_dir()
    assert restore(saved, log_lines.append)[0] == 2
    assert not unfinished.exists()  # left by a run that was killed


@contextlib.contextmanager
def no_room(file_bytes: int):
    """No file of this process may grow past `file_bytes`, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_is_not_filled(saved, log_lines, monkeypatch):
    disk = shutil.disk_usage(saved)
    checkpoints = RunCheckpoints(saved, keep=2, log=log_lines.append)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk._replace(free=20_000))
    checkpoints.save(3, tree(3), {})
    assert (
        "checkpoint 3 could not be saved" in log_lines[0]
        and "earlier checkpoints are kept: [1, 2]" in log_lines[0]
    )
    assert "(it takes 0.0 MiB, the disk has 0.0 MiB left)" in log_lines[0]
    assert sorted(p.name for p in saved.iterdir()) == ["1", "2"]
    monkeypatch.undo()
    checkpoints.save(4, tree(4), {})
    checkpoints.close()
    assert checkpoints.steps() == [2, 4] and len(log_lines) == 1


def test_with_one_checkpoint_to_keep_there_is_always_one(tmp_path, log_lines):
    """The old one goes when the new one is complete, not before."""
    checkpoints = RunCheckpoints(tmp_path / "checkpoints", keep=1, log=log_lines.append)
    checkpoints.save(1, tree(1), {})
    checkpoints.wait()
    with no_room(4000):
        checkpoints.save(2, tree(2), {})
        checkpoints.wait()
    assert checkpoints.steps() == [1] and "earlier checkpoints are kept: [1]" in log_lines[0]
    checkpoints.save(3, tree(3), {})
    checkpoints.close()
    assert checkpoints.steps() == [3] and same(restore(checkpoints.folder, print)[1], tree(3))


def test_a_full_disk_costs_the_save_and_nothing_else(saved, log_lines):
    checkpoints = RunCheckpoints(saved, keep=2, log=log_lines.append)
    with no_room(4000):
        for step in (3, 4, 5):
            checkpoints.save(step, tree(step), {})
            checkpoints.wait()
            assert checkpoints.steps() == [1, 2]
    assert len(log_lines) == 3
    for step, line in zip((3, 4, 5), log_lines, strict=True):
        assert line.startswith(f"warning: checkpoint {step} could not be saved in {saved} (")
        assert (
            "too large" in line and line.endswith("earlier checkpoints are kept: [1, 2]") and "\n" not in line
        )
    restored_step, restored, _ = checkpoints.restore(abstract)
    assert restored_step == 2 and same(restored, tree(2))
    for step in (6, 7):
        checkpoints.save(step, tree(step), {})
    checkpoints.close()
    assert sorted(p.name for p in saved.iterdir()) == ["6", "7"]  # nothing half-written takes up room
    assert len(log_lines) == 3
