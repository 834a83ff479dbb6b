"""The paper's Atari network (Table 7, "LSTM", 3.2 M)."""

from typing import ClassVar

from torch import nn

from neurocoder.networks.recurrent import RecurrentActorCritic, convolution


class ConvLSTM(RecurrentActorCritic):
    """Four convolutions with pooling, 1,024 features. 56 million multiply-adds an observation."""

    pooled: ClassVar[bool] = True

    def build_convolutions(self, channels: int) -> int:
        self.convolutions = nn.ModuleList(
            [
                convolution(channels, 32, 5, padding=2),  # 80 -> 80, pooled to 40
                convolution(32, 32, 5, padding=1),  # 40 -> 38, pooled to 19
                convolution(32, 64, 4, padding=1),  # 19 -> 18, pooled to 9
                convolution(64, 64, 3, padding=1),  # 9 -> 9, pooled to 4
            ]
        )
        return 64 * 4 * 4
