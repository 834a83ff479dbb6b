"""The paper's Atari network with strides of 2 in place of pooling."""

from torch import nn

from neurocoder.networks.recurrent import RecurrentActorCritic, convolution


class StridedLSTM(RecurrentActorCritic):
    """The kernels, parameter shapes and maps of `ConvLSTM`: a state dict of one loads into the other.

    14 million multiply-adds an observation.
    """

    def build_convolutions(self, channels: int) -> int:
        self.convolutions = nn.ModuleList(
            [
                convolution(channels, 32, 5, stride=2, padding=2),  # 80 -> 40
                convolution(32, 32, 5, stride=2, padding=1),  # 40 -> 19
                convolution(32, 64, 4, stride=2, padding=1),  # 19 -> 9
                convolution(64, 64, 3, stride=2),  # 9 -> 4
            ]
        )
        return 64 * 4 * 4
