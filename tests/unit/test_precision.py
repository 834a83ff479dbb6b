"""Convolutions and LSTM in half precision against double, and the choice between single and half."""

import time
from dataclasses import replace

import pytest
import torch

from agents.a3c import precision
from agents.a3c.config import A3CConfig
from agents.a3c.precision import faster_precision, set_precision
from neurocoder.networks.conv_lstm import ConvLSTM

FRAMES = torch.randint(256, (4, 1, 80, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> ConvLSTM:
    torch.manual_seed(0)
    return ConvLSTM(6)


def values_and_gradients(network: ConvLSTM) -> dict[str, torch.Tensor]:
    """Of two rollout steps on the frames: features, hidden states, and the gradient of a weighted sum of the latter."""
    features = network.features(FRAMES)
    start = torch.zeros(2, 2, dtype=torch.bool)
    hidden, (_, c) = network.recur(features.view(2, 2, 1024), network.initial_state(2), start)
    weights = torch.randn(3, 2, 512, generator=torch.Generator().manual_seed(1))
    names, parameters = zip(
        *[*network.convolutions.named_parameters(), *network.lstm.named_parameters()], strict=True
    )
    gradients = torch.autograd.grad((torch.cat((hidden, c[None])) * weights).sum(), parameters)
    return {"features": features.detach(), "hidden": hidden.detach()} | dict(
        zip(names, gradients, strict=True)
    )


def test_in_bf16_values_and_gradients_are_those_of_double_precision_but_for_its_digits(network):
    network.compute_dtype = torch.bfloat16
    assert all(weight.dtype == torch.bfloat16 for weight in network.lstm_weights())
    half = values_and_gradients(network)
    network.compute_dtype = None
    exact = values_and_gradients(network.double())
    errors = {name: ((half[name] - true).norm() / true.norm()).item() for name, true in exact.items()}
    assert all(
        tensor.dtype == torch.float32 for tensor in half.values()
    )  # so weights and their gradients stay
    assert 0 < errors.pop("features") < 0.01  # bf16 has eight bits
    assert 0 < errors.pop("hidden") < 0.01
    assert max(error for name, error in errors.items() if name.endswith(("ih", "hh"))) < 0.03
    # Where two of the four that a pooling chooses from are close, it may choose another, and the gradient goes that way.
    assert max(errors.values()) < 0.3


def test_the_precision_of_the_weights_changes_nothing(network):
    before = values_and_gradients(network)
    network.compute_dtype = torch.float32
    for name, now in values_and_gradients(network).items():
        assert torch.equal(now, before[name])


@pytest.mark.parametrize(("name", "dtype"), precision.PRECISIONS.items())
def test_a_precision_that_is_asked_for_is_taken(network, name, dtype):
    set_precision(network, A3CConfig(precision=name, deterministic=True))
    assert network.compute_dtype is dtype


@pytest.mark.parametrize(("slow", "chosen"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_auto_takes_the_faster_one_and_leaves_network_and_random_state_alone(
    network, monkeypatch, slow, chosen
):
    features, state = network.features, torch.get_rng_state()

    def slowed(frames):
        if network.compute_dtype == precision.PRECISIONS[slow]:
            time.sleep(2.0)  # more than the other takes anywhere
        return features(frames)

    monkeypatch.setattr(network, "features", slowed)
    assert faster_precision(network, games=1) == chosen
    assert network.compute_dtype is None and torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())
    set_precision(network, replace(A3CConfig(), envs_per_worker=1))
    assert network.compute_dtype == precision.PRECISIONS[chosen]


def test_a_deterministic_run_does_not_let_a_timing_decide(network, monkeypatch):
    monkeypatch.setattr(precision, "faster_precision", pytest.fail)
    set_precision(network, A3CConfig(workers=0, deterministic=True))
    assert network.compute_dtype is None  # fp32, as its weights
