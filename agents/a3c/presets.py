"""Named settings of A3C runs, which single flags override."""

from agents.a3c.config import A3CConfig
from neurocoder.checks import check_known
from neurocoder.settings import NeurocoderSettings

PRESETS = {
    "paper": A3CConfig(),
    # docs/results/pong-tuning.md: what plays Pong soonest on two cores, with a plain and with a Neurocoder head.
    "two-cores": A3CConfig(
        envs_per_worker=4,
        optimizer="adam",
        learning_rate=5e-4,
        anneal=False,
        entropy_weight=0.002,
        neurocoder=NeurocoderSettings(heads=5, beta=3.0, orthogonality_weight=0.001),
    ),
}


def preset(name: str) -> A3CConfig:
    """The settings of that name. ValueError, in one line, if there are none."""
    check_known("--preset", name, tuple(PRESETS))
    return PRESETS[name]
