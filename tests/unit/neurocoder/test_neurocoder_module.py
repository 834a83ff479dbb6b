"""The layer as a module: wrong calls, saving, copying, function transforms, compilers, precisions and devices."""

import copy
import re
from dataclasses import asdict, replace

import pytest
import torch
from torch.func import functional_call, grad, vmap

from neurocoder import NeurocoderLinear
from tests.unit.neurocoder.layer_by_hand import (
    LINEAR,
    RECURRENT,
    STEERED,
    Settings,
    random_inputs,
    random_layer,
)

VARIETIES = {
    "linear": LINEAR,
    "recurrent": RECURRENT,
    "steered": STEERED,
    "learned keys": Settings(keys="learned", residual=False, bias=False),
    "release": Settings(steps=2, variant="release"),
}
every_variety = pytest.mark.parametrize("config", VARIETIES.values(), ids=VARIETIES)


# Calls


def test_a_controller_input_is_refused_where_the_controller_sees_the_layers_input():
    x, z = random_inputs(STEERED, 3)
    for call in (random_layer(LINEAR), random_layer(LINEAR).trace):
        with pytest.raises(ValueError, match="or make the layer with controller_features"):
            call(x, z)


def test_a_missing_controller_input_is_asked_for_with_its_width():
    x, _ = random_inputs(STEERED, 3)
    for call in (random_layer(STEERED), random_layer(STEERED).trace):
        with pytest.raises(ValueError, match=re.escape("call layer(x, z), z (..., 6)")):
            call(x)


@pytest.mark.parametrize("rows", [(1,), (3, 2), ()], ids=str)
def test_a_controller_input_of_other_leading_axes_is_refused(rows):
    x, _ = random_inputs(STEERED, 6)
    _, z = random_inputs(STEERED, *rows)
    with pytest.raises(ValueError, match="all axes but the last must be the same"):
        random_layer(STEERED)(x, z)


def test_an_input_of_another_width_is_refused_with_the_width_it_must_have():
    layer, (x, z) = random_layer(STEERED), random_inputs(STEERED, 4)
    d_in, d_c = layer.in_features, layer.controller_features
    # A reshape alone would make twice as many rows of the right width.
    wide = torch.cat((x, x), dim=-1)
    for call in (layer, layer.trace):
        with pytest.raises(
            ValueError, match=re.escape(f"x has shape (4, {2 * d_in}); its last axis must be {d_in}")
        ):
            call(wide, z)
        with pytest.raises(
            ValueError, match=re.escape(f"z has shape (4, {d_c - 1}); its last axis must be {d_c}")
        ):
            call(x, z[:, 1:])


# Saving and copying


@every_variety
def test_a_state_dict_carries_the_whole_layer(config):
    layer, other = random_layer(config, seed=0), random_layer(config, seed=1)
    inputs = random_inputs(config, 3)
    assert not torch.equal(other(*inputs), layer(*inputs))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(*inputs), layer(*inputs))
    assert torch.equal(other.auxiliary_loss(), layer.auxiliary_loss())


STATE_NAMES = {
    "linear": {"controller.signal.weight", "controller.signal.bias"},
    "steered": {
        *(f"controller.{name}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "h_0", "c_0")),
        *("gate.weight", "gate.bias", "log_beta"),
    },
}
MEMORY_NAMES = {
    *(f"memory.{name}" for name in ("M_U", "M_V", "M_S", "E_S")),
    *(f"memory.key_generator_{a}.{part}" for a in "UV" for part in ("weight", "bias")),
}


@pytest.mark.parametrize("name", STATE_NAMES)
def test_a_state_dict_has_the_names_that_saved_networks_have(name):
    names = random_layer(VARIETIES[name]).state_dict().keys()
    assert names == MEMORY_NAMES | STATE_NAMES[name] | {"R", "bias"}


def test_only_the_release_keeps_key_parameters_in_addition_to_generated_keys():
    keys = {f"memory.E_{a}" for a in "UV"}
    assert keys <= random_layer(VARIETIES["release"]).state_dict().keys()
    assert not keys & random_layer(VARIETIES["linear"]).state_dict().keys()


@every_variety
def test_a_deep_copy_is_equal_and_independent(config):
    layer = random_layer(config)
    inputs = random_inputs(config, 3)
    before = layer(*inputs)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(*inputs), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert not torch.equal(twin(*inputs), before)
    assert torch.equal(layer(*inputs), before)


# Function transforms


@every_variety
def test_functional_call_uses_the_parameters_given_and_differentiates_them(config):
    layer, other = random_layer(config, seed=0), random_layer(config, seed=1)
    inputs = random_inputs(config, 3)
    buffers = dict(other.named_buffers())

    def loss(parameters):
        return functional_call(layer, (parameters, buffers), inputs).square().sum()

    given_parameters = {name: parameter.detach().clone() for name, parameter in other.named_parameters()}
    gradients = grad(loss)(given_parameters)
    other(*inputs).square().sum().backward()
    assert set(gradients) == set(given_parameters)
    for name, parameter in other.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients[name], expected, rtol=1e-10, atol=1e-12)


@every_variety
def test_vmap_gives_the_gradient_of_each_input(config):
    layer = random_layer(config)
    inputs = random_inputs(config, 3)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(parameters, row):
        return functional_call(layer, parameters, tuple(tensor[None] for tensor in row)).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, inputs)
    for index, row in enumerate(zip(*inputs, strict=True)):
        for name, gradient in grad(loss)(parameters, row).items():
            torch.testing.assert_close(together[name][index], gradient, rtol=1e-9, atol=1e-12)


# Compilers, precisions and devices


def values_and_gradients(layer, inputs):
    """Returns y, and the gradients of the mean of its squares for the inputs and all parameters as one vector."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    y = layer(*inputs)
    leaves = [*inputs, *layer.parameters()]
    gradients = torch.autograd.grad(y.square().mean(), leaves, allow_unused=True, materialize_grads=True)
    return y.detach(), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("config", [LINEAR, replace(STEERED, steps=2)], ids=["linear", "recurrent"])
def test_a_compiled_layer_has_the_values_and_gradients_of_an_eager_one(config):
    layer = random_layer(config)
    inputs = random_inputs(config, 3)
    torch._dynamo.reset()
    # This backend needs no C++ compiler.
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for ours, eager in zip(
        values_and_gradients(compiled, inputs), values_and_gradients(layer, inputs), strict=True
    ):
        torch.testing.assert_close(ours, eager, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize("config", [LINEAR, RECURRENT, STEERED], ids=["linear", "recurrent", "steered"])
def test_autocast_to_bfloat16_stays_close_to_single_precision(config, variant):
    torch.manual_seed(0)
    layer = NeurocoderLinear(**asdict(replace(config, variant=variant)))
    inputs = [tensor.float() for tensor in random_inputs(config, 64)]
    exact = values_and_gradients(layer, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = values_and_gradients(layer, inputs)
    # Among slots that were used about equally little, rounding may choose another one, which changes the gradients.
    for ours, single, tolerance in zip(rough, exact, (0.1, 0.5), strict=True):
        assert ours.isfinite().all()
        assert (ours.float() - single).norm() < tolerance * single.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_variety
def test_a_layer_on_a_gpu_has_the_values_and_gradients_of_one_on_the_processor(config):
    layer = random_layer(config)
    inputs = random_inputs(config, 3)
    expected = *values_and_gradients(layer, inputs), layer.auxiliary_loss().detach()
    layer.cuda()
    on_gpu = *values_and_gradients(layer, [t.cuda() for t in inputs]), layer.auxiliary_loss().detach()
    for ours, processor in zip(on_gpu, expected, strict=True):
        assert ours.is_cuda
        torch.testing.assert_close(ours.cpu(), processor, rtol=1e-9, atol=1e-11)
