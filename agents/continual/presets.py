"""The settings of the paper (Table 6) and of the benchmark it compares with, GT-RIPL/Continual-Learning-Benchmark."""

from dataclasses import replace

from agents.continual.config import METHODS, SCENARIOS, ContinualConfig
from neurocoder.checks import check_known
from neurocoder.settings import NeurocoderSettings, StoredProgramSettings

PRESETS = ("best", "table-6")
"""The Neurocoder that was best over methods on held-out seeds (docs/results/continual.md), or the paper's Table 6."""

# All other methods are on Adam, with 1e-3.
LEARNING_RATES = {"sgd": 1e-2, "adagrad": 1e-2}

# For the scenarios task, domain and class.
STRENGTHS = {
    "l2": (0.01, 0.5, 100.0),
    "si": (300.0, 3000.0, 600.0),
    "ewc": (100.0, 100.0, 600.0),
    "online-ewc": (400.0, 700.0, 100.0),
}


def preset(benchmark: str, *, scenario: str, method: str, layer: str, name: str = "best") -> ContinualConfig:
    """Returns the settings of the paper and of the benchmark.

    Args:
        name: "table-6", where every layer is a Neurocoder without residual program; or "best", which differs in
            two things: only the heads are Neurocoders, and they have the residual program. The low-rank control
            follows the Neurocoder.

    Raises:
        ValueError: in one line, a name that is not known.
    """
    check_known("--method", method, METHODS)
    check_known("--scenario", scenario, SCENARIOS)
    check_known("--preset", name, PRESETS)
    best = name == "best" and layer in ("neurocoder", "lowrank")
    strengths = STRENGTHS.get(method, (0.0, 0.0, 0.0))
    config = ContinualConfig(
        benchmark=benchmark,
        scenario=scenario,  # type: ignore[arg-type]
        method=method,
        layer=layer,
        neurocoder=NeurocoderSettings(
            slots=50, key_dim=5, heads=10, residual=best, orthogonality_weight=10.0
        ),
        adapt="heads" if best else "all",
        nsm=StoredProgramSettings(slots=5, key_dim=5, variant="release"),
        learning_rate=LEARNING_RATES.get(method, 1e-3),
        strength=strengths[SCENARIOS.index(scenario)],
    )
    if benchmark != "split-mnist":
        # Table 7 fits this width. The paper does not state the epochs.
        config = replace(config, hidden=500, epochs=10, neurocoder=replace(config.neurocoder, slots=100))
    config.check()
    return config
