"""Commands that are killed at a write leave nothing half-written; `python -m tests.crash` kills at each of them."""

import pytest

from tests.crash.targets import make_targets, try_target


@pytest.mark.parametrize(
    ("target", "first"),
    [
        ("export", 8),
        pytest.param("predict", 3, marks=pytest.mark.sweep),
        pytest.param("convert", 5, marks=pytest.mark.sweep),
        pytest.param("train", 30, marks=pytest.mark.sweep),
        pytest.param("resume", 30, marks=pytest.mark.sweep),
    ],
)
def test_a_killed_command_ends_as_if_nobody_had_killed_it(target, first, python, environment, tmp_path):
    [killed] = make_targets(tmp_path, python, environment, [target]).values()
    figures = try_target(killed, tmp_path / "trial", tmp_path / "failures", first, every=1000)
    assert figures == {"tried": 1, "survived": 1}
