"""The Atari network: its output layers, its LSTM over a rollout against one step at a time, its features of a frame."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neurocoder import OUTPUT_LAYERS, NeurocoderLinear, output_layer
from neurocoder.networks.conv_lstm import ConvLSTM

# Table 6, Atari.
NEUROCODER = output_layer("neurocoder", slots=80, key_dim=3, heads=15, variant="release")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ConvLSTM(6).double()


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_frames(number, *, low=0, high=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (number, 1, 80, 80), dtype=torch.uint8, generator=generator)


# Output layers


def test_actor_and_critic_are_made_by_the_factories_given():
    network = ConvLSTM(7, actor=NEUROCODER, critic=output_layer("hypernet", hidden=8))
    hidden = torch.randn(4, 3, 512)
    assert isinstance(network.actor, NeurocoderLinear)
    assert network.actor(hidden).shape == (4, 3, 7)
    assert isinstance(network.critic, OUTPUT_LAYERS["hypernet"])
    assert network.critic(hidden).shape == (4, 3, 1)


def test_the_plain_actor_starts_close_to_uniform():
    torch.manual_seed(0)
    network = ConvLSTM(18)
    policy = network.actor(torch.rand(100, 512) * 2 - 1).softmax(dim=-1)
    assert policy.min() > 0.7 / 18 and policy.max() < 1.4 / 18


def test_a_plain_output_layer_may_have_no_bias():
    network = ConvLSTM(6, actor=output_layer("mlp", bias=False))
    assert network.actor.bias is None and network.actor.weight.norm(dim=1).allclose(torch.tensor(0.01))


@pytest.mark.parametrize("shape", [(2, 4, 80, 80), (2, 1, 84, 84), (2, 80, 80)], ids=str)
def test_frames_of_another_shape_are_refused(shape):
    with pytest.raises(
        ValueError, match=re.escape(f"frames have shape {shape}; they must be (N, 1, 80, 80)")
    ):
        ConvLSTM(6).features(torch.zeros(shape, dtype=torch.uint8))


# The LSTM over a rollout

T, N = 6, 3
STARTS = torch.zeros(T, N, dtype=torch.bool)
STARTS[0, 1] = STARTS[2, 0] = STARTS[2, 1] = STARTS[3, 1] = STARTS[5, 2] = True
MASKS = {"none": torch.zeros_like(STARTS), "some": STARTS, "all": torch.ones_like(STARTS)}


def rollout_input(scale=1.0):
    features = (scale * random(T, N, 1024)).requires_grad_()
    return features, tuple(random(N, 512, seed=seed).requires_grad_() for seed in (1, 2))


def assert_same_values_and_gradients(network, inputs, results):
    """Compares two results (hidden, (h, c)), and the gradients of a weighted sum of all their tensors."""
    flat = [(hidden, *state) for hidden, state in results]
    weights = [random(*value.shape, seed=seed) for seed, value in enumerate(flat[0])]
    gradients = []
    for values in flat:
        loss = sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))
        gradients.append(torch.autograd.grad(loss, [*inputs, *network.lstm.parameters()]))
    for pair in (*zip(*flat, strict=True), *zip(*gradients, strict=True)):
        torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("start", MASKS.values(), ids=MASKS)
def test_recur_equals_the_cell_of_torch_restarted_from_zero_at_each_start(network, start):
    features, state = rollout_input()
    hidden, (h, c) = [], state
    for t in range(T):
        keep = (~start[t]).unsqueeze(-1)
        h, c = network.lstm(features[t], (h * keep, c * keep))
        hidden.append(h)
    results = network.recur(features, state, start), (torch.stack(hidden), (h, c))
    assert_same_values_and_gradients(network, (features, *state), results)


def test_step_is_a_rollout_of_one(network):
    features, state = rollout_input()
    hidden, now = network.step(features[0], state, STARTS[0])
    rollout, (h, c) = network.recur(features[:1], state, STARTS[:1], network.lstm_weights())
    assert hidden.shape == (N, 512)
    assert all(map(torch.equal, (hidden, *now), (rollout[0], h, c)))


def test_recur_without_starts_is_the_lstm_of_torch(network):
    features, state = rollout_input()
    lstm = nn.LSTM(1024, 512).double()
    lstm.load_state_dict({f"{name}_l0": value for name, value in network.lstm.state_dict().items()})
    expected, (h, c) = lstm(features, (state[0][None], state[1][None]))
    hidden, now = network.recur(features, state, MASKS["none"])
    for ours, theirs in ((hidden, expected), (now[0], h[0]), (now[1], c[0])):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("game", range(N))
def test_a_start_zeroes_exactly_the_state_of_its_game(network, game):
    features, state = rollout_input()
    start = torch.zeros(T, N, dtype=torch.bool)
    start[3, game] = True
    with torch.no_grad():
        undisturbed, _ = network.recur(features, state, MASKS["none"])
        hidden, now = network.recur(features, state, start)
        fresh, (h, c) = network.recur(features[3:], network.initial_state(N), MASKS["none"][3:])
    others = [other for other in range(N) if other != game]
    close = dict(rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(hidden[:, others], undisturbed[:, others], **close)
    torch.testing.assert_close(hidden[:3, game], undisturbed[:3, game], **close)
    torch.testing.assert_close(hidden[3:, game], fresh[:, game], **close)
    torch.testing.assert_close(torch.stack(now)[:, game], torch.stack((h, c))[:, game], **close)
    assert not torch.allclose(hidden[3:, game], undisturbed[3:, game])


def test_no_gradient_crosses_a_start(network):
    features, state = rollout_input()
    start = torch.zeros(T, N, dtype=torch.bool)
    start[3, 1] = True
    hidden, _ = network.recur(features, state, start)
    (gradient,) = torch.autograd.grad(hidden[3:].square().sum(), features)
    assert gradient[:3, 1].count_nonzero() == 0
    assert (gradient[:3, [0, 2]].flatten(2).norm(dim=-1) > 0).all()
    assert (gradient[3:].norm(dim=-1) > 0).all()


def test_the_state_before_the_first_frame_is_zero(network):
    for part in network.initial_state(4):
        assert part.shape == (4, 512) and part.dtype == torch.float64 and part.count_nonzero() == 0


# Features


def reference_features(network, frame):
    """One frame (80, 80) uint8 -> (1024,), with ReLU before pooling."""
    grey = np.asarray(frame, dtype=np.float64)
    deviation = np.sqrt(((grey - grey.mean()) ** 2).mean())
    x = torch.from_numpy((grey - grey.mean()) / (deviation + 0.01))[None, None]
    for convolution in network.convolutions:
        x = F.max_pool2d(convolution(x.contiguous()).relu(), 2)
    return x.reshape(-1)


def test_features_are_relu_then_pool_of_each_frame_normalised_by_itself(network):
    frames = torch.cat((random_frames(2), random_frames(1, low=90, high=95)))
    frames[1, :, 20:60] = 0
    features = network.features(frames)
    assert features.shape == (3, 1024)
    expected = torch.stack([reference_features(network, frame[0]) for frame in frames])
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-10)
    weights = random(3, 1024)
    parameters = list(network.convolutions.parameters())
    ours, theirs = (torch.autograd.grad((f * weights).sum(), parameters) for f in (features, expected))
    for fast, slow in zip(ours, theirs, strict=True):
        assert slow.count_nonzero() > 0
        torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-9)


def test_features_of_a_frame_do_not_depend_on_the_rest_of_the_batch(network):
    frame, dark = random_frames(1), random_frames(2, high=20, seed=1)
    alone = network.features(frame)
    batch = network.features(torch.cat((dark, frame, 255 - dark)))
    torch.testing.assert_close(batch[2:3], alone, rtol=1e-10, atol=1e-11)


def test_brightness_and_contrast_matter_only_through_the_constant_added_to_the_deviation(network):
    frame = random_frames(1, high=60)
    deviation = np.asarray(frame, dtype=np.float64).std()
    # Initial biases are zero, and ReLUs and poolings commute with a positive factor.
    factor = (3 * deviation / (3 * deviation + 0.01)) / (deviation / (deviation + 0.01))
    expected = factor * network.features(frame)
    torch.testing.assert_close(network.features(3 * frame + 40), expected, rtol=1e-9, atol=1e-11)
    assert abs(factor - 1) < 1e-3


@pytest.mark.parametrize("grey", [0, 1, 255])
def test_a_screen_of_one_colour_gives_finite_features(network, grey):
    frames = torch.full((2, 1, 80, 80), grey, dtype=torch.uint8)
    features = network.features(frames)
    assert features.isfinite().all()
    gradients = torch.autograd.grad(features.sum(), list(network.convolutions.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
