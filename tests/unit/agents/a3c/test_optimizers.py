"""The parameter server's optimisers and learning rates against slow computations."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from agents.a3c.config import A3CConfig
from agents.a3c.flat_parameters import flatten_parameters
from agents.a3c.optimizers import SharedRMSProp
from agents.a3c.parameter_server import ParameterServer
from agents.actor_critic.network import build_network
from envs.atari import action_count
from tests.unit.agents.a3c.reports import next_report

ACTIONS = action_count("pong")


def random_gradients(count: int, size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 10.0 ** rng.integers(-3, 2), size).astype(np.float32) for _ in range(count)]


def slow_rmsprop(start, gradients, rates, decay, epsilon):
    """Computes theta and g of Mnih et al. 2016, one number after another."""
    parameters, squares = [float(value) for value in start], [0.0] * len(start)
    for gradient, rate in zip(gradients, rates, strict=True):
        for i, slope in enumerate(map(float, gradient)):
            squares[i] = decay * squares[i] + (1 - decay) * slope * slope
            parameters[i] -= rate * slope / math.sqrt(squares[i] + epsilon)
    return parameters, squares


def test_shared_rmsprop_equals_the_formula_number_by_number():
    start, gradients = torch.randn(40, generator=torch.Generator().manual_seed(0)), random_gradients(6, 40)
    parameter = nn.Parameter(start.clone())
    optimizer = SharedRMSProp([parameter], lr=0.02, decay=0.9, epsilon=0.1)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    parameters, squares = slow_rmsprop(start, gradients, [0.02] * 6, decay=0.9, epsilon=0.1)
    assert parameter.tolist() == pytest.approx(parameters, rel=1e-5, abs=1e-6)
    assert optimizer.state[parameter]["square_average"].tolist() == pytest.approx(squares, rel=1e-5)


def test_the_learning_rate_falls_linearly_to_0_over_the_total_steps_and_stays_there():
    server = ParameterServer(A3CConfig(head="mlp", total_steps=100, learning_rate=0.08))
    gradient, rates = np.zeros(server.flat.numel(), dtype=np.float32), [server.learning_rate]
    for steps in (25, 15, 10, 50, 30):
        server.push(gradient, next_report(server, steps=steps))
        rates.append(server.learning_rate)
    assert rates == pytest.approx([0.08, 0.06, 0.048, 0.04, 0.0, 0.0])


def test_without_annealing_the_learning_rate_stays():
    server = ParameterServer(A3CConfig(head="mlp", total_steps=100, learning_rate=0.08, anneal=False))
    server.push(np.zeros(server.flat.numel(), dtype=np.float32), next_report(server, steps=75))
    assert server.learning_rate == 0.08


def test_metrics_have_the_learning_rate_and_the_entropy_weight_of_their_step():
    config = A3CConfig(
        head="mlp", total_steps=100, learning_rate=0.08, entropy_weight=0.02, anneal_entropy=True
    )
    server, values = ParameterServer(config), []
    for steps in (25, 50, 40):
        server.push(np.zeros(server.flat.numel(), dtype=np.float32), next_report(server, steps=steps))
        metrics = server.drain()
        values += [metrics.learning_rate, metrics.entropy_weight]
    assert values == pytest.approx([0.06, 0.015, 0.02, 0.005, 0.0, 0.0])


def test_every_update_uses_the_annealed_rate_of_its_step():
    config = A3CConfig(head="mlp", total_steps=100, learning_rate=0.08)
    server = ParameterServer(config)
    # The slow computation is for a few of the three million parameters.
    shown = torch.arange(0, server.flat.numel(), 40_000)
    start, gradients = server.flat.detach()[shown].clone(), random_gradients(5, server.flat.numel())
    for gradient in gradients:
        server.push(gradient, next_report(server, steps=25))
    expected, _ = slow_rmsprop(
        start,
        [gradient[shown.numpy()] for gradient in gradients],
        [0.08, 0.06, 0.04, 0.02, 0.0],
        config.rmsprop_decay,
        config.rmsprop_epsilon,
    )
    assert server.flat.detach()[shown].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("head", "optimizer"), [("mlp", "adam"), ("neurocoder", "adam"), ("mlp", "amsgrad")])
def test_an_optimizer_of_torch_moves_the_flat_vector_as_it_moves_the_separate_parameters(head, optimizer):
    config = A3CConfig(head=head, optimizer=optimizer, total_steps=100, seed=5)
    server = ParameterServer(config)
    torch.manual_seed(5)
    network = build_network(config)
    reference = torch.optim.Adam(
        network.parameters(),
        lr=config.learning_rate,
        eps=config.adam_epsilon,
        amsgrad=optimizer == "amsgrad",
    )
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    # The carrier holds a gradient both as one vector and parameter by parameter.
    carrier = build_network(config)
    _, flat_gradient = flatten_parameters(carrier)
    for update, gradient in enumerate(random_gradients(4, server.flat.numel())):
        flat_gradient.copy_(torch.from_numpy(gradient))
        for parameter, view in zip(network.parameters(), carrier.parameters(), strict=True):
            parameter.grad = view.grad.clone()
        reference.param_groups[0]["lr"] = config.learning_rate * (1 - update * 20 / 100)
        reference.step()
        server.push(gradient, next_report(server, steps=20))

    updated = server.network.state_dict()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(updated[name], parameter.detach(), rtol=1e-5, atol=1e-7)
        assert not torch.allclose(parameter, start[name]), name
