"""FiLM: feature-wise modulation of the output layer's activation (paper, appendix; Perez et al. 2018).

(gamma, delta) = f(x) and y = gamma (.) (x W + b) + delta, where f is an MLP of one or two layers with ReLU.
"""

from typing import Any

from torch import Tensor, nn

from neurocoder.checks import check_sizes
from neurocoder.settings import FiLMSettings


class FiLMLinear(nn.Module):
    """A drop-in for `nn.Linear` whose outputs are scaled and shifted for every input. Starts as the plain layer.

    Args:
        settings: fields of `neurocoder.settings.FiLMSettings` by name. Its defaults hold for those left out.

    Raises:
        TypeError: a setting is unknown.
        ValueError: a setting is out of range. The message names it.
    """

    def __init__(self, in_features: int, out_features: int, **settings: Any):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        s = FiLMSettings(**settings)
        s.check()
        self.in_features, self.out_features = in_features, out_features
        self.linear = nn.Linear(in_features, out_features)
        last = nn.Linear(s.hidden or in_features, 2 * out_features)
        # No source gives an initialisation. This one starts with gamma = 1 and delta = 0.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.ones_(last.bias[:out_features])
        self.modulation = (
            nn.Sequential(nn.Linear(in_features, s.hidden), nn.ReLU(), last) if s.hidden else last
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        gamma, delta = self.modulation(x).chunk(2, dim=-1)
        return gamma * self.linear(x) + delta

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
