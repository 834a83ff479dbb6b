"""The networks before the LSTM: their shapes and counts, against torch's own layers, and what they see of frames."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents.actor_critic.network import CLASSES
from neurocoder.networks.conv_lstm import ConvLSTM
from neurocoder.networks.impala import ImpalaLSTM
from neurocoder.networks.nature import NatureLSTM
from neurocoder.networks.strided import StridedLSTM

NETWORKS = list(CLASSES.values())


def frames(number, channels=1, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, channels, 80, 80), dtype=torch.uint8, generator=draw)


def make(kind, **settings):
    torch.manual_seed(0)
    return kind(6, **settings).double()


def by_torch(network, x):
    """The features of standardised frames x (N, C, 80, 80), by torch's modules as the papers list them."""
    x = x.contiguous()
    if isinstance(network, ConvLSTM):
        for layer in network.convolutions:
            x = F.max_pool2d(layer(x).relu(), 2)
    elif isinstance(network, ImpalaLSTM):
        stages = list(network.convolutions)
        for i in range(0, 12, 4):
            x = stages[i + 1](stages[i](x))
            for block in stages[i + 2 : i + 4]:
                x = x + block.second(block.first(x.relu()).relu())
        x = stages[-2](x.relu().flatten(1)).relu()
    else:
        for layer in network.convolutions:
            x = layer(x).relu()
        if isinstance(network, NatureLSTM):
            x = network.dense(x.flatten(1)).relu()
    return x.flatten(1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_features_and_gradients_of_separate_passes_are_those_of_torchs_modules(kind, channels):
    network = make(kind, frames=channels)
    steps = [frames(number, channels, seed=number) for number in (2, 1)]
    result = network.features_of([network.activations(x) for x in steps])
    expected = by_torch(network, network.standardised(torch.cat(steps)))
    assert result.shape == expected.shape == (3, network.lstm.input_size)
    weights = torch.randn_like(expected)
    parameters = [
        p for name, p in network.named_parameters() if name.split(".")[0] in ("convolutions", "dense")
    ]
    ours = torch.autograd.grad(result, parameters, weights)
    theirs = torch.autograd.grad(expected, parameters, weights)
    for a, b in zip((result, *ours), (expected, *theirs), strict=True):
        assert b.norm() > 0 and (a - b).norm() < 1e-10 * b.norm()


@pytest.mark.parametrize("kind", NETWORKS)
def test_half_precision_gives_nearly_the_same_features(kind):
    torch.manual_seed(0)
    network = kind(6)
    exact = network.features(frames(4))
    network.compute_dtype = torch.bfloat16
    half = network.features(frames(4))
    assert half.dtype == torch.float32
    assert 0 < (half - exact).norm() < 0.03 * exact.norm()


def test_strides_keep_the_state_dict_and_the_maps_of_the_papers_network():
    pooled, strided = make(ConvLSTM), make(StridedLSTM)
    strided.load_state_dict(pooled.state_dict())
    maps = [
        [tuple(x.shape) for x in (*passes.inputs, passes.output)]
        for passes in (pooled.activations(frames(1)), strided.activations(frames(1)))
    ]
    assert maps[0] == maps[1]


def test_the_dense_layers_have_the_sizes_of_their_papers():
    nature = make(NatureLSTM, frames=4)
    assert [tuple(layer.weight.shape) for layer in nature.convolutions] == [
        (32, 4, 8, 8),
        (64, 32, 4, 4),
        (64, 64, 3, 3),
    ]
    assert nature.dense.out_features == nature.lstm.input_size == 512
    impala = make(ImpalaLSTM, lstm_hidden=256)
    convolutions = [layer for layer in impala.convolutions.modules() if isinstance(layer, nn.Conv2d)]
    # The paper counts 15 convolutions: three stages of one and two residual blocks of two.
    assert [layer.out_channels for layer in convolutions] == [16] * 5 + [32] * 10
    assert impala.lstm.input_size == impala.lstm.hidden_size == 256


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_lstm_and_the_heads_have_the_size_asked_for(kind):
    network = make(kind, lstm_hidden=32)
    state = network.initial_state(2)
    hidden, (h, c) = network.step(network.features(frames(2)), state, torch.ones(2, dtype=torch.bool))
    assert hidden.shape == h.shape == c.shape == (2, 32)
    assert network.actor(hidden).shape == (2, 6) and network.critic(hidden).shape == (2, 1)


def test_motion_subtracts_the_frame_before():
    network, x = make(ConvLSTM, frames=2, motion=0.5), frames(3, 3)
    seen = network.standardised(x)
    slow = torch.stack([torch.stack([o[i] - 0.5 * o[i - 1] for i in (1, 2)]) for o in x.double()])
    slow = (slow - slow.mean((1, 2, 3), keepdim=True)) / slow.std((1, 2, 3), keepdim=True, correction=0)
    assert network.channels == 3 and seen.shape == (3, 2, 80, 80)
    torch.testing.assert_close(seen, slow, rtol=1e-3, atol=1e-3)  # 0.01 is added to the deviation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(frames=0), "frames is 0"),
        (dict(lstm_hidden=0), "lstm_hidden is 0"),
        (dict(motion=1.5), "motion is 1.5"),
        (dict(motion=float("nan")), "motion is nan"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvLSTM(6, **settings)
