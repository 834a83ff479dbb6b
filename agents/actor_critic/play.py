"""Plays full games with a policy, for scores that can be compared."""

from collections.abc import Callable

import numpy as np

from agents.actor_critic.policy import Policy
from envs.atari import AtariGames, Episode


def play(
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    greedy: bool = False,
    on_screen: Callable[[np.ndarray], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Episode]:
    """Plays `episodes` full games side by side, each from its own start to its own end, so long games count like short ones.

    Lives are treated as the policy's settings say. A game that has ended is not stepped again.

    Args:
        seed: decides the games and the sampled actions.
        greedy: take the likeliest action; otherwise sample, as in training.
        on_screen: called with each screen (210, 160, 3), uint8 RGB, of the first game.
        on_progress: called after each step with the number of finished games and of steps taken in the longest one.
    """
    settings = policy.settings
    policy.seed(seed)
    games = [AtariGames(settings, 1) for _ in range(episodes)]
    # A second emulator with the same seed and actions shows the first game in colour and full size.
    screens = AtariGames(settings, 1, screen=True) if on_screen else None
    playing = list(range(episodes))
    frames = np.concatenate([game.reset([seed], first=number) for number, game in enumerate(games)])
    state, start = policy.initial_state(episodes), np.ones(episodes, dtype=bool)
    finished: dict[int, Episode] = {}
    if screens and on_screen:
        on_screen(screens.reset([seed])[0, 0])
    steps_taken = 0
    while playing:
        actions, state = policy.act(frames, state, start=start, greedy=greedy)
        steps = [games[number].step(actions[i : i + 1]) for i, number in enumerate(playing)]
        if screens and on_screen and playing[0] == 0:
            on_screen(screens.step(actions[:1]).observation[0, 0])
        for number, step in zip(playing, steps, strict=True):
            if step.ended[0]:
                (finished[number],) = step.episodes
                games[number].close()
        going_on = [i for i, step in enumerate(steps) if not step.ended[0]]
        playing = [playing[i] for i in going_on]
        if len(going_on) < len(steps):
            h, c = state
            state = h[going_on], c[going_on]
        if playing:
            frames = np.concatenate([steps[i].observation for i in going_on])
            start = np.concatenate([steps[i].start for i in going_on])
        steps_taken += 1
        if on_progress:
            on_progress(len(finished), steps_taken)
    if screens:
        screens.close()
    return [finished[number] for number in range(episodes)]
