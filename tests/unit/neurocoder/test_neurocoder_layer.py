"""The layer against the method written out: values, traces and gradients, and that it builds no program per input."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from tests.unit.neurocoder.largest_allocation import LargestAllocation
from tests.unit.neurocoder.layer_by_hand import (
    LINEAR,
    RECURRENT,
    STEERED,
    Settings,
    named_tensors,
    random_input,
    random_inputs,
    random_layer,
    reference,
)

each_controller = pytest.mark.parametrize(
    "config", [LINEAR, RECURRENT, STEERED], ids=["linear", "recurrent", "steered"]
)


@st.composite
def configurations(draw):
    slots = draw(st.integers(1, 5))
    return Settings(
        in_features=draw(st.integers(1, 5)),
        out_features=draw(st.integers(1, 5)),
        slots=slots,
        key_dim=draw(st.integers(1, 3)),
        heads=draw(st.integers(1, 3)),
        steps=draw(st.integers(0, 3)),
        least_used=draw(st.integers(0, min(slots - 1, 3))),
        gate_from=draw(st.sampled_from(["input", "signal"])),
        residual=draw(st.booleans()),
        keys=draw(st.sampled_from(["generated", "learned"])),
        beta=draw(st.sampled_from([None, 0.5, 10.0])),
        learn_beta=draw(st.booleans()),
        controller_features=draw(st.sampled_from([None, 1, 4])),
        bias=draw(st.booleans()),
        variant=draw(st.sampled_from(["paper", "release"])),
    )


leading_axes = st.sampled_from([(0,), (1,), (3,), (2, 0), (2, 1, 2)])


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(config=configurations(), leading=leading_axes, seed=st.integers(0, 999))
@example(config=RECURRENT, leading=(3,), seed=0)
@example(config=Settings(steps=3, least_used=1, keys="learned", variant="release"), leading=(3,), seed=1)
@example(config=Settings(steps=2, heads=3, beta=4.0, residual=False), leading=(3,), seed=2)
@example(config=Settings(heads=3, least_used=2), leading=(3,), seed=3)
@example(config=Settings(heads=3, variant="release"), leading=(2, 0), seed=4)
@example(config=Settings(heads=3, variant="release", beta=0.5), leading=(2, 2), seed=5)
@example(config=STEERED, leading=(2, 2), seed=6)
@example(config=replace(STEERED, keys="learned", variant="release"), leading=(3,), seed=7)
@example(config=replace(RECURRENT, gate_from="signal"), leading=(3,), seed=8)
@example(config=replace(RECURRENT, controller_features=2), leading=(3,), seed=9)
@example(config=Settings(heads=3, learn_beta=True, controller_features=3), leading=(3,), seed=10)
@example(config=Settings(variant="release", learn_beta=True), leading=(3,), seed=11)
def test_values_traces_and_gradients_agree_with_the_method_written_out(config, leading, seed):
    layer = random_layer(config, seed)
    inputs = [tensor.requires_grad_() for tensor in random_inputs(config, *leading, seed=seed + 1)]
    weights = random_input(*leading, config.out_features, seed=seed + 2)
    parameters = dict(layer.named_parameters())
    y = layer(*inputs)
    trace = layer.trace(*inputs)
    steps = max(config.steps, 1)
    assert y.shape == (*leading, config.out_features)
    assert trace.attention.shape == (*leading, steps, 3, config.heads, config.slots)
    assert trace.singular_values.shape == (*leading, config.heads * steps)
    assert (trace.residual_gate is not None) == config.residual
    wanted = [*inputs, *parameters.values()]
    gradients = torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True, materialize_grads=True)
    if y.numel() == 0:
        assert all(gradient.count_nonzero() == 0 for gradient in gradients)
        return

    flat = [tensor.reshape(-1, tensor.shape[-1]) for tensor in inputs]
    y_slow, attention, sigma, gate = reference(named_tensors(layer), config, *flat)
    close = dict(rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(y.reshape(y_slow.shape), y_slow, **close)
    torch.testing.assert_close(trace.attention.reshape(attention.shape), attention.detach(), **close)
    torch.testing.assert_close(trace.singular_values.reshape(sigma.shape), sigma.detach(), **close)
    if config.residual:
        torch.testing.assert_close(trace.residual_gate.reshape(gate.shape), gate.detach(), **close)
    gradients_slow = torch.autograd.grad(
        (y_slow * weights.reshape(y_slow.shape)).sum(), wanted, allow_unused=True, materialize_grads=True
    )
    names = ["x", "z"] if config.controller_features else ["x"]
    for name, fast, slow in zip([*names, *parameters], gradients, gradients_slow, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@each_controller
def test_gradients_agree_with_finite_differences(config):
    config = replace(config, in_features=2, out_features=2, slots=3, heads=1, steps=min(config.steps, 2))
    layer = random_layer(config)
    names = [name for name, _ in layer.named_parameters()]
    inputs = [tensor.requires_grad_() for tensor in random_inputs(config, 2)]

    def apply(*tensors):
        given_parameters = dict(zip(names, tensors[len(inputs) :], strict=True))
        return functional_call(layer, given_parameters, tensors[: len(inputs)])

    assert torch.autograd.gradcheck(apply, (*inputs, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("leading", [(), (1,), (6,), (2, 3), (3, 1, 2)], ids=str)
@each_controller
def test_leading_dimensions_are_free(config, leading):
    layer = random_layer(config)
    inputs = random_inputs(config, *leading)
    rows = [tensor.reshape(-1, tensor.shape[-1]) for tensor in inputs]
    one_by_one = torch.cat([layer(*(row[None] for row in sample)) for sample in zip(*rows, strict=True)])
    expected = one_by_one.reshape(*leading, config.out_features)
    torch.testing.assert_close(layer(*inputs), expected, rtol=1e-12, atol=1e-12)
    assert layer.trace(*inputs).singular_values.shape == (*leading, config.heads * max(config.steps, 1))


def test_only_the_controller_sees_its_separate_input():
    config = Settings(controller_features=6)
    layer = random_layer(config)
    x, z = random_inputs(config, 3)
    # With the same z the program is the same, so y - b is linear in x.
    torch.testing.assert_close(
        layer(2 * x, z) - layer.bias, 2 * (layer(x, z) - layer.bias), rtol=1e-12, atol=1e-12
    )
    assert not torch.allclose(layer(x, 2 * z), layer(x, z))


# Memory


def largest_allocations(function, x):
    """Counts the elements of the largest tensor of the forward and of the backward pass."""
    with LargestAllocation() as forward:
        y = function(x)
    with LargestAllocation() as backward:
        y.square().sum().backward()
    return forward.elements, backward.elements


@pytest.mark.parametrize("steps", [0, 2], ids=["linear", "recurrent"])
def test_no_tensor_is_as_large_as_one_program_an_input(steps):
    config = Settings(in_features=40, out_features=30, slots=4, steps=steps, least_used=1)
    batch, programs = 6, 6 * 40 * 30
    layer = random_layer(config)
    forward, backward = largest_allocations(layer, random_input(batch, 40).requires_grad_())
    assert 0 < forward < programs
    assert 0 < backward < programs


@pytest.mark.parametrize("steps", [0, 2], ids=["linear", "recurrent"])
def test_the_memory_check_notices_the_programs_that_the_reference_builds(steps):
    config = Settings(in_features=40, out_features=30, slots=4, steps=steps, least_used=1)
    batch, programs = 6, 6 * 40 * 30
    named = named_tensors(random_layer(config))
    x = random_input(batch, 40).requires_grad_()
    forward, backward = largest_allocations(lambda x: reference(named, config, x)[0], x)
    assert forward >= programs
    assert backward >= programs


def test_a_trace_keeps_no_graph():
    layer = random_layer(RECURRENT)
    x = random_input(3, 4).requires_grad_()
    assert layer(x).grad_fn is not None
    trace = layer.trace(x)
    for tensor in (trace.attention, trace.singular_values, trace.residual_gate):
        assert tensor.grad_fn is None and not tensor.requires_grad


def test_a_trace_without_residual_program_has_no_residual_gate():
    layer = random_layer(Settings(residual=False))
    assert layer.trace(random_input(3, 4)).residual_gate is None


# Singular values


@pytest.mark.parametrize("steps", [0, 3], ids=["linear", "recurrent"])
def test_singular_values_are_positive_and_decreasing_in_the_paper_variant(steps):
    layer = random_layer(Settings(heads=4, steps=steps, least_used=2))
    with torch.no_grad():
        layer.memory.M_S.mul_(5)
    sigma = layer.trace(random_input(50, 4)).singular_values
    assert (sigma > 0).all()
    assert (sigma.diff(dim=-1) < 0).all()


def test_the_released_linear_controller_orders_its_singular_values_upwards():
    sigma = random_layer(Settings(heads=4, variant="release")).trace(random_input(50, 4)).singular_values
    assert (sigma.diff(dim=-1) > 0).all()
