"""Actions and opinions of a policy against its network, called by hand for one game and one LSTM step at a time."""

import numpy as np
import pytest
import torch

from agents.actor_critic.policy import Policy
from envs.atari import AtariSettings
from neurocoder import NeurocoderLinear
from neurocoder.networks.conv_lstm import ConvLSTM

STEPS, GAMES = 4, 3


@pytest.fixture(params=["linear", "neurocoder"])
def policy(request) -> Policy:
    """A policy with large weights, so that its choices differ from frame to frame."""
    torch.manual_seed(0)
    if request.param == "linear":
        network = ConvLSTM(4)
        torch.nn.init.normal_(network.actor.weight)
    else:
        network = ConvLSTM(
            4, actor=lambda inputs, outputs: NeurocoderLinear(inputs, outputs, slots=6, key_dim=4, heads=2)
        )
    with torch.no_grad():
        network.lstm.weight_hh *= 4
    return Policy(network, AtariSettings("breakout"))


def some_frames(steps: int = STEPS, games: int = GAMES) -> np.ndarray:
    """Draws noise, (T, N, 1, 80, 80) uint8."""
    return np.random.default_rng(0).integers(256, size=(steps, games, 1, 80, 80), dtype=np.uint8)


def by_hand(policy: Policy, frames: np.ndarray, starts: np.ndarray):
    """Computes values (T, N), probabilities (T, N, A) and the last state.

    Args:
        frames: (T, N, 1, 80, 80).
        starts: (T, N).
    """
    network, games = policy.network, frames.shape[1]
    values, probabilities, last = np.zeros(starts.shape), np.zeros((*starts.shape, 4)), []
    for game in range(games):
        h, c = torch.zeros(1, 512), torch.zeros(1, 512)
        for t, frame in enumerate(frames[:, game]):
            if starts[t, game]:
                h, c = torch.zeros(1, 512), torch.zeros(1, 512)
            h, c = network.lstm(network.features(torch.from_numpy(frame[None])), (h, c))
            exponentials = np.exp(network.actor(h)[0].double().numpy())
            probabilities[t, game] = exponentials / exponentials.sum()
            values[t, game] = network.critic(h).item()
        last.append((h, c))
    return values, probabilities, tuple(torch.cat(parts) for parts in zip(*last, strict=True))


def assert_close(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-3, atol=1e-5)


def test_a_batch_of_games_is_played_like_each_game_by_hand_also_where_episodes_start(policy):
    frames, starts = some_frames(), np.zeros((STEPS, GAMES), dtype=bool)
    starts[0], starts[2, 1] = True, True
    values, probabilities, last = by_hand(policy, frames, starts)
    state = policy.initial_state(GAMES)
    for t in range(STEPS):
        actions, state, opinion = policy.act(
            frames[t], state, start=starts[t], greedy=True, with_opinion=True
        )
        assert actions.shape == (GAMES,) and actions.dtype == np.int64
        np.testing.assert_array_equal(actions, probabilities[t].argmax(axis=-1))
        assert_close(opinion.value, values[t])
        assert_close(opinion.probabilities, probabilities[t])
    for part, expected in zip(state, last, strict=True):
        assert_close(part, expected)


def test_a_single_frame_is_played_like_a_batch_of_one(policy):
    frames = some_frames(games=1)
    values, probabilities, last = by_hand(policy, frames, np.zeros((STEPS, 1), dtype=bool))
    state = policy.initial_state()
    for t in range(STEPS):
        action, state, opinion = policy.act(frames[t, 0], state, greedy=True, with_opinion=True)
        assert np.ndim(action) == 0 and int(action) == probabilities[t, 0].argmax()
        assert np.ndim(opinion.value) == 0 and opinion.probabilities.shape == (4,)
        assert_close(opinion.value, values[t, 0])
        assert_close(opinion.probabilities, probabilities[t, 0])
    for part, expected in zip(state, last, strict=True):
        assert_close(part, expected)


@pytest.mark.parametrize("start", [np.array([False, True, False]), True, [True] * 3], ids=str)
def test_a_row_that_starts_an_episode_has_the_answer_of_an_empty_state(policy, start):
    frames = some_frames()
    _, state = policy.act(frames[0], policy.initial_state(GAMES))
    before = [part.clone() for part in state]
    _, started, opinion = policy.act(frames[1], state, start=start, with_opinion=True)
    _, fresh, fresh_opinion = policy.act(frames[1], policy.initial_state(GAMES), with_opinion=True)
    _, continued, other_opinion = policy.act(frames[1], state, start=False, with_opinion=True)
    rows = np.broadcast_to(start, GAMES).copy()
    np.testing.assert_array_equal(opinion.value[rows], fresh_opinion.value[rows])
    np.testing.assert_array_equal(opinion.value[~rows], other_opinion.value[~rows])
    for part, empty, carried in zip(started, fresh, continued, strict=True):
        assert torch.equal(part[rows], empty[rows]) and torch.equal(part[~rows], carried[~rows])
        assert not torch.equal(empty, carried)
    # The state passed in is not changed.
    assert all(torch.equal(part, given) for part, given in zip(state, before, strict=True))


def test_frames_may_be_a_tensor_and_an_opinion_is_left_out_unless_asked_for(policy):
    frames = some_frames()[0]
    from_array = policy.act(frames, policy.initial_state(GAMES), greedy=True)
    from_tensor = policy.act(torch.from_numpy(frames), policy.initial_state(GAMES), greedy=True)
    assert len(from_array) == len(from_tensor) == 2
    np.testing.assert_array_equal(from_array[0], from_tensor[0])


def test_the_frequencies_of_sampled_actions_are_their_probabilities():
    torch.manual_seed(0)
    network = ConvLSTM(4)
    with torch.no_grad():
        network.actor.weight.zero_()
        network.actor.bias.copy_(torch.tensor([0.5, 0.25, 0.2, 0.05]).log())
    policy, counts, draws = Policy(network, AtariSettings("breakout")), np.zeros(4), 0
    frames, state = np.repeat(some_frames(1, 1)[0], 100, axis=0), policy.initial_state(100)
    for _ in range(12):
        actions, _ = policy.act(frames, state)
        counts += np.bincount(actions, minlength=4)
        draws += len(actions)
    for count, probability in zip(counts, [0.5, 0.25, 0.2, 0.05], strict=True):
        deviation = (draws * probability * (1 - probability)) ** 0.5
        assert abs(count - draws * probability) < 4 * deviation


def test_the_same_seed_samples_the_same_actions_and_another_seed_others(policy):
    frames, state = np.repeat(some_frames(1, 1)[0], 30, axis=0), policy.initial_state(30)

    def sampled() -> list[list[int]]:
        return [policy.act(frames, state)[0].tolist() for _ in range(3)]

    # With small weights the policy is unsure, so that samples differ.
    with torch.no_grad():
        for parameter in policy.network.actor.parameters():
            parameter *= 0.1
    policy.seed(7)
    first = sampled()
    torch.manual_seed(1)
    policy.seed(7)
    assert sampled() == first
    policy.seed(8)
    assert sampled() != first
    same = Policy(policy.network, policy.settings, seed=7)
    assert same.act(frames, state)[0].tolist() == first[0]
    assert first[0] != first[1]


def test_a_policy_knows_its_game_and_leaves_no_gradient(policy):
    assert policy.actions == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert not policy.network.training
    assert not any(parameter.requires_grad for parameter in policy.network.parameters())


FRAMES = some_frames()[0]


@pytest.mark.parametrize(
    "frames, words",
    [
        (FRAMES.astype(np.float32), ["float32 (3, 1, 80, 80)", "uint8"]),
        (FRAMES / 255.0, ["float64", "uint8"]),
        (FRAMES[:, 0], ["uint8 (3, 80, 80)", "(N, 1, 80, 80) or (1, 80, 80)"]),
        (FRAMES[0, 0], ["uint8 (80, 80)", "(N, 1, 80, 80) or (1, 80, 80)"]),
        (FRAMES[..., :79], ["uint8 (3, 1, 80, 79)", "(N, 1, 80, 80)"]),
        (np.zeros((3, 84, 84, 4), np.uint8), ["uint8 (3, 84, 84, 4)", "(N, 1, 80, 80)"]),
    ],
    ids=["float32", "float64", "no channel", "no dimension", "too narrow", "another preprocessing"],
)
def test_frames_of_another_shape_or_type_are_refused_in_one_line(policy, frames, words):
    refused(policy, words, frames, policy.initial_state(GAMES))


@pytest.mark.parametrize(
    "shapes, words",
    [
        ([(2, 512), (2, 512)], ["(2, 512), (2, 512)", "3 frames", "initial_state(3)"]),
        ([(3, 512), (1, 512)], ["(3, 512), (1, 512)", "(3, 512) twice"]),
        ([(3, 256), (3, 256)], ["(3, 256)", "(3, 512) twice"]),
        ([(512,), (512,)], ["(512,)", "(3, 512) twice"]),
    ],
    ids=["of two games", "of two sizes", "of another LSTM", "of no games"],
)
def test_a_state_of_another_size_is_refused_in_one_line(policy, shapes, words):
    refused(policy, words, FRAMES, tuple(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("start", [[True, False], [[True]] * 3, np.zeros((1, 3), bool)], ids=str)
def test_a_start_of_another_shape_is_refused_in_one_line(policy, start):
    words = [str(np.shape(start)), "(3,)"]
    refused(policy, words, FRAMES, policy.initial_state(GAMES), start=start)


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("name", ["lstm.weight_ih", "actor.bias"])
def test_a_policy_whose_weights_are_not_finite_is_refused_with_the_name_of_the_first(name, greedy):
    network = ConvLSTM(4)
    network.get_parameter(name).data[2] = torch.nan
    diverged = Policy(network, AtariSettings("breakout"))
    words = ["has diverged", f"its parameter {name} is not finite"]
    refused(diverged, words, FRAMES, diverged.initial_state(GAMES), greedy=greedy)


def refused(policy, words, *arguments, **settings):
    with pytest.raises(ValueError) as refusal:
        policy.act(*arguments, **settings)
    line = str(refusal.value)
    assert "\n" not in line and all(word in line for word in words), line
