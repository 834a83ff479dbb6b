"""How tables are laid out and kept."""

import pytest

from launch.results.tables import aligned, interval_words, show_and_keep


def test_columns_are_aligned_and_lines_have_no_blanks_at_their_end():
    rows = [("game", "head", "n", ""), ("Pong", "mlp", "10", ""), ("Breakout", "moe", "3", "")]
    assert aligned(rows, left=2) == ["game      head   n", "Pong      mlp   10", "Breakout  moe    3"]


def test_an_interval_has_two_ends_or_is_not_there():
    assert (interval_words((1.0, 2.25), 1), interval_words(None, 1)) == ("1.0 to 2.2", "")


@pytest.mark.parametrize("folder", ["", "missing"])
def test_a_table_that_cannot_be_kept_is_shown_all_the_same(folder, tmp_path, capsys):
    def no_room() -> None:
        raise OSError(28, "No space left on device")

    show_and_keep("a table", tmp_path / folder, no_room)
    output, errors = capsys.readouterr()
    assert output == "\na table\n"
    assert errors.startswith(f"warning: the results are not all in {tmp_path / folder}: [Errno")
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ([] if folder else ["results.md"])
