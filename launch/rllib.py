"""Trains the A3C policy with RLlib's IMPALA, APPO or PPO.

    python -m launch.rllib --algo impala --env Seaquest --head neurocoder --env-runners 4 --learners 2 --gpus-per-learner 1

Folder, curves and checkpoints are those of launch.train, and launch.evaluate plays what comes out. A resumed run has the weights,
Adam's statistics and the counters of its newest checkpoint; what else RLlib adapts as it goes (the KL coefficient) begins anew.
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from agents.rllib.config import RLlibConfig
from launch.command_line.atari import Command, RunArguments
from launch.command_line.errors import fail, require_gpu


@dataclass(frozen=True)
class Arguments(RunArguments):
    config: Annotated[RLlibConfig, tyro.conf.arg(name="")] = field(default_factory=RLlibConfig)


COMMAND = Command(program="python -m launch.rllib", key=RLlibConfig.key)


def main() -> None:
    arguments = COMMAND.parse(Arguments, sys.argv[1:], __doc__)
    config = arguments.config

    try:
        if config.gpus_per_learner and arguments.address is None:
            require_gpu("--gpus-per-learner")
        status = COMMAND.carry_out(arguments, config)
    except ValueError as error:
        fail(error)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
