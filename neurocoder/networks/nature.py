"""The network of DQN (Mnih et al. 2015), with an LSTM."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.kernels.convolutions import Activations
from neurocoder.networks.recurrent import RecurrentActorCritic, convolution, dense


class NatureLSTM(RecurrentActorCritic):
    """Three convolutions and a dense layer of 512 features. 5 million multiply-adds an observation."""

    def build_convolutions(self, channels: int) -> int:
        self.convolutions = nn.ModuleList(
            [
                convolution(channels, 32, 8, stride=4),  # 80 -> 19
                convolution(32, 64, 4, stride=2),  # 19 -> 8
                convolution(64, 64, 3),  # 8 -> 6
            ]
        )
        self.dense = dense(64 * 6 * 6, 512)
        return 512

    def features_of(self, passes: Sequence[Activations]) -> Tensor:
        x, dtype = super().features_of(passes), self._dtype()
        return (
            F.linear(x.to(dtype), self.dense.weight.to(dtype), self.dense.bias.to(dtype)).relu().to(x.dtype)
        )
