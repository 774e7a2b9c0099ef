"""The documentation names files that are there."""

import re

import pytest

from tests.conftest import REPOSITORY

PAGES = sorted((REPOSITORY / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    names = set(re.findall(r"(?<![\w/.])((?:[\w*]+/)+[\w*]+\.(?:py|md))", page.read_text(encoding="utf-8")))
    missing = [name for name in names if not [*REPOSITORY.glob(name), *(REPOSITORY / "jaxft").glob(name)]]
    assert not missing, f"{page.name} names files that are not there: {missing}"
    assert names or page.name != "design.md"
