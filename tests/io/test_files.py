"""A file of a run is written whole or not at all, and a folder in its place is named."""

import pytest

from jaxft.errors import UserError
from jaxft.io.files import write_json, write_lines


@pytest.mark.parametrize(("write", "value"), [(write_json, {"a": 1}), (write_lines, ["a\n"])])
def test_a_folder_where_a_file_belongs_is_named(write, value, tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="a: a folder, where the run writes a file; move it away"):
        write(tmp_path / "a", value)
