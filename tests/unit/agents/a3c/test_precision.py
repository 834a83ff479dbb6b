"""Convolutions and LSTM in half precision against double precision, and the choice between single and half."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from agents.a3c import precision
from agents.a3c.config import A3CConfig
from agents.a3c.parameter_server import ParameterServer
from agents.a3c.precision import choose_precision, faster_precision, node_kind
from agents.a3c.worker import RolloutWorker, begin_worker
from neurocoder.networks.conv_lstm import ConvLSTM

SMALL = A3CConfig(head="mlp", envs_per_worker=1)
FRAMES = torch.randint(256, (4, 1, 80, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> ConvLSTM:
    torch.manual_seed(0)
    return ConvLSTM(6)


def values_and_gradients(network: ConvLSTM) -> dict[str, torch.Tensor]:
    """Computes two rollout steps: features, hidden states, and the gradient of a weighted sum of the hidden states."""
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


def test_bf16_gives_the_values_and_gradients_of_double_precision_to_its_number_of_digits(network):
    network.compute_dtype = torch.bfloat16
    assert all(weight.dtype == torch.bfloat16 for weight in network.lstm_weights())
    half = values_and_gradients(network)
    network.compute_dtype = None
    exact = values_and_gradients(network.double())
    errors = {name: ((half[name] - true).norm() / true.norm()).item() for name, true in exact.items()}
    # Weights and their gradients stay in single precision.
    assert all(tensor.dtype == torch.float32 for tensor in half.values())
    # bf16 has eight bits.
    assert 0 < errors.pop("features") < 0.01
    assert 0 < errors.pop("hidden") < 0.01
    assert max(error for name, error in errors.items() if name.endswith(("ih", "hh"))) < 0.03
    # Pooling may choose another of four numbers if they are close, and the gradient then takes another way.
    assert max(errors.values()) < 0.3


def test_computing_in_the_precision_of_the_weights_changes_nothing(network):
    before = values_and_gradients(network)
    network.compute_dtype = torch.float32
    for name, now in values_and_gradients(network).items():
        assert torch.equal(now, before[name])


@pytest.mark.parametrize(("name", "dtype"), precision.PRECISIONS.items())
def test_a_precision_that_is_asked_for_is_used(name, dtype):
    worker = RolloutWorker(A3CConfig(precision=name, envs_per_worker=1, head="mlp"), 0)
    assert worker.precision == name and worker.network.compute_dtype is dtype


@pytest.mark.parametrize(("slow", "chosen"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_auto_chooses_the_faster_precision_and_leaves_network_and_random_state_unchanged(
    network, monkeypatch, slow, chosen
):
    features, state, delays = network.features, torch.get_rng_state(), [0.0]

    def slowed(frames):
        if network.compute_dtype == precision.PRECISIONS[slow]:
            # No machine takes these seconds in the other precision.
            delays.append(20.0)
        return features(frames)

    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + sum(delays))
    monkeypatch.setattr(network, "features", slowed)
    monkeypatch.setattr(precision, "time", clock)
    assert faster_precision(network, games=1) == chosen
    assert network.compute_dtype is None and torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert choose_precision(network, A3CConfig(envs_per_worker=1)) == chosen


def test_a_deterministic_run_does_not_choose_by_time(network, monkeypatch):
    monkeypatch.setattr(precision, "faster_precision", pytest.fail)
    assert choose_precision(network, A3CConfig(workers=0, deterministic=True)) == "fp32"


KIND = "a kind of node"


def test_all_workers_on_a_kind_of_node_use_the_precision_that_the_first_of_them_chose(monkeypatch):
    chosen = iter(("bf16", "fp32"))
    monkeypatch.setattr("agents.a3c.worker.node_kind", lambda device: KIND)
    monkeypatch.setattr("agents.a3c.worker.choose_precision", lambda network, config: next(chosen))
    server = ParameterServer(SMALL)
    # The second worker asks before the first has chosen.
    both_asked = server.begin(1, KIND)
    first = begin_worker(SMALL, 0, server.begin, server.decide_precision)
    second = begin_worker(SMALL, 1, lambda *_: both_asked, server.decide_precision)
    # The third does not choose, since no choice is left.
    third = begin_worker(SMALL, 2, server.begin, server.decide_precision)
    assert [worker.precision for worker in (first, second, third)] == ["bf16"] * 3
    assert second.network.compute_dtype == torch.bfloat16
    assert server.drain().precisions == server.snapshot().precisions == {KIND: "bf16"}
    server.decide_precision("another kind", "fp32")
    assert server.begin(3, KIND).precision == "bf16" and server.begin(4, "another kind").precision == "fp32"


def test_a_resumed_run_uses_the_precision_chosen_before_unless_another_is_asked_for():
    server = ParameterServer(SMALL)
    server.decide_precision(KIND, "bf16")
    snapshot = server.snapshot()
    assert ParameterServer(SMALL, snapshot).begin(0, KIND).precision == "bf16"
    asked = replace(SMALL, precision="fp32")
    resumed = ParameterServer(asked, snapshot)
    worker = begin_worker(asked, 0, resumed.begin, resumed.decide_precision)
    assert worker.precision == "fp32" and set(resumed.precisions.values()) == {"fp32"}


def test_a_kind_of_node_is_named_after_its_processor_and_its_instructions_for_bf16():
    kind = node_kind(torch.device("cpu"))
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    assert [flag in kind.split() for flag in ("amx_bf16", "avx512_bf16")] == [
        flag in flags for flag in ("amx_bf16", "avx512_bf16")
    ]
