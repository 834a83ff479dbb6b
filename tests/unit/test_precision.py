"""Convolutions in half precision against double, and the choice between single and half."""

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


def features_and_gradients(network: ConvLSTM) -> list[torch.Tensor]:
    weights = torch.randn(4, 1024, generator=torch.Generator().manual_seed(1))
    features = network.features(FRAMES)
    parameters = list(network.convolutions.parameters())
    return [features.detach(), *torch.autograd.grad((features * weights).sum(), parameters)]


def test_in_bf16_features_and_gradients_are_those_of_double_precision_but_for_its_digits(network):
    network.trunk_dtype = torch.bfloat16
    half = features_and_gradients(network)
    network.trunk_dtype = None
    exact = features_and_gradients(network.double())
    errors = [
        ((ours - theirs).norm() / theirs.norm()).item() for ours, theirs in zip(half, exact, strict=True)
    ]
    assert {tensor.dtype for tensor in half} == {torch.float32}  # so weights and their gradients stay
    assert 0 < errors[0] < 0.01  # bf16 has eight bits
    # Where two of the four that a pooling chooses from are close, it may choose another, and the gradient goes that way.
    assert max(errors[1:]) < 0.3


def test_a_trunk_in_the_precision_of_its_weights_changes_nothing(network):
    before = features_and_gradients(network)
    network.trunk_dtype = torch.float32
    for ours, theirs in zip(features_and_gradients(network), before, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "dtype"), precision.PRECISIONS.items())
def test_a_precision_that_is_asked_for_is_taken(network, name, dtype):
    set_precision(network, A3CConfig(precision=name, deterministic=True))
    assert network.trunk_dtype is dtype


@pytest.mark.parametrize(("slow", "chosen"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_auto_takes_the_faster_one_and_leaves_network_and_random_state_alone(
    network, monkeypatch, slow, chosen
):
    features, state = network.features, torch.get_rng_state()

    def slowed(frames):
        if network.trunk_dtype == precision.PRECISIONS[slow]:
            time.sleep(2.0)  # more than the other takes anywhere
        return features(frames)

    monkeypatch.setattr(network, "features", slowed)
    assert faster_precision(network, games=1) == chosen
    assert network.trunk_dtype is None and torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())
    set_precision(network, replace(A3CConfig(), envs_per_worker=1))
    assert network.trunk_dtype == precision.PRECISIONS[chosen]


def test_a_deterministic_run_does_not_let_a_timing_decide(network, monkeypatch):
    monkeypatch.setattr(precision, "faster_precision", pytest.fail)
    set_precision(network, A3CConfig(workers=0, deterministic=True))
    assert network.trunk_dtype is None  # fp32, as its weights
