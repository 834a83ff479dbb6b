"""The deep network of IMPALA (Espeholt et al. 2018), with an LSTM of any size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neurocoder.networks.recurrent import RecurrentActorCritic, convolution, dense


class ResidualBlock(nn.Module):
    """x + convolution(relu(convolution(relu(x)))), (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = convolution(channels, channels, 3, padding=1)
        self.second = convolution(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.relu()).relu())


class ImpalaLSTM(RecurrentActorCritic):
    """Three stages of 16, 32 and 32 channels and a dense layer of 256 features.

    A stage is a convolution, 3 x 3 max-pooling with stride 2 and two residual blocks. 46 million multiply-adds an observation.
    """

    def build_convolutions(self, channels: int) -> int:
        stages: list[nn.Module] = []
        for channels_in, channels_out in ((channels, 16), (16, 32), (32, 32)):  # 80 -> 40 -> 20 -> 10
            stages += [
                convolution(channels_in, channels_out, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                ResidualBlock(channels_out),
                ResidualBlock(channels_out),
            ]
        self.convolutions = nn.Sequential(
            *stages, nn.ReLU(), nn.Flatten(), dense(32 * 10 * 10, 256), nn.ReLU()
        )
        return 256

    def activations(self, frames: Tensor) -> Tensor:
        # What a gradient of these layers needs takes a megabyte a frame. So only the frames are kept.
        return self.standardised(frames)

    def features_of(self, passes: Sequence[Tensor]) -> Tensor:
        x, dtype = torch.cat(list(passes)), self._dtype()
        parameters = {name: p.to(dtype) for name, p in self.convolutions.named_parameters()}
        return torch.func.functional_call(self.convolutions, parameters, x.to(dtype)).to(x.dtype)
