"""Files are written whole or not at all."""

import pytest

from cxrlib.data.files import whole_file


def test_a_file_is_replaced_once_it_is_whole(tmp_path):
    table = tmp_path / "table.csv"
    (tmp_path / "link.csv").symlink_to(table)
    for content in ("first", "second"):
        with whole_file(tmp_path / "link.csv") as part:
            part.write_text(content)
            assert part.suffix == ".csv" and (content == "first") == (not table.exists())
        assert table.read_text() == content
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "link.csv"}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path, error):
    table = tmp_path / "table.csv"
    table.write_text("old")
    with pytest.raises(type(error)), whole_file(table) as part:
        part.write_text("ne")
        raise error
    assert table.read_text() == "old" and list(tmp_path.iterdir()) == [table]
