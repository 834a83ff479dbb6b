"""Playing full games with a policy, for scores that can be compared."""

from collections.abc import Callable

import numpy as np
import torch

from envs.atari import AtariGames, AtariSettings, Episode
from neurocoder.networks.conv_lstm import ConvLSTM


@torch.no_grad()
def play(
    network: ConvLSTM,
    settings: AtariSettings,
    *,
    episodes: int,
    seed: int,
    greedy: bool = False,
    on_screen: Callable[[np.ndarray], None] | None = None,
) -> list[Episode]:
    """Plays `episodes` full games, all at once: each from its own start to its own end, so long games count like short ones.

    Args:
        network: the policy.
        greedy: take the likeliest action; else sample, as in training.
        on_screen: called with each screen (210, 160, 3), uint8 RGB, of the first game.
    """
    games = AtariGames(settings, episodes)
    # A second emulator with the same seed and actions shows the first game in colour and full size.
    screens = AtariGames(settings, 1, screen=True) if on_screen else None
    generator = torch.Generator().manual_seed(seed)
    frames = games.reset([seed])
    h, c = network.initial_state(episodes)
    start = np.ones(episodes, dtype=bool)
    finished: dict[int, Episode] = {}
    if screens and on_screen:
        on_screen(screens.reset([seed])[0, 0])
    while len(finished) < episodes:
        playing = np.setdiff1d(np.arange(episodes), list(finished))
        features = network.features(torch.from_numpy(frames[playing]))
        hidden, (h[playing], c[playing]) = network.step(
            features, (h[playing], c[playing]), torch.from_numpy(start[playing])
        )
        logits = network.actor(hidden)  # (games playing, A)
        if greedy:
            chosen = logits.argmax(dim=-1)
        else:
            chosen = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)
        actions = np.zeros(episodes, dtype=np.int64)
        actions[playing] = chosen.numpy()
        step = games.step(actions)
        for game, episode in zip(np.flatnonzero(step.reset), step.episodes, strict=True):
            finished.setdefault(int(game), episode)
        frames, start = step.observation, step.start
        if screens and on_screen and 0 not in finished:
            screen = screens.step(actions[:1])
            assert screen.reward[0] == step.reward[0], "the two emulators have parted"
            on_screen(screen.observation[0, 0])
    games.close()
    if screens:
        screens.close()
    return [finished[game] for game in range(episodes)]
