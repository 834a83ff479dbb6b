"""The Neural Turing Machine: a slow loop over cells gives the same; its addressing, gradients and learning."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neurocoder import OUTPUT_LAYERS, output_layer
from neurocoder.networks.ntm import NTM, address, shift_circularly

SETTINGS = {
    "mlp": {},
    "neurocoder": dict(slots=6, key_dim=3, heads=2, steps=2, least_used=1),
    "hypernet": dict(hidden=5),
    "film": dict(hidden=5),
    "moe": dict(experts=3, active=2, hidden=5),
    "nsm": dict(slots=3, key_dim=2),
    "lowrank": dict(rank=2),
}


def tiny(factory=nn.Linear, *, seed=0):
    """Makes an NTM with input 5, output 3, hidden 7 and 6 cells of width 4."""
    torch.manual_seed(seed)
    return NTM(5, 3, hidden=7, cells=6, cell_width=4, output_layer=factory)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# Against a slow loop


def slow_addressing(parameters, memory, previous):
    """Graves et al. 2014, equations 5 to 9, one head, one number at a time."""
    cells, width = len(memory), len(memory[0])
    key, (strength, gate), shift = (
        parameters[:width],
        parameters[width : width + 2],
        parameters[width + 2 : -1],
    )
    strength, gate = math.log1p(math.exp(strength)), 1 / (1 + math.exp(-gate))
    sharpness = 1 + math.log1p(math.exp(parameters[-1]))
    forward, stay, backward = (math.exp(s) / sum(math.exp(t) for t in shift) for s in shift)
    cosines = [
        sum(k * m for k, m in zip(key, row, strict=True)) / (math.hypot(*key) * math.hypot(*row))
        for row in memory
    ]
    scores = [math.exp(strength * cosine) for cosine in cosines]
    mixed = [gate * scores[i] / sum(scores) + (1 - gate) * previous[i] for i in range(cells)]
    moved = [
        forward * mixed[i - 1] + stay * mixed[i] + backward * mixed[(i + 1) % cells] for i in range(cells)
    ]
    sharp = [weight**sharpness for weight in moved]
    return [weight / sum(sharp) for weight in sharp]


def slow_ntm(ntm, inputs):
    """Computes the logits of one sequence (T, in), and the weightings of both heads at every step."""
    memory = ntm.memory_0.tolist()
    cells, width = len(memory), len(memory[0])
    h, c, read = ntm.h_0, ntm.c_0, ntm.read_0
    where_read = where_written = [0.0] * cells
    logits, weightings = [], []
    for x in inputs:
        lstm = ntm.controller
        gates = lstm.weight_ih @ torch.cat((x, read)) + lstm.bias_ih + lstm.weight_hh @ h + lstm.bias_hh
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()

        to_read, to_write = ntm.read_head(h).tolist(), ntm.write_head(h).tolist()
        where_read = slow_addressing(to_read, memory, where_read)
        read = x.new_tensor([sum(where_read[n] * memory[n][m] for n in range(cells)) for m in range(width)])

        where_written = slow_addressing(to_write[: width + 6], memory, where_written)
        erase = [1 / (1 + math.exp(-e)) for e in to_write[width + 6 : 2 * width + 6]]
        add = to_write[2 * width + 6 :]
        memory = [
            [
                memory[n][m] * (1 - where_written[n] * erase[m]) + where_written[n] * add[m]
                for m in range(width)
            ]
            for n in range(cells)
        ]
        logits.append(ntm.output.weight @ torch.cat((h, read)) + ntm.output.bias)
        weightings.append([where_read, where_written])
    return torch.stack(logits), torch.tensor(weightings, dtype=torch.float64)


def weightings(ntm, inputs):
    """The weightings of both heads at every step, (T, B, 2, N)."""
    state, weights = ntm.initial_state(len(inputs)), []
    for x in inputs.unbind(dim=1):
        state = ntm.step(x, state)
        weights.append(state.weights)
    return torch.stack(weights)


@pytest.fixture
def lively():
    """A tiny NTM with parameters so large that its heads move, erase and add a lot."""
    ntm = tiny().double()
    with torch.no_grad():
        for seed, parameter in enumerate(ntm.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed))
    return ntm


@torch.no_grad()
def test_logits_and_weightings_equal_those_of_a_loop_over_cells(lively):
    inputs = random(2, 8, 5)
    expected = [slow_ntm(lively, sequence) for sequence in inputs]
    torch.testing.assert_close(lively(inputs), torch.stack([e[0] for e in expected]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        weightings(lively, inputs), torch.stack([e[1] for e in expected], dim=1), rtol=1e-10, atol=1e-10
    )


# Addressing


def interface(*, key=(1.0, 0.0), strength=0.0, gate=0.0, shift=(0.0, 0.0, 0.0), sharpening=0.0):
    """Parameters of two equal heads of one sequence, before the activations: (1, 2, 8)."""
    return torch.tensor([[[*key, strength, gate, *shift, sharpening]] * 2], dtype=torch.float64)


MEMORY = torch.tensor([[[0.0, 1.0], [3.0, 0.1], [0.0, -1.0], [-1.0, 0.0]]], dtype=torch.float64)
AT_CELL_3 = torch.eye(4, dtype=torch.float64)[3].expand(1, 2, 4)


@pytest.mark.parametrize(
    ("shift", "cell"), [((50.0, 0.0, 0.0), 0), ((0.0, 50.0, 0.0), 3), ((0.0, 0.0, 50.0), 2)]
)
def test_a_head_moves_on_stays_or_moves_back_around_the_ring_of_cells(shift, cell):
    weights = address(interface(gate=-50.0, shift=shift), MEMORY, AT_CELL_3)
    torch.testing.assert_close(weights, torch.eye(4, dtype=torch.float64)[cell].expand(1, 2, 4))


def test_an_open_gate_moves_the_head_to_the_cell_most_like_the_key():
    weights = address(interface(strength=100.0, gate=50.0, shift=(0.0, 50.0, 0.0)), MEMORY, AT_CELL_3)
    torch.testing.assert_close(weights, torch.eye(4, dtype=torch.float64)[1].expand(1, 2, 4))


def test_a_shift_is_a_circular_convolution():
    shifted = shift_circularly(torch.tensor([0.0, 1.0, 0.0, 0.0, 8.0]), torch.tensor([0.5, 0.3, 0.2]))
    torch.testing.assert_close(shifted, torch.tensor([4.2, 0.3, 0.5, 1.6, 2.4]))


def test_weightings_are_not_negative_and_sum_to_one(lively):
    weights = weightings(lively.float(), 3 * random(4, 20, 5, dtype=torch.float32))
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(20, 4, 2))


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_a_memory_may_have_few_cells(cells):
    ntm = NTM(5, 3, hidden=7, cells=cells, cell_width=1)
    weights = weightings(ntm, torch.randn(2, 4, 5))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(4, 2, 2))


# Settings


@pytest.mark.parametrize("name", OUTPUT_LAYERS)
def test_the_factory_makes_the_layer_of_each_head_and_both_learn(name):
    ntm = tiny(output_layer(name, **SETTINGS[name]))
    logits = ntm(torch.randn(4, 6, 5))
    assert logits.shape == (4, 6, 3)
    logits.square().sum().backward()
    for head in (ntm.read_head, ntm.write_head):
        assert isinstance(head, OUTPUT_LAYERS[name])
        gradients = [p.grad for p in head.parameters() if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_a_factory_may_leave_out_the_bias():
    assert tiny(partial(nn.Linear, bias=False))(torch.randn(1, 2, 5)).shape == (1, 2, 3)


def test_weights_are_drawn_as_released():
    torch.manual_seed(0)
    ntm = NTM(10, 8, hidden=250)
    for tensor, bound in (
        (ntm.controller.weight_ih, 5 / math.sqrt(10 + 20 + 250)),
        (ntm.controller.weight_hh, 5 / math.sqrt(10 + 20 + 250)),
        (ntm.memory_0, 1 / math.sqrt(128 + 20)),
        (ntm.read_head.weight, 1.4 * math.sqrt(6 / (250 + 26))),
        (ntm.write_head.weight, 1.4 * math.sqrt(6 / (250 + 66))),
        (ntm.output.weight, math.sqrt(6 / (270 + 8))),
    ):
        assert 0.98 * bound < tensor.abs().max() <= bound
    assert not ntm.controller.bias_ih.any() and not ntm.controller.bias_hh.any()
    assert 0 < ntm.read_0.abs().max() < 0.05


def test_the_initial_memory_is_saved_but_not_trained():
    ntm = tiny()
    fixed = {"memory_0", "read_0"}
    assert fixed <= ntm.state_dict().keys()
    assert not fixed & {name for name, _ in ntm.named_parameters()}
    assert {"h_0", "c_0"} <= {name for name, _ in ntm.named_parameters()}


@pytest.mark.parametrize("name", ["in_features", "out_features", "hidden", "cells", "cell_width"])
def test_a_size_below_one_is_refused_by_name(name):
    sizes = dict(in_features=2, out_features=2, hidden=2, cells=2, cell_width=2) | {name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        NTM(sizes.pop("in_features"), sizes.pop("out_features"), **sizes)


@pytest.mark.parametrize("shape", [(2, 4, 6), (4, 5), (2, 0, 5)])
def test_inputs_of_a_wrong_shape_are_refused_with_the_right_one(shape):
    with pytest.raises(ValueError, match=r"inputs have shape .* in_features = 5\) with at least one step"):
        tiny()(torch.zeros(shape))


# Sequences


def test_a_call_does_not_depend_on_earlier_calls(lively):
    inputs = random(2, 5, 5)
    first = lively(inputs)
    lively(random(2, 5, 5, seed=1)).sum().backward()
    torch.testing.assert_close(lively(inputs), first, rtol=0, atol=0)


def test_a_sequence_has_the_same_logits_alone_and_in_a_batch(lively):
    inputs = random(4, 6, 5)
    torch.testing.assert_close(lively(inputs[2:3]), lively(inputs)[2:3], rtol=1e-10, atol=1e-10)


def test_an_answer_depends_on_the_steps_up_to_it_only(lively):
    inputs = random(2, 8, 5)
    changed = inputs.clone()
    changed[:, 5] += 1
    torch.testing.assert_close(lively(inputs)[:, :5], lively(changed)[:, :5], rtol=1e-10, atol=1e-10)
    assert ((lively(inputs) - lively(changed))[:, 5:].abs().amax(dim=-1) > 1e-6).all()


# Numbers


def without_initial_memory(ntm):
    ntm.memory_0.zero_()
    ntm.read_0.zero_()


def with_heads_that_emit_zeros(ntm):
    for parameter in (*ntm.read_head.parameters(), *ntm.write_head.parameters()):
        nn.init.zeros_(parameter)


def with_extreme_heads(ntm):
    for head in (ntm.read_head, ntm.write_head):
        nn.init.normal_(head.weight, std=300)


@pytest.mark.parametrize(
    "prepare", [lambda ntm: None, without_initial_memory, with_heads_that_emit_zeros, with_extreme_heads]
)
def test_gradients_are_finite_for_zero_inputs_zero_vectors_and_extreme_heads(prepare):
    ntm = tiny()
    prepare(ntm)
    inputs = torch.zeros(2, 10, 5, requires_grad=True)
    logits = ntm(inputs)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    gradients = [inputs.grad, *(parameter.grad for parameter in ntm.parameters())]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_gradients_are_those_of_finite_differences(lively):
    assert torch.autograd.gradcheck(lively, random(1, 3, 5).requires_grad_())


# Learning


def test_the_ntm_learns_to_return_a_vector_that_only_the_memory_can_carry():
    torch.manual_seed(0)
    ntm = NTM(6, 4, hidden=32, cells=8, cell_width=6)
    # The controller forgets everything from one step to the next.
    with torch.no_grad():
        ntm.controller.weight_hh.zero_().requires_grad_(False)
        ntm.controller.bias_hh.chunk(4)[1].fill_(-100)
    optimizer = torch.optim.Adam(ntm.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        bits = torch.randint(2, (32, 4)).float()
        # The four steps are start, vector, end and answer.
        inputs = torch.zeros(32, 4, 6)
        inputs[:, 0, 4] = inputs[:, 2, 5] = 1
        inputs[:, 1, :4] = bits
        loss = F.binary_cross_entropy_with_logits(ntm(inputs)[:, -1], bits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.6
    assert sum(losses[-5:]) / 5 < 0.1
