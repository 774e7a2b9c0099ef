"""Long work says what it is and how long it has taken; short work says nothing."""

import time

import pytest

from jaxft.training.log import waits


def test_short_work_is_silent():
    lines = []
    with waits.announced("reading", lines.append, after=5.0):
        pass
    assert lines == []


def test_long_work_says_what_it_is_and_its_time_each_time_that_it_has_doubled(monkeypatch):
    monkeypatch.setattr(waits, "SECOND_LINE", 0.5)
    lines = []
    with waits.announced("compiling", lines.append, after=0.05):
        time.sleep(2.6)
    assert lines == ["compiling ...", *(f"compiling: {seconds} s so far" for seconds in (0, 1, 2))]
    time.sleep(1.6)
    assert len(lines) == 4  # nothing after its end


def test_an_error_ends_the_words():
    lines = []
    with pytest.raises(ValueError), waits.announced("reading", lines.append, after=0.1):
        raise ValueError
    time.sleep(0.3)
    assert lines == []
