"""Neurocoder: layers that compose their weights for every input from singular programs held in a Program Memory."""

from neurocoder.layer import NeurocoderLinear, ProgramTrace
from neurocoder.output_layers import OUTPUT_LAYERS, OutputLayer, auxiliary_loss, output_layer

__all__ = [
    "OUTPUT_LAYERS",
    "NeurocoderLinear",
    "OutputLayer",
    "ProgramTrace",
    "auxiliary_loss",
    "output_layer",
]
