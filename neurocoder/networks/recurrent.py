"""The Atari actor-critic: convolutions, an LSTM, an actor and a critic. Subclasses make the convolutions.

Shapes: T steps, N games, A actions, C channels of an observation, F features, H units of the LSTM. A frame is
80 x 80 grey.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neurocoder.checks import check_fraction, check_sizes
from neurocoder.kernels import convolutions
from neurocoder.kernels.lstm import LSTMWeights, lstm_forward
from neurocoder.output_layers import OutputLayer

FRAME = 80

State = tuple[Tensor, Tensor]
"""LSTM hidden and cell state, (N, H) each."""


class RecurrentActorCritic(nn.Module):
    """An actor-critic whose LSTM remembers what an observation does not show.

    There is no single forward method. Training needs three parts: `features` (convolutions, once a frame),
    `recur` (LSTM over a rollout), and `actor` and `critic` (the output layers, made by the factories).

    Attributes:
        channels: C, the frames of an observation. With `motion` it is one more than `frames`, for the
            differences.

    Raises:
        ValueError: a size is below 1, or `motion` is not from 0 to 1. The message names it.
    """

    compute_dtype: torch.dtype | None = None
    """The precision of the convolutions and of the LSTM's products. None: the precision of their weights. A
    compiled first convolution always has fp32."""
    pooled: ClassVar[bool] = False
    """2 x 2 max-pooling follows each convolution."""

    def __init__(
        self,
        actions: int,
        *,
        actor: OutputLayer = nn.Linear,
        critic: OutputLayer = nn.Linear,
        frames: int = 1,
        motion: float = 0.0,
        lstm_hidden: int = 512,
    ):
        """
        Args:
            frames: the number of newest frames that the convolutions see.
            motion: m. The convolutions see each frame minus m times the frame before it.
        """
        super().__init__()
        check_sizes(actions=actions, frames=frames, lstm_hidden=lstm_hidden)
        check_fraction("motion", motion)
        self.motion, self.channels = motion, frames + (motion > 0)
        features = self.build_convolutions(frames)
        self.lstm = nn.LSTMCell(features, lstm_hidden)
        self.actor = actor(lstm_hidden, actions)
        self.critic = critic(lstm_hidden, 1)
        self._initialise()

    convolutions: nn.ModuleList | nn.Sequential

    def build_convolutions(self, channels: int) -> int:
        """Makes the layers before the LSTM for that many channels. Returns F, the number of features."""
        raise NotImplementedError

    def _initialise(self) -> None:
        """Draws linear output layers and zeroes the LSTM's biases.

        The rows of the actor have norm 0.01, so that the policy starts nearly uniform. The critic's row has norm 1.
        Both norms follow rl_a3c_pytorch. The LSTM has torch's weights and zero biases. In rl_a3c_pytorch the forget
        gate's bias is 1, recurrent weights are orthogonal and input weights Xavier. Other output layers keep
        the values they were made with.
        """
        nn.init.zeros_(self.lstm.bias_ih)
        nn.init.zeros_(self.lstm.bias_hh)
        for layer, norm in ((self.actor, 0.01), (self.critic, 1.0)):
            if isinstance(layer, nn.Linear):
                with torch.no_grad():
                    layer.weight.normal_()
                    layer.weight *= norm / layer.weight.norm(dim=1, keepdim=True)
                    if layer.bias is not None:
                        layer.bias.zero_()

    def initial_state(self, games: int) -> State:
        """The state before the first frame of a game: zeros."""
        new_zeros = self.lstm.bias_ih.new_zeros
        size = games, self.lstm.hidden_size
        # Two separate tensors, because a caller may write into them.
        return new_zeros(size), new_zeros(size)

    def features(self, frames: Tensor) -> Tensor:
        """Observations (N, C, 80, 80), uint8, the newest frame last -> (N, F). What the convolutions see of an
        observation is scaled to zero mean and unit deviation.

        Raises:
            ValueError: frames of another shape.
        """
        return self.features_of([self.activations(frames)])

    def activations(self, frames: Tensor) -> Any:
        """Passes observations through the convolutions. `features_of` makes features of the result, now or later.

        Raises:
            ValueError: frames of another shape.
        """
        return convolutions.activations(
            self.standardised(frames), self.convolutions, self._dtype(), pooled=self.pooled
        )

    def features_of(self, passes: Sequence[Any]) -> Tensor:
        """The features (N, F) of all N observations of these forward passes, in their order, with a gradient.

        The convolutions must still have the weights of the passes.
        """
        return convolutions.features(passes, self.convolutions)

    def _dtype(self) -> torch.dtype:
        return self.compute_dtype or self.lstm.bias_ih.dtype

    def standardised(self, frames: Tensor) -> Tensor:
        """Observations (N, C, 80, 80), uint8 -> what the convolutions see, of zero mean and unit deviation.

        Raises:
            ValueError: frames of another shape.
        """
        if frames.shape[1:] != (self.channels, FRAME, FRAME):
            raise ValueError(
                f"frames have shape {tuple(frames.shape)}; they must be (N, {self.channels}, {FRAME}, {FRAME})"
            )
        x = frames.to(self.lstm.bias_ih.dtype)
        if self.motion:
            x = x[:, 1:] - self.motion * x[:, :-1]
        channels, x = x.shape[1], x.flatten(1)
        x = x - x.mean(dim=1, keepdim=True)
        deviation = torch.linalg.vector_norm(x, dim=1, keepdim=True) / x.shape[1] ** 0.5
        # A black screen has deviation 0. One grey level is 1.
        x = x / (deviation + 1e-2)
        if channels > 1:
            return x.reshape(-1, channels, FRAME, FRAME).contiguous(memory_format=torch.channels_last)
        # Not .contiguous(channels_last): with one channel it leaves strides that torch takes for the default layout.
        return x.reshape(-1, FRAME, FRAME, 1).permute(0, 3, 1, 2)

    def lstm_weights(self) -> LSTMWeights:
        """The LSTM's weights in `compute_dtype`. They are valid as long as the parameters do not change."""
        cell, dtype = self.lstm, self._dtype()
        weights = cell.weight_ih, cell.weight_hh, cell.bias_ih + cell.bias_hh
        return LSTMWeights(*(weight.to(dtype) for weight in weights))

    def step(
        self, features: Tensor, state: State, start: Tensor, weights: LSTMWeights | None = None
    ) -> tuple[Tensor, State]:
        """One LSTM step: features (N, F), start (N,) bool -> hidden (N, H), state.

        `start` is true where `features` show the first frame of a game. `recur` explains `weights`.
        """
        hidden, state = self.recur(features.unsqueeze(0), state, start.unsqueeze(0), weights)
        return hidden.squeeze(0), state

    def recur(
        self, features: Tensor, state: State, start: Tensor, weights: LSTMWeights | None = None
    ) -> tuple[Tensor, State]:
        """LSTM over a rollout: features (T, N, F), start (T, N) -> hidden (T, N, H), state after the last step.

        A caller with many steps passes `lstm_weights` as `weights`, so that they are converted once.
        """
        weights = weights or self.lstm_weights()
        keep = (~start).to(features.dtype).unsqueeze(-1)  # (T, N, 1)
        hidden, c = lstm_forward(features, weights, *state, keep)
        return hidden, (hidden[-1], c)


def convolution(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, padding: int = 0
) -> nn.Conv2d:
    """Makes a convolution with Xavier-uniform weights and zero biases.

    The weights are channels-last, which on a CPU is nearly twice as fast as the default layout.
    """
    layer = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding)
    nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("relu"))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return layer


def dense(features_in: int, features_out: int) -> nn.Linear:
    """Makes a dense layer with Xavier-uniform weights and zero biases."""
    layer = nn.Linear(features_in, features_out)
    nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("relu"))
    nn.init.zeros_(layer.bias)
    return layer
