"""Scores of a random and of a human player on 57 Atari games, and the score scale that they define.

Source: Wang et al., "Dueling Network Architectures for Deep Reinforcement Learning", ICML 2016, Table 2.
Its scores are undiscounted game points: the mean over episodes that begin with up to 30 no-ops and are cut
at 108,000 frames (30 minutes of play). C51 and Agent57 report on this scale. The table of Mnih et al.
(Nature, 2015) has 49 games and other human scores. Scores that are normalised by the two tables cannot be
compared.

Video Pinball: Table 2 prints 16256.9 for the random player, which would leave a scale of only 1411 points.
The means in Table 1 of the same paper come out only with 0. Badia et al., "Agent57", ICML 2020, print 0,
and so does this table.
"""

from typing import NamedTuple


class ReferenceScore(NamedTuple):
    """Mean game points of an episode by the two reference players of a game."""

    random: float
    human: float


REFERENCE_SCORES: dict[str, ReferenceScore] = {
    "alien": ReferenceScore(227.8, 7127.7),
    "amidar": ReferenceScore(5.8, 1719.5),
    "assault": ReferenceScore(222.4, 742.0),
    "asterix": ReferenceScore(210.0, 8503.3),
    "asteroids": ReferenceScore(719.1, 47388.7),
    "atlantis": ReferenceScore(12850.0, 29028.1),
    "bank_heist": ReferenceScore(14.2, 753.1),
    "battle_zone": ReferenceScore(2360.0, 37187.5),
    "beam_rider": ReferenceScore(363.9, 16926.5),
    "berzerk": ReferenceScore(123.7, 2630.4),
    "bowling": ReferenceScore(23.1, 160.7),
    "boxing": ReferenceScore(0.1, 12.1),
    "breakout": ReferenceScore(1.7, 30.5),
    "centipede": ReferenceScore(2090.9, 12017.0),
    "chopper_command": ReferenceScore(811.0, 7387.8),
    "crazy_climber": ReferenceScore(10780.5, 35829.4),
    "defender": ReferenceScore(2874.5, 18688.9),
    "demon_attack": ReferenceScore(152.1, 1971.0),
    "double_dunk": ReferenceScore(-18.6, -16.4),
    "enduro": ReferenceScore(0.0, 860.5),
    "fishing_derby": ReferenceScore(-91.7, -38.7),
    "freeway": ReferenceScore(0.0, 29.6),
    "frostbite": ReferenceScore(65.2, 4334.7),
    "gopher": ReferenceScore(257.6, 2412.5),
    "gravitar": ReferenceScore(173.0, 3351.4),
    "hero": ReferenceScore(1027.0, 30826.4),
    "ice_hockey": ReferenceScore(-11.2, 0.9),
    "jamesbond": ReferenceScore(29.0, 302.8),
    "kangaroo": ReferenceScore(52.0, 3035.0),
    "krull": ReferenceScore(1598.0, 2665.5),
    "kung_fu_master": ReferenceScore(258.5, 22736.3),
    "montezuma_revenge": ReferenceScore(0.0, 4753.3),
    "ms_pacman": ReferenceScore(307.3, 6951.6),
    "name_this_game": ReferenceScore(2292.3, 8049.0),
    "phoenix": ReferenceScore(761.4, 7242.6),
    "pitfall": ReferenceScore(-229.4, 6463.7),
    "pong": ReferenceScore(-20.7, 14.6),
    "private_eye": ReferenceScore(24.9, 69571.3),
    "qbert": ReferenceScore(163.9, 13455.0),
    "riverraid": ReferenceScore(1338.5, 17118.0),
    "road_runner": ReferenceScore(11.5, 7845.0),
    "robotank": ReferenceScore(2.2, 11.9),
    "seaquest": ReferenceScore(68.4, 42054.7),
    "skiing": ReferenceScore(-17098.1, -4336.9),
    "solaris": ReferenceScore(1236.3, 12326.7),
    "space_invaders": ReferenceScore(148.0, 1668.7),
    "star_gunner": ReferenceScore(664.0, 10250.0),
    "surround": ReferenceScore(-10.0, 6.5),
    "tennis": ReferenceScore(-23.8, -8.3),
    "time_pilot": ReferenceScore(3568.0, 5229.2),
    "tutankham": ReferenceScore(11.4, 167.6),
    "up_n_down": ReferenceScore(533.4, 11693.2),
    "venture": ReferenceScore(0.0, 1187.5),
    # The random score is explained above.
    "video_pinball": ReferenceScore(0.0, 17667.9),
    "wizard_of_wor": ReferenceScore(563.5, 4756.5),
    "yars_revenge": ReferenceScore(3092.9, 54576.9),
    "zaxxon": ReferenceScore(32.5, 9173.3),
}
"""Reference scores by ROM name as in ale-py ("ms_pacman")."""


def human_normalised_score(game: str, score: float) -> float | None:
    """Returns (score - random) / (human - random), which is 0 for random play and 1 for human play.

    Lower and higher values are possible. A game without reference scores has None.

    Args:
        game: a ROM name ("seaquest").
        score: unclipped game points.
    """
    reference = REFERENCE_SCORES.get(game)
    if reference is None:
        return None
    return (score - reference.random) / (reference.human - reference.random)
