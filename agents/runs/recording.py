"""How often a run is saved and evaluated. torch is not needed."""

from dataclasses import dataclass

from agents.flags import flag
from neurocoder.checks import check_at_least


@dataclass(frozen=True)
class Recording:
    """How often a run is saved and evaluated."""

    checkpoint_every: int = 100_000
    """Agent steps between checkpoints."""
    keep: int = 3
    """Number of newest checkpoints to keep. The best one is always kept."""
    evaluate_every: int = 100_000
    """Agent steps between evaluations during training; 0 for none. They decide which checkpoint is the best."""
    evaluate_games: int = 10
    """Full games in each of these evaluations."""
    evaluate_episodes: int = 10
    """Full games to play with the last checkpoint after training; 0 for none."""

    def check(self) -> None:
        """Raises ValueError for a setting out of range."""
        lowest = dict(checkpoint_every=1, keep=1, evaluate_every=0, evaluate_games=1, evaluate_episodes=0)
        for name, low in lowest.items():
            check_at_least(flag(name), getattr(self, name), low)
