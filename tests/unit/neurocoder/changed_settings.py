"""Settings of all layers with no field at its default."""

from neurocoder.settings import (
    FiLMSettings,
    HyperNetSettings,
    LayerSettings,
    MixtureOfExpertsSettings,
    NeurocoderSettings,
    StoredProgramSettings,
)

ALL_CHANGED = LayerSettings(
    neurocoder=NeurocoderSettings(
        slots=7, key_dim=2, heads=3, steps=2, least_used=2, gate_from="signal", residual=False, keys="learned",
        gain=0.5, beta=None, orthogonality_weight=0.2, variant="release",
    ),
    hypernet=HyperNetSettings(scale="rows", hidden=None),
    film=FiLMSettings(hidden=None),
    moe=MixtureOfExpertsSettings(experts=6, active=2, hidden=3, balance_weight=0.3),
    nsm=StoredProgramSettings(slots=3, key_dim=2, key_loss_weight=0.4, variant="release"),
)  # fmt: skip
