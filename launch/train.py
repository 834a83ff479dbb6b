"""Trains an A3C LSTM agent on an Atari game.

    python -m launch.train --env Seaquest --head neurocoder --workers 8 --total-steps 32_000_000

Everything of a run lies in one folder: config.json, curves for TensorBoard, checkpoints. One agent step is four emulator
frames. Ctrl-C or SIGTERM ends a run with a last checkpoint; --resume continues it.
"""

import sys
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

import tyro

from agents.a3c.config import A3CConfig
from agents.a3c.presets import preset
from launch.command_line.atari import Command, RunArguments
from launch.command_line.errors import fail, require_gpu


@dataclass(frozen=True)
class Arguments(RunArguments):
    config: Annotated[A3CConfig, tyro.conf.arg(name="")] = field(default_factory=A3CConfig)
    preset: str = "paper"
    """Settings where no flag gives one: the paper's (paper), or what learns Pong soonest on two cores (two-cores)."""

    def defaults(self) -> Self:
        return replace(super().defaults(), config=preset(self.preset))

    def check(self) -> None:
        super().check()
        if self.resume is not None and self.preset != Arguments.preset:
            raise ValueError(
                f"--preset {self.preset}: a resumed run has its own settings; leave it out beside --resume"
            )


COMMAND = Command(program="python -m launch.train", key=A3CConfig.key)


def main() -> None:
    arguments = COMMAND.parse(Arguments, sys.argv[1:], __doc__)
    config = arguments.config
    try:
        if config.gpus_per_worker and arguments.address is None:
            require_gpu("--gpus-per-worker")
        status = COMMAND.carry_out(arguments, config)
    except ValueError as error:
        fail(error)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
