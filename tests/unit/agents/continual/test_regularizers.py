"""The regularisers against their definitions, written as loops over tasks, steps and parameters."""

import math

import pytest
import torch

from agents.continual.regularizers import EWC, L2, REGULARIZERS, SI, OnlineEWC, Regularizer

SHAPES = [(4,), (3, 4)]  # one seed, three seeds


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fishers(shape, tasks=3):
    """Draws Fisher informations with zeros: in places for some tasks, in one place for all."""
    drawn = [draw(*shape, seed=10 + task).square() for task in range(tasks)]
    for task, fisher in enumerate(drawn):
        fisher[..., task % 3] = 0
        fisher[..., 3] = 0
    return drawn


def gradient(regularizer, theta):
    """Returns the gradient of the penalty."""
    total = torch.zeros_like(theta)
    regularizer.add_penalty_gradient(theta, total)
    return total


def slope(strength, importance, anchor, theta):
    """Returns the gradient of strength * sum_i importance_i (theta_i - anchor_i)^2, by torch."""
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(strength * (importance * (theta - anchor).square()).sum(), theta)[0]


def end_task(regularizer, theta, fisher):
    """One step to theta, from one away, with slope -1."""
    regularizer.before_step(theta - 1, -torch.ones_like(theta))
    regularizer.after_step(theta)
    regularizer.end_task(theta, fisher)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_before_the_first_task_has_ended_there_is_no_penalty(name):
    regularizer = REGULARIZERS[name](5.0)
    assert (gradient(regularizer, draw(4)) == 0).all()
    assert regularizer.state_dict() == {}


def test_no_regulariser_has_no_penalty_after_a_task_either():
    regularizer = Regularizer()
    end_task(regularizer, draw(4), None)
    assert (gradient(regularizer, draw(4, seed=1)) == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_l2_is_the_squared_distance_to_the_previous_task_only(shape):
    regularizer, theta = L2(0.5), draw(*shape, seed=9)
    for task in range(3):
        parameters = draw(*shape, seed=task)
        regularizer.end_task(parameters)
        expected = slope(0.5, torch.ones(shape), parameters, theta)
        torch.testing.assert_close(gradient(regularizer, theta), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_ewc_has_the_gradient_of_the_sum_over_tasks(shape):
    regularizer, theta = EWC(100.0), draw(*shape, seed=20)
    expected = torch.zeros_like(theta)
    for task, fisher in enumerate(fishers(shape)):
        parameters = draw(*shape, seed=task)
        regularizer.end_task(parameters, fisher)
        expected += slope(100.0, fisher, parameters, theta)
        torch.testing.assert_close(gradient(regularizer, theta), expected, rtol=1e-12, atol=1e-12)


def test_ewc_of_many_tasks_keeps_its_gradient_in_single_precision():
    regularizer, theta = EWC(1.0), draw(50, seed=1000)
    slopes = torch.zeros(50, dtype=torch.float64)
    for task in range(100):
        parameters, fisher = 3 + 1e-3 * draw(50, seed=task), draw(50, seed=200 + task).square()
        regularizer.end_task(parameters.float(), fisher.float())
        slopes += 2 * fisher * (3 + 1e-2 * theta - parameters)
    ours = gradient(regularizer, (3 + 1e-2 * theta).float())
    torch.testing.assert_close(ours.double(), slopes, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_online_ewc_adds_importances_up_around_the_latest_parameters(shape):
    regularizer, theta = OnlineEWC(700.0), draw(*shape, seed=9)
    total = torch.zeros(shape, dtype=torch.float64)
    for task, fisher in enumerate(fishers(shape)):
        parameters = draw(*shape, seed=task)
        regularizer.end_task(parameters, fisher)
        total += fisher
        expected = slope(700.0, total, parameters, theta)
        torch.testing.assert_close(gradient(regularizer, theta), expected, rtol=1e-12, atol=0)


def test_si_of_one_parameter_worked_by_hand():
    regularizer = SI(10.0, damping=0.1)
    regularizer.before_step(torch.tensor([0.0]), torch.tensor([-2.0]))
    regularizer.after_step(torch.tensor([0.5]))  # omega = 2 * 0.5 = 1
    regularizer.before_step(torch.tensor([0.5]), torch.tensor([1.0]))
    regularizer.after_step(torch.tensor([0.3]))  # omega = 1 + 0.2
    regularizer.end_task(torch.tensor([0.3]))  # Omega = 1.2 / (0.09 + 0.1)
    assert gradient(regularizer, torch.tensor([1.3])).item() == pytest.approx(20 * 1.2 / 0.19, rel=1e-6)
    regularizer.before_step(torch.tensor([0.3]), torch.tensor([-1.0]))
    regularizer.after_step(torch.tensor([1.3]))  # omega starts from 0 again: 1
    regularizer.end_task(torch.tensor([1.3]))  # Omega = 1.2 / 0.19 + 1 / (1 + 0.1)
    omega = 1.2 / 0.19 + 1 / 1.1
    assert gradient(regularizer, torch.tensor([1.8])).item() == pytest.approx(20 * omega * 0.5, rel=1e-6)


def slow_si(paths, slopes, damping):
    """Omega of one parameter after tasks whose steps are given as floats."""
    importance = 0.0
    for path, gradients in zip(paths, slopes, strict=True):
        omega = 0.0
        for before, after, g in zip(path[:-1], path[1:], gradients, strict=True):
            omega -= g * (after - before)
        importance = max(0.0, importance + omega / ((path[-1] - path[0]) ** 2 + damping))
    return importance


@pytest.mark.parametrize("shape", SHAPES)
def test_si_equals_a_loop_over_parameters_though_theta_and_gradient_are_overwritten(shape):
    regularizer, tasks, steps = SI(300.0), 3, 4
    theta = draw(*shape)  # one tensor, changed in place as an optimiser does
    paths, slopes = [], []
    for task in range(tasks):
        paths.append([theta.clone()])
        slopes.append([])
        for step in range(steps):
            g = draw(*shape, seed=100 + 10 * task + step)
            slopes[-1].append(g.clone())
            regularizer.before_step(theta, g)
            g += 7  # the penalty's part
            theta += draw(*shape, seed=200 + 10 * task + step)
            regularizer.after_step(theta)
            paths[-1].append(theta.clone())
        regularizer.end_task(theta)
        theta += 0  # the anchor is a copy
    expected = torch.empty(shape, dtype=torch.float64)
    for place in torch.cartesian_prod(*[torch.arange(size) for size in shape]).reshape(-1, len(shape)):
        i = tuple(place.tolist())
        expected[i] = slow_si(
            [[theta[i].item() for theta in path] for path in paths],
            [[g[i].item() for g in of_task] for of_task in slopes],
            damping=0.1,
        )
    assert (expected == 0).any() and (expected > 0).any()
    torch.testing.assert_close(regularizer.anchor.importance, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(regularizer.anchor.parameters, theta)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_anchors_do_not_follow_a_theta_that_is_changed_in_place(name):
    regularizer, theta, fisher = REGULARIZERS[name](1.0), draw(4), fishers((4,))[0]
    end_task(regularizer, theta, fisher)
    before = theta.clone()
    theta += 1
    fisher += 1
    torch.testing.assert_close(regularizer.anchor.parameters, before)
    assert (gradient(regularizer, before) == 0).all()
    assert not regularizer.anchor.importance.requires_grad and not regularizer.anchor.parameters.requires_grad


@pytest.mark.parametrize("name", REGULARIZERS)
def test_seeds_that_train_together_are_each_regularised_as_if_alone(name):
    together, alone, theta = (
        REGULARIZERS[name](3.0),
        [REGULARIZERS[name](3.0) for _ in range(3)],
        draw(3, 4, seed=9),
    )
    for task, fisher in enumerate(fishers((3, 4))):
        parameters = draw(3, 4, seed=task)
        end_task(together, parameters, fisher)
        for seed, regularizer in enumerate(alone):
            end_task(regularizer, parameters[seed], fisher[seed])
    gradients = torch.stack([gradient(r, theta[seed]) for seed, r in enumerate(alone)])
    torch.testing.assert_close(gradient(together, theta), gradients)


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("interrupted_after", [0, 1, 2])
def test_a_run_restored_between_tasks_continues_as_the_uninterrupted_one(name, interrupted_after):
    whole, theta = REGULARIZERS[name](2.0), draw(4, seed=9)
    first = REGULARIZERS[name](2.0)
    for task, fisher in enumerate(fishers((4,))):
        end_task(whole, draw(4, seed=task), fisher)
        if task == interrupted_after:
            second = REGULARIZERS[name](2.0)
            second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
            first = second
        end_task(first, draw(4, seed=task), fisher)
    assert torch.equal(gradient(first, theta), gradient(whole, theta))
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in first.state_dict().items())


def test_two_quadratic_tasks_end_where_the_penalised_loss_has_its_minimum():
    """Losses p (theta - a)^2 / 2, then q (theta - b)^2 / 2: with p as Fisher information, (p a + q b) / (p + q)."""
    a, p = torch.tensor([1.0, -1.0]).double(), torch.tensor([4.0, 0.1]).double()
    b, q = torch.tensor([0.0, 2.0]).double(), torch.tensor([1.0, 1.0]).double()
    for regularizer in (EWC(0.5), OnlineEWC(0.5)):  # strength 1/2: the sum of both tasks, if F is the Hessian
        regularizer.end_task(a, p)
        theta = torch.zeros(2, dtype=torch.float64)
        for _ in range(300):
            theta -= 0.2 * (q * (theta - b) + gradient(regularizer, theta))
        torch.testing.assert_close(theta, (p * a + q * b) / (p + q), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strength", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_strength_below_0_or_not_finite_is_an_error(name, strength):
    with pytest.raises(ValueError, match="strength"):
        REGULARIZERS[name](strength)


def test_a_damping_of_0_is_an_error():
    with pytest.raises(ValueError, match="damping"):
        SI(1.0, damping=0.0)
