"""How often a run is saved and evaluated. Nothing heavy is imported here."""

from dataclasses import dataclass

from agents.flags import flag
from neurocoder.checks import check_at_least


@dataclass(frozen=True)
class Recording:
    """How often a run is saved and evaluated."""

    checkpoint_every: int = 100_000
    """Agent steps between checkpoints."""
    keep: int = 3
    """Newest checkpoints to keep. The best one is always kept."""
    evaluate_every: int = 100_000
    """Agent steps between evaluations while the run trains; 0 for none. The best checkpoint is the one with the best evaluation."""
    evaluate_games: int = 10
    """Full games of each of these evaluations."""
    evaluate_episodes: int = 10
    """Full games to play with the last checkpoint when training is done; 0 for none."""

    def check(self) -> None:
        """ValueError, in one line, for a setting out of range."""
        lowest = dict(checkpoint_every=1, keep=1, evaluate_every=0, evaluate_games=1, evaluate_episodes=0)
        for name, low in lowest.items():
            check_at_least(flag(name), getattr(self, name), low)
