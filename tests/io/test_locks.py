"""One process at a time holds a lock, which is removed and made anew between them; without a folder nothing waits."""

import concurrent.futures
import time

from jaxft.io.locks import lock


def test_one_at_a_time_holds_a_lock_that_is_removed(tmp_path):
    holders, most = [], []

    def work(number):
        with lock(tmp_path / "folder/a.arrow", "makes it") as (is_held, _):
            assert is_held
            holders.append(number)
            most.append(len(holders))
            time.sleep(0.001)
            holders.remove(number)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))
    assert len(most) == 200 and set(most) == {1}
    assert not list((tmp_path / "folder").iterdir())


def test_a_lock_that_is_held_is_not_waited_for(tmp_path):
    with lock(tmp_path / "a", "makes it") as first, lock(tmp_path / "a", "makes it", wait=False) as second:
        assert first == (True, False) and second == (False, False)


def test_a_folder_that_cannot_be_made_keeps_nobody_out(tmp_path):
    (tmp_path / "file").touch()
    for _ in range(2):
        with lock(tmp_path / "file/a", "makes it") as flags:
            assert flags == (True, False)
