"""What commands say: commands to type."""

import shlex

from launch.command_line.errors import typed


def test_a_command_can_be_pasted_into_a_shell():
    folder = "my runs/pong (first)"
    line = typed("python -m launch.train", "--resume", folder, "--total-steps", 10)
    assert shlex.split(line) == ["python", "-m", "launch.train", "--resume", folder, "--total-steps", "10"]
    assert (
        typed("python -m launch.train", "--resume", "runs/pong")
        == "python -m launch.train --resume runs/pong"
    )
