"""Trains an A3C LSTM agent on an Atari game.

    python -m launch.train --env Seaquest --head neurocoder --workers 8 --total-steps 32_000_000

The run's folder holds its settings, its curves for TensorBoard and its checkpoints. One agent step is four emulator
frames. Ctrl-C or SIGTERM ends a run with a last checkpoint, and --resume continues it.
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated, Self

import tyro

from agents.a3c.config import A3CConfig
from agents.a3c.presets import preset
from launch.command_line.atari import RunArguments, carry_out, parse
from launch.command_line.errors import fail, require_gpu

PROGRAM = "python -m launch.train"


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments[A3CConfig]):
    config: Annotated[A3CConfig, tyro.conf.arg(name="")] = field(default_factory=A3CConfig)
    preset: str = "paper"
    """Settings where no flag gives one: the paper's (paper), or what learns Pong soonest on two cores (two-cores)."""

    def defaults(self) -> Self:
        return type(self)(config=preset(self.preset))


def main() -> None:
    arguments = parse(PROGRAM, Arguments, sys.argv[1:], __doc__)
    try:
        if arguments.config.gpus_per_worker and arguments.address is None:
            require_gpu("--gpus-per-worker")
        status = carry_out(PROGRAM, arguments)
    except ValueError as error:
        fail(error)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
