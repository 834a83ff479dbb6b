"""Training in one process, which is the same bit for bit when it is repeated, stored or resumed."""

from dataclasses import replace

import pytest
import torch

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from agents.a3c.local_training import LocalTraining
from agents.actor_critic.training import Snapshot
from agents.runs.checkpoints import CheckpointError, load_checkpoint
from agents.runs.policy import policy_settings, to_policy
from agents.runs.snapshots import to_snapshot
from envs.atari import action_names
from neurocoder.settings import NeurocoderSettings
from tests.unit.agents.a3c.reports import ROLLOUT_TAGS
from tests.unit.agents.runs.saved_runs import save

# Agent steps of an update.
STEPS = 2 * 3
OPTIMIZERS = ("rmsprop", "adam", "amsgrad")


@pytest.fixture(autouse=True)
def unchanged_torch():
    """Resets torch's choice of deterministic algorithms."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def tiny(**settings) -> A3CConfig:
    defaults = dict(
        env="Breakout", head="neurocoder", neurocoder=NeurocoderSettings(slots=8, heads=2), workers=0,
        deterministic=True, envs_per_worker=2, rollout_steps=3, total_steps=10 * STEPS,
    )  # fmt: skip
    return A3CConfig(**(defaults | settings))


def train(training: LocalTraining, *, updates: int) -> Snapshot:
    for _ in range(updates):
        training.advance()
    return training.snapshot()


def assert_bit_identical(first: Snapshot, other: Snapshot) -> None:
    for group in ("parameters", "optimizer", "random_states"):
        tensors, others = getattr(first, group), getattr(other, group)
        assert tensors.keys() == others.keys() and tensors
        for name in tensors:
            assert tensors[name].dtype == others[name].dtype
            assert torch.equal(tensors[name], others[name]), f"{group}: {name}"
    for counter in ("env_steps", "updates", "episodes", "recent_returns", "mean_return"):
        assert getattr(first, counter) == getattr(other, counter), counter


@pytest.fixture(scope="module", params=OPTIMIZERS)
def run(request) -> tuple[A3CConfig, Snapshot]:
    """The settings of a run, and its snapshot after a few updates."""
    config = tiny(optimizer=request.param)
    with start_training(config) as training:
        return config, train(training, updates=4)


@pytest.mark.parametrize("run", OPTIMIZERS[:1], indirect=True)
def test_two_runs_with_the_same_seed_are_bit_identical_and_have_learned(run):
    config, snapshot = run
    with start_training(config) as training:
        before = training.snapshot()
        assert_bit_identical(train(training, updates=4), snapshot)
    assert (snapshot.env_steps, snapshot.updates) == (4 * STEPS, 4)
    unchanged = [
        name for name in before.parameters if torch.equal(*(s.parameters[name] for s in (before, snapshot)))
    ]
    assert unchanged == []


@pytest.mark.parametrize("run", OPTIMIZERS[:1], indirect=True)
def test_another_seed_gives_another_run(run):
    config, snapshot = run
    with start_training(replace(config, seed=2)) as training:
        other = train(training, updates=4)
    for name, parameter in snapshot.parameters.items():
        assert not torch.equal(parameter, other.parameters[name]), name
    assert not torch.equal(snapshot.random_states["0"], other.random_states["0"])


def test_a_checkpoint_gives_back_the_snapshot_bit_for_bit(run, tmp_path):
    config, snapshot = run
    # The run is too short for games to end.
    snapshot = replace(snapshot, episodes=3, recent_returns=[0.1, -21.0, 1e6])
    checkpoint = load_checkpoint(save(tmp_path, snapshot, config))
    assert_bit_identical(to_snapshot(Snapshot, checkpoint), snapshot)
    assert checkpoint.state["mean_return"] == snapshot.mean_return
    assert policy_settings(checkpoint) == config.policy()


@pytest.mark.parametrize("run", OPTIMIZERS[:1], indirect=True)
def test_a_policy_from_a_checkpoint_answers_like_the_network_that_was_trained(run, tmp_path):
    config, _ = run
    with start_training(config) as training:
        checkpoint = load_checkpoint(save(tmp_path, train(training, updates=4), config))
        network, trained = to_policy(checkpoint)[0].network, training.server.network
    frames = torch.randint(256, (3, 1, 80, 80), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    # The last bits differ: the trained weights lie in one vector, and kernels depend on the alignment of memory.
    torch.testing.assert_close(outputs(network, frames), outputs(trained, frames), rtol=1e-4, atol=1e-6)
    assert outputs(network, frames)[0].std() > 1e-3


@torch.no_grad()
def outputs(network, frames):
    hidden, _ = network.step(
        network.features(frames), network.initial_state(3), torch.ones(3, dtype=torch.bool)
    )
    return network.actor(hidden), network.critic(hidden)


def test_a_resumed_run_equals_a_run_that_only_restarts_its_games_at_that_step(run, tmp_path):
    config, snapshot = run
    with start_training(config) as training:
        train(training, updates=4)
        training.worker.restart_games(4 * STEPS)
        expected = train(training, updates=4)
    loaded = to_snapshot(Snapshot, load_checkpoint(save(tmp_path, snapshot, config)))
    with start_training(config, loaded) as resumed:
        assert resumed.drain().learning_rate == pytest.approx(config.learning_rate * 0.6)
        assert_bit_identical(train(resumed, updates=4), expected)
    assert (expected.env_steps, expected.updates) == (8 * STEPS, 8)


def test_a_run_ends_with_the_update_that_takes_its_last_step():
    with start_training(tiny(total_steps=2 * STEPS + 1)) as training:
        updates = 0
        while not training.finished:
            training.advance()
            updates += 1
        metrics = training.drain()
    assert updates == metrics.updates == 3
    assert (metrics.env_steps, metrics.learning_rate) == (3 * STEPS, 0.0)
    assert metrics.staleness == 0.0
    assert metrics.scalars.keys() == ROLLOUT_TAGS | {
        f"policy/action/{name}" for name in action_names("breakout")
    }


@pytest.mark.parametrize("run", OPTIMIZERS[:1], indirect=True)
@pytest.mark.parametrize(
    "altered",
    [
        dict(head="mlp"),
        dict(env="Pong"),
        dict(neurocoder={"slots": 9}),
        dict(head="invented"),
        dict(invented=1),
    ],
    ids=["another head", "another game", "another size", "an unknown head", "an unknown setting"],
)
def test_a_checkpoint_whose_settings_do_not_fit_its_tensors_is_refused_in_one_line(run, tmp_path, altered):
    config, snapshot = run
    checkpoint = load_checkpoint(save(tmp_path, snapshot, config))
    settings = checkpoint.state["policy"]
    if "neurocoder" in altered:
        altered = dict(neurocoder=settings["neurocoder"] | altered["neurocoder"])
    checkpoint.state["policy"] = settings | altered
    with pytest.raises(CheckpointError) as refusal:
        to_policy(checkpoint)
    line = str(refusal.value)
    prefix = f"{checkpoint.path}: its "
    assert line.startswith((f"{prefix}policy cannot be built: ", f"{prefix}settings cannot be used: "))
    assert "\n" not in line


@pytest.mark.parametrize("run", OPTIMIZERS[:1], indirect=True)
def test_an_old_checkpoint_without_settings_of_its_policy_gives_the_same_policy(run, tmp_path):
    config, snapshot = run
    checkpoint = load_checkpoint(save(tmp_path, snapshot, config))
    del checkpoint.state["policy"]
    old = {name: value for name, value in config.to_dict().items() if name not in ("film", "moe", "nsm")}
    checkpoint.state["config"] = old
    assert policy_settings(checkpoint) == config.policy()


@pytest.mark.parametrize("run", OPTIMIZERS[:1], indirect=True)
@pytest.mark.parametrize("part", ["updates", "episodes", "recent_returns"])
def test_a_checkpoint_of_another_kind_of_run_is_refused_in_one_line_that_names_what_it_lacks(
    run, tmp_path, part
):
    config, snapshot = run
    checkpoint = load_checkpoint(save(tmp_path, snapshot, config))
    del checkpoint.state[part]
    with pytest.raises(CheckpointError, match=rf"a checkpoint of another kind of run, it has no '{part}'$"):
        to_snapshot(Snapshot, checkpoint)
