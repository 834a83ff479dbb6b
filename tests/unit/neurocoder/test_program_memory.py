"""Attention to the Program Memory and its orthogonality loss."""

import math
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neurocoder import NeurocoderLinear, auxiliary_loss
from tests.unit.neurocoder.layer_by_hand import (
    LINEAR,
    RECURRENT,
    Settings,
    named_tensors,
    orthogonality,
    random_input,
    random_layer,
)

# Initialisation


@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_the_gain_scales_the_bound_of_initial_vectors_but_not_of_keys_and_singular_values(gain):
    memory = NeurocoderLinear(300, 200, slots=50, key_dim=5, heads=1, keys="learned", gain=gain).memory
    for parameter, width, factor in (
        (memory.M_U, 5 + 300, gain),
        (memory.M_V, 5 + 200, gain),
        (memory.M_S, 5 + 1, 1.0),
        (memory.E_U, 5 + 300, 1.0),
        (memory.E_V, 5 + 200, 1.0),
        (memory.E_S, 5 + 1, 1.0),
    ):
        bound = factor * math.sqrt(6 / (50 + width))
        assert 0.9 * bound < parameter.abs().max() <= bound


# Attention


def test_paper_variant_compares_by_cosine():
    layer = random_layer(Settings(keys="learned", heads=1, beta=3.0))
    x, memory, signal = random_input(6, 4), layer.memory, layer.controller.signal
    queries = (x @ signal.weight.T + signal.bias)[:, :-1].unflatten(1, (3, 1, 2))  # (B, 3, 1, K)
    keys = torch.stack((memory.E_U, memory.E_V, memory.E_S))  # (3, P, K)
    expected = (3.0 * F.cosine_similarity(queries, keys, dim=-1)).softmax(dim=-1)  # (B, 3, P)
    torch.testing.assert_close(layer.trace(x).attention[:, 0, :, 0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [0, 3], ids=["linear", "recurrent"])
def test_the_released_temperature_bounds_how_far_attention_is_from_uniform(steps):
    layer = random_layer(Settings(in_features=6, slots=20, key_dim=5, steps=steps))
    attention = layer.trace(10 * random_input(50, 6)).attention
    ratio = attention.amax(dim=-1) / attention.amin(dim=-1)
    # At 1 / K attention is nearly uniform for all parameters, because the cosine lies in [-1, 1].
    beta = 10 / 5 if steps else 1 / 5
    assert 1 < ratio.max() <= math.exp(2 * beta)


@pytest.mark.parametrize(
    ("config", "start"),
    [(LINEAR, 1 / 2), (RECURRENT, 10 / 2), (replace(LINEAR, beta=3.0), 3.0)],
    ids=["linear", "recurrent", "given"],
)
def test_a_learnt_temperature_starts_as_the_fixed_one(config, start):
    layers = []
    for learn_beta in (False, True):
        torch.manual_seed(0)
        layers.append(NeurocoderLinear(**asdict(replace(config, learn_beta=learn_beta))))
    fixed, learnt = layers
    assert fixed.beta == start
    assert learnt.beta.item() == pytest.approx(start)
    x = torch.randn(3, 4)
    torch.testing.assert_close(learnt(x), fixed(x))


def test_single_precision_finds_the_same_least_used_slots_where_attention_is_sharp():
    layer = random_layer(Settings(slots=20, steps=3, least_used=2, beta=10.0))
    x = random_input(50, 4).float()
    exact = layer.trace(x.double()).attention
    torch.testing.assert_close(layer.float().trace(x).attention.double(), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", [LINEAR, RECURRENT], ids=["linear", "recurrent"])
def test_queries_and_keys_of_zero_length_give_finite_gradients(config):
    layer = random_layer(config)
    with torch.no_grad():
        for parameter in (*layer.controller.parameters(), *layer.memory.parameters()):
            parameter.zero_()
    x = random_input(2, 4).requires_grad_()
    gradients = torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


# Orthogonality


# The rows have widths 9 and 4, and 2 key columns where there are any.
@pytest.mark.parametrize("slots", [3, 9, 14], ids=lambda slots: f"P={slots}")
@pytest.mark.parametrize("keys", ["generated", "learned"])
@pytest.mark.parametrize("variant", ["paper", "release"])
def test_orthogonality_loss_is_the_distance_of_the_gram_matrices_from_the_identity(slots, keys, variant):
    config = Settings(in_features=9, out_features=4, slots=slots, keys=keys, variant=variant)
    layer = random_layer(config, orthogonality_weight=0.3)
    loss, expected = layer.auxiliary_loss(), 0.3 * orthogonality(named_tensors(layer), config)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    parameters = list(layer.parameters())
    ours, theirs = (
        torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        for value in (loss, expected)
    )
    for fast, slow in zip(ours, theirs, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("slots", [3, 40], ids=["P < d", "P > d"])
def test_orthogonality_loss_loses_no_digits_to_single_precision(slots):
    layer = random_layer(Settings(in_features=8, out_features=8, slots=slots))
    # Near the smallest possible loss a difference of large numbers would cancel.
    with torch.no_grad():
        for memory in (layer.memory.M_U, layer.memory.M_V):
            left, _, right = torch.linalg.svd(memory, full_matrices=False)
            memory.copy_(left @ right + 1e-2 * memory)
    exact = layer.auxiliary_loss().item()
    assert layer.float().auxiliary_loss().item() == pytest.approx(exact, rel=1e-4)


def test_orthonormal_rows_have_no_loss_and_a_finite_gradient():
    layer = random_layer(Settings(in_features=6, out_features=5, slots=4), orthogonality_weight=1.0)
    with torch.no_grad():
        layer.memory.M_U.copy_(torch.eye(4, 6))
        layer.memory.M_V.copy_(torch.eye(4, 5))
    loss = layer.auxiliary_loss()
    loss.backward()
    assert 0 <= loss.item() < 1e-5
    for memory in (layer.memory.M_U, layer.memory.M_V):
        # count_nonzero counts nan, too.
        assert memory.grad.count_nonzero() == 0


def test_auxiliary_loss_sums_over_the_layers_of_a_network():
    layers, expected = [], 0.0
    for slots, weight in ((3, 0.1), (5, 10.0)):
        config = Settings(slots=slots)
        layers.append(random_layer(config, seed=slots, orthogonality_weight=weight))
        expected = expected + weight * orthogonality(named_tensors(layers[-1]), config)
    network = nn.Sequential(nn.Linear(4, 4), layers[0], nn.Sequential(nn.ReLU(), layers[1]))
    torch.testing.assert_close(auxiliary_loss(network), expected, rtol=1e-10, atol=0)


def test_auxiliary_loss_of_a_layer_used_twice_counts_once():
    layer = random_layer(LINEAR)
    assert auxiliary_loss(nn.ModuleList([layer, layer])).item() == layer.auxiliary_loss().item()


def test_auxiliary_loss_of_a_plain_network_is_zero():
    loss = auxiliary_loss(nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 2)))
    assert loss.shape == () and loss.item() == 0
