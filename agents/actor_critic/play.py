"""Plays full games with a policy, for scores that can be compared."""

from collections.abc import Callable

import numpy as np

from agents.actor_critic.policy import Policy
from envs.atari import AtariGames, AtariSettings, Episode

OnScreen = Callable[[np.ndarray], None]
"""Takes a screen, (210, 160, 3) uint8 RGB."""


class FirstGameScreens:
    """Shows the first game in colour and full size. A second emulator plays it with the same seed and actions."""

    def __init__(self, settings: AtariSettings, seed: int, on_screen: OnScreen):
        self.on_screen = on_screen
        self.game = AtariGames(settings, 1, screen=True)
        on_screen(self.game.reset([seed])[0, 0])

    def step(self, actions: np.ndarray) -> None:
        """Takes the first game's action (1,)."""
        self.on_screen(self.game.step(actions).observation[0, 0])


def play(
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    greedy: bool = False,
    on_screen: OnScreen | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Episode]:
    """Plays `episodes` full games side by side. Each is played from its own start to its own end, so that long
    games count like short ones.

    Lives are treated as the policy's settings say.

    Args:
        seed: decides the games and the sampled actions.
        greedy: take the likeliest action; otherwise sample, as in training.
        on_screen: called with every screen of the first game.
        on_progress: called after each step with the number of finished games and the number of steps taken so far.
    """
    settings = policy.settings
    policy.seed(seed)
    games = [AtariGames(settings, 1) for _ in range(episodes)]
    screens = FirstGameScreens(settings, seed, on_screen) if on_screen else None
    playing = list(range(episodes))
    frames = np.concatenate([game.reset([seed], first=number) for number, game in enumerate(games)])
    state, start = policy.initial_state(episodes), np.ones(episodes, dtype=bool)
    finished: dict[int, Episode] = {}
    steps_taken = 0
    while playing:
        actions, state = policy.act(frames, state, start=start, greedy=greedy)
        steps = [games[number].step(actions[i : i + 1]) for i, number in enumerate(playing)]
        if screens and playing[0] == 0:
            screens.step(actions[:1])
        for number, step in zip(playing, steps, strict=True):
            if step.ended[0]:
                (finished[number],) = step.episodes
                games[number].close()
        remaining = [i for i, step in enumerate(steps) if not step.ended[0]]
        playing = [playing[i] for i in remaining]
        if len(remaining) < len(steps):
            h, c = state
            state = h[remaining], c[remaining]
        if playing:
            frames = np.concatenate([steps[i].observation for i in remaining])
            start = np.concatenate([steps[i].start for i in remaining])
        steps_taken += 1
        if on_progress:
            on_progress(len(finished), steps_taken)
    if screens:
        screens.game.close()
    return [finished[number] for number in range(episodes)]
