"""Trains an A3C LSTM agent on an Atari game.

    python -m launch.train --env Seaquest --head neurocoder --workers 8 --total-steps 32_000_000

The run's folder holds its settings, its curves for TensorBoard and its checkpoints. One agent step is four emulator
frames. Ctrl-C or SIGTERM ends a run with a last checkpoint, and --resume continues it.
"""

from dataclasses import dataclass, field
from typing import Annotated, Self

import tyro

from agents.a3c.config import A3CConfig
from agents.a3c.presets import preset
from launch.command_line import atari
from launch.command_line.atari import RunArguments
from launch.command_line.command import command

PROGRAM = "python -m launch.train"


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments[A3CConfig]):
    config: Annotated[A3CConfig, tyro.conf.arg(name="")] = field(default_factory=A3CConfig)
    preset: str = "paper"
    """Settings where no flag gives one: the paper's (paper), or what learns Pong soonest on two cores (two-cores)."""

    def defaults(self) -> Self:
        return type(self)(config=preset(self.preset))


@command
def main() -> None:
    atari.main(PROGRAM, Arguments, __doc__, gpus="gpus_per_worker")


if __name__ == "__main__":
    main()
