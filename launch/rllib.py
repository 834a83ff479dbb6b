"""Trains the Atari policy with RLlib's IMPALA, APPO or PPO.

    python -m launch.rllib --algo impala --env Seaquest --head neurocoder --env-runners 4 --learners 2
    --gpus-per-learner 1

Folder, curves and checkpoints are those of launch.train, and launch.evaluate plays the policy. A resumed run has
the weights, Adam's statistics and the counters of its newest checkpoint. What else RLlib adapts starts from its
first value again (the KL coefficient).
"""

from dataclasses import dataclass, field
from typing import Annotated, Self

import tyro

from agents.rllib.config import RLlibConfig
from launch.command_line import atari
from launch.command_line.atari import RunArguments
from launch.command_line.command import command

PROGRAM = "python -m launch.rllib"


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments[RLlibConfig]):
    config: Annotated[RLlibConfig, tyro.conf.arg(name="")] = field(default_factory=RLlibConfig)

    def defaults(self) -> Self:
        return type(self)()


@command
def main() -> None:
    atari.main(PROGRAM, Arguments, __doc__, gpus="gpus_per_learner")


if __name__ == "__main__":
    main()
