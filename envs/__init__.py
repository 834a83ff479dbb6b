"""The tasks that agents learn: Atari games, images, polynomials and algorithms."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.atari import AtariSettings
    from envs.atari_gymnasium import AtariGame, AtariGameVector


def make_game(
    settings: "AtariSettings | str", *, reward_clip: float = float("inf"), render_mode: str | None = None
) -> "AtariGame":
    """Makes one game as a Gymnasium environment: see `envs.atari_gymnasium.AtariGame`.

    Args:
        settings: the settings of a policy (`policy.settings`), or the name of a game ("Pong",
            "ALE/Pong-v5").
    """
    from envs.atari_gymnasium import AtariGame

    return AtariGame(_settings(settings), reward_clip=reward_clip, render_mode=render_mode)


def make_games(settings: "AtariSettings | str", count: int, *, threads: int = 1) -> "AtariGameVector":
    """Makes `count` games as one Gymnasium vector environment: see `envs.atari_gymnasium.AtariGameVector`."""
    from envs.atari_gymnasium import AtariGameVector

    return AtariGameVector(_settings(settings), count, threads=threads)


def wrap_game(env: Any, settings: "AtariSettings") -> "AtariGame":
    """Wraps a game of Gymnasium, to be played as in training: see `envs.atari_gymnasium.wrap_game`."""
    from envs import atari_gymnasium

    return atari_gymnasium.wrap_game(env, settings)


def _settings(game: "AtariSettings | str") -> "AtariSettings":
    from envs.atari import resolve

    return resolve(game) if isinstance(game, str) else game


__all__ = ["make_game", "make_games", "wrap_game"]
