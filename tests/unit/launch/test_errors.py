"""What commands say: commands to type. What they refuse: files that cannot be written."""

import os
import shlex

from launch.command_line.errors import check_output, typed


def test_a_command_can_be_pasted_into_a_shell():
    folder = "my runs/pong (first)"
    line = typed("python -m launch.train", "--resume", folder, "--total-steps", 10)
    assert shlex.split(line) == ["python", "-m", "launch.train", "--resume", folder, "--total-steps", "10"]
    assert (
        typed("python -m launch.train", "--resume", "runs/pong")
        == "python -m launch.train --resume runs/pong"
    )


def test_an_output_that_can_be_written_is_left_as_it_is(tmp_path):
    new, old, pipe = tmp_path / "new", tmp_path / "old", tmp_path / "pipe"
    old.write_text("results")
    os.mkfifo(pipe)  # to open it would wait for its reader
    for file in (new, old, pipe):
        check_output(file)
    assert not new.exists() and old.read_text() == "results"
