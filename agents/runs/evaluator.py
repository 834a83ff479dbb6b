"""Evaluates a run while it trains: in a Ray actor of the lowest priority, or without Ray in the run's own process."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.runs.checkpoints import CheckpointError
from agents.runs.evaluation import evaluate
from agents.seeding import mixed_seed

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle


class EvaluationFailed(RuntimeError):
    """An evaluation has no result. The message is one line with the reason."""


class Evaluator:
    """Plays one checkpoint at a time."""

    def __init__(self, *, games: int, seed: int, on_ray: bool):
        """
        Args:
            games: full games to play with each checkpoint.
            seed: decides these games, together with the checkpoint's step.
            on_ray: play in a Ray actor, not in this process.
        """
        self.games, self.seed, self.on_ray = games, seed, on_ray
        self.checkpoint: Path | None = None
        self._actor: ActorHandle | None = None
        self._answer: ObjectRef | None = None

    @property
    def busy(self) -> bool:
        return self.checkpoint is not None

    def begin(self, checkpoint: Path) -> None:
        """Starts to play with a checkpoint. Its folder must stay until `take` has returned the result."""
        assert not self.busy
        self.checkpoint = checkpoint
        if self.on_ray:
            self._answer = self._on_ray().evaluate.remote(
                checkpoint.absolute(), self.games, self._seed_of(checkpoint)
            )

    def take(self, *, timeout: float | None = 0.0) -> dict[str, Any] | None:
        """Returns what `evaluate` gives; None if it has not come within `timeout` seconds.

        A timeout of None waits for the result.

        Raises:
            EvaluationFailed: the checkpoint cannot be used, or the actor died. The next `begin` starts
                another actor.
        """
        if self.checkpoint is None:
            return None
        if not self.on_ray:
            checkpoint, self.checkpoint = self.checkpoint, None
            try:
                return evaluate(checkpoint, episodes=self.games, seed=self._seed_of(checkpoint))
            except CheckpointError as error:
                raise EvaluationFailed(str(error)) from error
        import ray

        done, _ = ray.wait([self._answer], timeout=timeout)
        if not done:
            return None
        self.checkpoint = None
        try:
            return ray.get(self._answer)
        except ray.exceptions.RayError as error:
            self.close()
            raise EvaluationFailed(str(error).strip().splitlines()[-1]) from error

    def close(self) -> None:
        """Discards the games being played."""
        self.checkpoint = self._answer = None
        if self._actor is not None:
            import ray

            ray.kill(self._actor)
            self._actor = None

    def _seed_of(self, checkpoint: Path) -> int:
        return mixed_seed("evaluation", self.seed, checkpoint.name)

    def _on_ray(self) -> "ActorHandle":
        if self._actor is None:
            import ray

            from agents.ray_cluster import beside_driver

            options = dict(num_cpus=0, scheduling_strategy=beside_driver())
            self._actor = ray.remote(**options)(_EvaluationActor).remote()
        return self._actor


class _EvaluationActor:
    def __init__(self) -> None:
        # This ranks below any niceness. Ray's own workers have 15, so 19 would still take a good share of their time.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    def evaluate(self, checkpoint: Path, games: int, seed: int) -> dict[str, Any]:
        return evaluate(checkpoint, episodes=games, seed=seed)
