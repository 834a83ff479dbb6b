"""Neurocoder: layers that compose their weights for every input from singular programs in a Program Memory.

The public names are imported at first use. So the settings can be read without torch, which takes seconds to import.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurocoder.layer import NeurocoderLinear, ProgramTrace
    from neurocoder.output_layers import OUTPUT_LAYERS, OutputLayer, auxiliary_loss, output_layer


def __getattr__(name: str) -> Any:
    if name in ("NeurocoderLinear", "ProgramTrace"):
        from neurocoder import layer

        return getattr(layer, name)
    if name in __all__:
        from neurocoder import output_layers

        return getattr(output_layers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "OUTPUT_LAYERS",
    "NeurocoderLinear",
    "OutputLayer",
    "ProgramTrace",
    "auxiliary_loss",
    "output_layer",
]
