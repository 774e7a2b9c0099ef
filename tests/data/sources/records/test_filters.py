"""Ranges of a filter choose what their numbers would, and take no room for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.records.filters import filter_records
from jaxft.errors import UserError

NUMBERS = st.integers(0, 1200)
VALUES = st.one_of(
    st.integers(-3, 1300), st.sampled_from(["", "07", "-1", "1.0", "7 ", "²", "x", "9" * 5000, True, None])
)


def chosen(values, record_filter):
    rows = (("here", str(index), {"fold": value}) for index, value in enumerate(values))
    return [int(origin) for _, origin, _ in filter_records(rows, record_filter)]


@given(st.lists(VALUES, max_size=20), NUMBERS, NUMBERS, NUMBERS)
def test_a_range_is_its_numbers(values, first, second, single):
    first, last = sorted((first, second))
    numbers = ",".join(map(str, [single, *range(first, last + 1)]))
    for operator in ("=", "!="):
        assert chosen(values, f"fold{operator}{single},{first}-{last}") == chosen(
            values, f"fold{operator}{numbers}"
        )
        assert chosen(values, f"fold{operator}{single},0{first}-{last}") == chosen(
            values, f"fold{operator}{numbers}"
        )


def test_ranges_of_any_size_are_compared_and_turned_ones_refused():
    values = [0, 10**9, 10**10, "9" * 5000, "x"]
    assert chosen(values, "fold=0-9999999999") == [0, 1]
    assert chosen(values, f"fold=5-{'9' * 6000}") == [1, 2, 3]
    with pytest.raises(UserError, match=r"\?fold=1,3-2: 3-2 has no number; expected the smaller one first"):
        chosen(values, "fold=1,3-2")
