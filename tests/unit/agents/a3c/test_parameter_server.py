"""Pushes that the parameter server must not apply, and gradients that are not finite."""

import numpy as np
import pytest
import torch

from agents.a3c.config import A3CConfig
from agents.a3c.local_training import LocalTraining
from agents.a3c.parameter_server import ParameterServer
from agents.a3c.worker import RolloutWorker
from agents.errors import TrainingError
from envs.atari import AtariGames
from tests.unit.agents.a3c.reports import next_report


@pytest.fixture
def server() -> ParameterServer:
    return ParameterServer(A3CConfig(head="mlp", total_steps=10_000, max_staleness=2, max_bad_updates=3))


@pytest.fixture
def gradient(server) -> np.ndarray:
    return np.ones(server.flat.numel(), dtype=np.float32)


def state(server: ParameterServer) -> tuple:
    return server.updates, server.env_steps, server.flat.detach().clone().numpy().tobytes()


def test_a_push_that_arrives_twice_is_applied_once(server, gradient):
    report = next_report(server)
    server.push(gradient, report)
    before = state(server)
    answer = server.push(gradient, report)
    assert state(server) == before
    assert server.faults == dict(duplicate=1, late=0, not_finite=0, steps_lost=0)
    # The worker continues with the newest weights.
    assert answer.version == server.updates == 1
    assert answer.env_steps == server.env_steps > 0


def test_a_push_of_a_restarted_worker_is_not_taken_for_an_old_one(server, gradient):
    for number in (1, 2, 3):
        server.push(gradient, next_report(server, number=number))
    server.push(gradient, next_report(server, attempt=1, number=1))
    assert server.updates == 4
    # The worker before the restart pushes once more.
    server.push(gradient, next_report(server, attempt=0, number=4))
    assert server.updates == 4 and server.faults["duplicate"] == 1


def test_pushes_of_one_worker_do_not_count_as_repeats_of_another(server, gradient):
    for worker in (0, 1, 0, 1):
        server.push(gradient, next_report(server, worker=worker))
    assert server.updates == 4 and server.faults["duplicate"] == 0


def test_a_push_beyond_the_largest_staleness_is_discarded_and_its_steps_are_counted_as_lost(server, gradient):
    for _ in range(3):
        server.push(gradient, next_report(server))
    # A push 2 versions behind is still applied.
    server.push(gradient, next_report(server, worker=1, version=1))
    assert server.updates == 4
    before = state(server)
    server.push(gradient, next_report(server, worker=2, version=1, steps=17))
    assert state(server) == before
    assert server.faults["late"] == 1 and server.faults["steps_lost"] == 17


def test_gradients_that_are_not_finite_are_refused_and_one_too_many_ends_the_run_with_its_name(
    server, gradient
):
    gradient[5] = np.nan
    before = state(server)
    for refused in (1, 2, 3):
        server.push(gradient, next_report(server, not_finite="the gradient of critic.weight"))
        assert state(server) == before
        assert server.faults["not_finite"] == refused and server.faults["steps_lost"] == 20 * refused
    with pytest.raises(
        TrainingError, match=r"the gradient of critic\.weight .* worker 0 on Pong.* 4 updates"
    ):
        server.push(gradient, next_report(server, not_finite="the gradient of critic.weight"))
    assert state(server) == before


def small(**changes) -> A3CConfig:
    return A3CConfig(head="mlp", workers=0, envs_per_worker=2, rollout_steps=3, **changes)


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_reported_and_not_clipped(reward, monkeypatch):
    step = AtariGames.step

    def spoilt(games, actions):
        return step(games, actions)._replace(reward=np.full(games.count, reward, dtype=np.float32))

    worker = RolloutWorker(small(), 0)
    assert worker.rollout(0, 0)[1].not_finite is None
    monkeypatch.setattr(AtariGames, "step", spoilt)
    assert worker.rollout(0, 0)[1].not_finite == "the reward of a game"
    monkeypatch.setattr(AtariGames, "step", step)
    # The next rollout is sound again.
    gradient, report = worker.rollout(0, 0)
    assert report.not_finite is None and np.isfinite(gradient).all()


def test_the_first_parameter_or_else_gradient_that_is_not_finite_is_named():
    worker = RolloutWorker(small(), 0)
    with torch.no_grad():
        worker.network.critic.weight[0, 3] = torch.inf
    # The infinite value makes every gradient of the critic's inputs infinite. The parameter is the cause.
    assert worker.rollout(0, 0)[1].not_finite == "the parameter critic.weight"
    with torch.no_grad():
        worker.network.critic.weight[0, 3] = 1e38
        worker.network.lstm.bias_ih.fill_(1e5)  # so that the LSTM's outputs are 1
    assert worker.rollout(0, 0)[1].not_finite.startswith("the gradient of ")


@pytest.mark.parametrize("parameter", ["convolutions.0.weight", "lstm.bias_ih", "actor.bias"])
def test_a_policy_that_has_diverged_plays_on_and_its_gradients_are_counted(parameter):
    with LocalTraining(small(max_bad_updates=2)) as training:
        training.advance()
        training.server.network.get_parameter(parameter).data[0] = torch.nan
        for _ in range(2):
            training.advance()
        assert training.drain().faults["not_finite"] == 2
        with pytest.raises(TrainingError, match=f"the parameter {parameter} was not finite.*--learning-rate"):
            training.advance()


def test_a_run_whose_gradients_are_all_not_finite_ends_with_an_error(monkeypatch):
    step = AtariGames.step
    with LocalTraining(small(max_bad_updates=4)) as training:
        training.advance()
        weights = training.server.flat.detach().clone()
        monkeypatch.setattr(
            AtariGames,
            "step",
            lambda games, actions: step(games, actions)._replace(reward=np.full(2, np.nan)),
        )
        for _ in range(4):
            training.advance()
        assert training.drain().faults["not_finite"] == 4
        with pytest.raises(TrainingError, match="the reward of a game was not finite"):
            training.advance()
        assert torch.equal(training.server.flat, weights)
