"""A GRU that predicts one number at each step: the Main Network of the polynomial auto-regression."""

from torch import Tensor, nn

from neurocoder.checks import check_sizes
from neurocoder.output_layers import OutputLayer


class GRURegressor(nn.Module):
    """GRU over the whole sequence, then the output layer once over all steps.

    The paper's hidden widths: 32 plain, 28 HyperNet, 32 FiLM, 16 single-step and 8 multi-step Neurocoder.

    Raises:
        ValueError: a size is below 1. The message names it.
    """

    def __init__(self, in_features: int, hidden: int, *, output_layer: OutputLayer = nn.Linear):
        super().__init__()
        check_sizes(in_features=in_features, hidden=hidden)
        self.gru = nn.GRU(in_features, hidden, batch_first=True)
        self.output = output_layer(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in_features) -> predictions (B, T)."""
        hidden, _ = self.gru(x)  # (B, T, hidden)
        return self.output(hidden).squeeze(-1)
