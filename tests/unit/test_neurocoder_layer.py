"""The layer against the method written out: every P_t built, every sum and every sort explicit, one input at a time."""

import copy
import math
from dataclasses import asdict, dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neurocoder import NeurocoderLinear, auxiliary_loss
from neurocoder.program_memory import scores

E = 1e-6  # the released code's epsilon


@dataclass(frozen=True)
class Settings:
    """Written out again, so that a default that changes in the layer shows here."""

    in_features: int = 4
    out_features: int = 3
    slots: int = 5
    key_dim: int = 2
    heads: int = 2
    steps: int = 0
    least_used: int = 0
    residual: bool = True
    keys: str = "generated"
    beta: float | None = None
    bias: bool = True
    variant: str = "paper"


LINEAR = Settings()
RECURRENT = Settings(steps=3, least_used=2)


def random_layer(config, seed=0, **more):
    """A float64 layer in which no parameter is zero or small."""
    layer = NeurocoderLinear(**asdict(config), **more).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.7, generator=generator)
    return layer


def random_input(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The reference


def reference(named, config, x):
    """x (B, d_in) -> y (B, d_out), attention (B, J, 3, H, P), singular values (B, n), residual gates (B,)."""
    keys = reference_keys(named, config)
    each = [reference_program(named, config, keys, x_b) for x_b in x]
    programs, attention, sigma, gate = (torch.stack(of_all) for of_all in zip(*each, strict=True))
    y = (x.unsqueeze(1) @ programs).squeeze(1)
    return (y + named["bias"] if config.bias else y), attention, sigma, gate


def reference_keys(named, config):
    keys = {a: named.get(f"memory.E_{a}") for a in "UVS"}
    if config.keys == "generated":
        for a in "UV":
            weight, bias = (named[f"memory.key_generator_{a}.{part}"] for part in ("weight", "bias"))
            keys[a] = named[f"memory.M_{a}"] @ weight.T + bias
    return keys


def reference_program(named, config, keys, x):
    """One input x (d_in): its P_t (d_in, d_out), attention (J, 3, H, P), singular values (n), residual gate ()."""
    signals = reference_signals(named, config, x)
    width = config.heads * config.key_dim
    attention = []  # of U, V, S: (J, H, P) each
    for index, a in enumerate("UVS"):
        scores = []
        for signal in signals:
            queries = signal[index * width : (index + 1) * width]
            for h in range(config.heads):
                query = queries[h * config.key_dim : (h + 1) * config.key_dim]
                scores.append(torch.stack([reference_score(query, key, config) for key in keys[a]]))
        scores = torch.stack(scores).view(len(signals), config.heads, config.slots)
        if config.steps and config.least_used:
            rows = slice(index * config.slots, (index + 1) * config.slots)
            gates = 1 / (1 + (-(named["gate.weight"][rows] @ x + named["gate.bias"][rows])).exp())
            attention.append(reference_usage_attention(scores, gates, config))
        else:
            attention.append(scores.exp() / scores.exp().sum(dim=-1, keepdim=True))

    w_U, w_V, w_S = (w.reshape(-1, config.slots) for w in attention)  # (n, P): steps first, then heads
    gaps = [(1 + (w @ named["memory.M_S"][:, 0]).exp()).log() for w in w_S]
    n = len(gaps)
    if config.variant == "paper":
        sigma = [sum(gaps[i] for i in range(k, n)) for k in range(n)]
    else:
        sigma = [sum(gaps[i] for i in range(k + 1)) for k in range(n)]
        if config.steps:
            sigma.reverse()
    program = x.new_zeros(config.in_features, config.out_features)
    for k in range(n):
        u, v = w_U[k] @ named["memory.M_U"], w_V[k] @ named["memory.M_V"]
        program = program + sigma[k] * u[:, None] * v[None, :]
    gate = min(sigma) / (1 + (-signals[-1][-1]).exp())
    if config.residual:
        program = program + gate * named["R"]
    return program, torch.stack(attention, dim=1), torch.stack(sigma), gate


def reference_signals(named, config, x):
    """The composition signals, one a step."""
    if not config.steps:
        return [named["controller.signal.weight"] @ x + named["controller.signal.bias"]]
    h, c = named["controller.h_0"][None], named["controller.c_0"][None]
    cell = nn.LSTMCell(config.in_features, h.shape[1]).double()
    weights = {name: named[f"controller.{name}"] for name, _ in cell.named_parameters()}
    signals = []
    for _ in range(config.steps):
        h, c = functional_call(cell, weights, (x[None], (h, c)))
        signals.append(h[0])
    return signals


def reference_score(query, key, config):
    released = 10 if config.steps else 1  # on a cosine that is K times too small
    beta = released / config.key_dim if config.beta is None else config.beta
    if config.variant == "paper":
        return beta * (query @ key) / ((query @ query + E**2) * (key @ key + E**2)).sqrt()
    norms = (query.square().sum().sqrt() + E) * (key.square().sum().sqrt() + E)
    return beta * config.key_dim * (query @ key) / (config.key_dim * norms + E)


def reference_usage_attention(scores, gates, config):
    """Attention to one memory (J, H, P) that is drawn to the slots used least up to each step."""
    candidates = [1.0 if p < config.least_used else 0.0 for p in range(config.slots)]
    seen, steps = [[] for _ in range(config.slots)], []
    for step in scores:
        heads = []
        for row in step:
            softmax = row.exp() / row.exp().sum()
            peaked = softmax / max(softmax)
            attention = [(1 - gates[p]) * peaked[p] + gates[p] * candidates[p] for p in range(config.slots)]
            for p in range(config.slots):
                seen[p].append(attention[p])
            heads.append(torch.stack(attention))
        unused = [1 - max(weights) for weights in seen]
        threshold = sorted(unused, reverse=True)[config.least_used]
        candidates = [r if r > threshold else 0.0 for r in unused]
        steps.append(torch.stack(heads))
    return torch.stack(steps)


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
        residual=draw(st.booleans()),
        keys=draw(st.sampled_from(["generated", "learned"])),
        beta=draw(st.sampled_from([None, 0.5, 10.0])),
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
def test_values_traces_and_gradients_agree_with_the_method_written_out(config, leading, seed):
    layer = random_layer(config, seed)
    x = random_input(*leading, config.in_features, seed=seed + 1).requires_grad_()
    weights = random_input(*leading, config.out_features, seed=seed + 2)
    named = dict(layer.named_parameters())
    y = layer(x)
    trace = layer.trace(x)
    n = config.heads * max(config.steps, 1)
    steps = max(config.steps, 1)
    assert y.shape == (*leading, config.out_features)
    assert trace.attention.shape == (*leading, steps, 3, config.heads, config.slots)
    assert trace.singular_values.shape == (*leading, n)
    assert (trace.residual_gate is not None) == config.residual
    wanted = [x, *named.values()]
    gradients = torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True, materialize_grads=True)
    if x.numel() == 0:
        assert all(gradient.count_nonzero() == 0 for gradient in gradients)
        return

    flat = x.reshape(-1, config.in_features)
    y_slow, attention, sigma, gate = reference(named, config, flat)
    close = dict(rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(y.reshape(y_slow.shape), y_slow, **close)
    torch.testing.assert_close(trace.attention.reshape(attention.shape), attention.detach(), **close)
    torch.testing.assert_close(trace.singular_values.reshape(sigma.shape), sigma.detach(), **close)
    if config.residual:
        torch.testing.assert_close(trace.residual_gate.reshape(gate.shape), gate.detach(), **close)
    gradients_slow = torch.autograd.grad(
        (y_slow * weights.reshape(y_slow.shape)).sum(), wanted, allow_unused=True, materialize_grads=True
    )
    for name, fast, slow in zip(["x", *named], gradients, gradients_slow, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("config", [LINEAR, RECURRENT], ids=["linear", "recurrent"])
def test_gradients_agree_with_finite_differences(config):
    layer = random_layer(replace(config, in_features=2, out_features=2, slots=3, heads=1))
    names = [name for name, _ in layer.named_parameters()]

    def apply(x, *parameters):
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    x = random_input(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(apply, (x, *layer.parameters()))


@pytest.mark.parametrize("leading", [(), (1,), (6,), (2, 3), (3, 1, 2)], ids=str)
@pytest.mark.parametrize("config", [LINEAR, RECURRENT], ids=["linear", "recurrent"])
def test_leading_dimensions_are_free(config, leading):
    layer = random_layer(config)
    rows = random_input(math.prod(leading), config.in_features)
    one_by_one = torch.cat([layer(row[None]) for row in rows])
    y = layer(rows.reshape(*leading, config.in_features))
    torch.testing.assert_close(y, one_by_one.reshape(*leading, config.out_features), rtol=1e-12, atol=1e-12)
    sigma = layer.trace(rows.reshape(*leading, config.in_features)).singular_values
    assert sigma.shape == (*leading, config.heads * max(config.steps, 1))


# What is kept in memory


class LargestAllocation(TorchDispatchMode):
    """Remembers the number of elements behind the largest tensor that any operation, forward or backward, gave back."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def largest_allocations(function, x):
    """Elements of the largest tensor of the forward and of the backward pass."""
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
    named = dict(random_layer(config).named_parameters())
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


def test_a_trace_tells_that_there_is_no_residual_program():
    layer = random_layer(Settings(residual=False))
    assert layer.trace(random_input(3, 4)).residual_gate is None


# Attention and singular values


def test_paper_variant_compares_by_cosine():
    queries, keys = random_input(2, 3, 4, 5, 6), random_input(3, 7, 5, seed=2)  # (J, 3, H, K, B), (3, P, K)
    for a, of_memory in enumerate(scores(queries, keys, 3.0, "paper")):  # (JH, P, B)
        expected = 3.0 * F.cosine_similarity(queries[:, a, :, None], keys[a, None, None, :, :, None], dim=3)
        torch.testing.assert_close(of_memory, expected.flatten(0, 1), rtol=0, atol=1e-5)


def test_at_the_released_temperature_linear_attention_is_nearly_uniform():
    config = Settings(in_features=6, slots=20, key_dim=5)
    attention = random_layer(config).trace(10 * random_input(50, 6)).attention
    ratio = attention.amax(dim=-1) / attention.amin(dim=-1)
    assert 1 < ratio.max() <= math.exp(2 / 5)  # the cosine lies in [-1, 1], beta is 1 / K


def test_single_precision_finds_the_same_least_used_slots_where_attention_is_sharp():
    layer = random_layer(Settings(slots=20, steps=3, least_used=2, beta=10.0))
    x = random_input(50, 4).float()
    exact = layer.trace(x.double()).attention
    torch.testing.assert_close(layer.float().trace(x).attention.double(), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [0, 3], ids=["linear", "recurrent"])
def test_singular_values_are_positive_and_decreasing_in_the_paper_variant(steps):
    layer = random_layer(Settings(heads=4, steps=steps, least_used=2))
    with torch.no_grad():
        layer.memory.M_S.mul_(5)
    sigma = layer.trace(random_input(50, 4)).singular_values
    assert (sigma > 0).all()
    assert (sigma.diff(dim=-1) < 0).all()


def test_released_linear_controller_orders_its_singular_values_upwards():
    sigma = random_layer(Settings(heads=4, variant="release")).trace(random_input(50, 4)).singular_values
    assert (sigma.diff(dim=-1) > 0).all()


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


def distance_from_identity(rows):
    return (rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).square().sum().sqrt()


def expected_orthogonality(layer, *, key_columns):
    total = 0.0
    for a in "UV":
        rows = getattr(layer.memory, f"M_{a}")
        if key_columns:
            rows = torch.cat((getattr(layer.memory, f"E_{a}"), rows), dim=1)
        total = total + distance_from_identity(rows)
    return total


@pytest.mark.parametrize(
    ("keys", "variant", "key_columns"),
    [
        ("generated", "paper", False),
        ("generated", "release", True),
        ("learned", "paper", True),
        ("learned", "release", True),
    ],
)
@pytest.mark.parametrize("slots", [3, 9, 14], ids=lambda slots: f"P={slots}")  # widths 9 and 4, plus 2 keys
def test_orthogonality_loss_is_the_distance_of_the_gram_matrices_from_the_identity(
    slots, keys, variant, key_columns
):
    config = Settings(in_features=9, out_features=4, slots=slots, keys=keys, variant=variant)
    layer = random_layer(config, orthogonality_weight=0.3)
    loss, expected = layer.auxiliary_loss(), 0.3 * expected_orthogonality(layer, key_columns=key_columns)
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
    with torch.no_grad():  # near the least possible loss, where a difference of large numbers would cancel
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
        assert memory.grad.count_nonzero() == 0  # nan counts as not zero


def test_auxiliary_loss_sums_over_the_layers_of_a_network():
    layers = [
        random_layer(Settings(slots=slots), seed=slots, orthogonality_weight=weight)
        for slots, weight in ((3, 0.1), (5, 10.0))
    ]
    network = nn.Sequential(nn.Linear(4, 4), layers[0], nn.Sequential(nn.ReLU(), layers[1]))
    expected = 0.1 * expected_orthogonality(layers[0], key_columns=False) + 10.0 * expected_orthogonality(
        layers[1], key_columns=False
    )
    torch.testing.assert_close(auxiliary_loss(network), expected, rtol=1e-10, atol=0)


def test_auxiliary_loss_of_a_layer_used_twice_counts_once():
    layer = random_layer(LINEAR)
    assert auxiliary_loss(nn.ModuleList([layer, layer])).item() == layer.auxiliary_loss().item()


def test_auxiliary_loss_of_a_plain_network_is_zero():
    loss = auxiliary_loss(nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 2)))
    assert loss.shape == () and loss.item() == 0


# A module like any other


@pytest.mark.parametrize(
    "wrong",
    [
        dict(in_features=0),
        dict(out_features=0),
        dict(slots=0),
        dict(slots=-3),
        dict(key_dim=0),
        dict(heads=0),
        dict(steps=-1),
        dict(least_used=-1),
        dict(least_used=5),
        dict(least_used=6, steps=3),
        dict(keys="stored"),
        dict(variant="seed"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_by_name_and_value(wrong):
    ((field, value),) = (item for item in wrong.items() if item[0] != "steps" or len(wrong) == 1)
    with pytest.raises(ValueError, match=rf"^{field} is {value!r};"):
        NeurocoderLinear(**asdict(LINEAR) | wrong)


VARIETIES = {
    "linear": LINEAR,
    "recurrent": RECURRENT,
    "learned keys": Settings(keys="learned", residual=False, bias=False),
    "release": Settings(steps=2, variant="release"),
}
every_variety = pytest.mark.parametrize("config", VARIETIES.values(), ids=VARIETIES)


@every_variety
def test_a_state_dict_carries_the_whole_layer(config):
    layer, other = random_layer(config, seed=0), random_layer(config, seed=1)
    x = random_input(3, 4)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert torch.equal(other.auxiliary_loss(), layer.auxiliary_loss())


@every_variety
def test_a_deep_copy_is_equal_and_independent(config):
    layer = random_layer(config)
    x = random_input(3, 4)
    before = layer(x)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert not torch.equal(twin(x), before)
    assert torch.equal(layer(x), before)


@every_variety
def test_functional_call_uses_the_parameters_given_and_differentiates_them(config):
    layer, other = random_layer(config, seed=0), random_layer(config, seed=1)
    x = random_input(3, 4)

    def loss(parameters):
        return functional_call(layer, parameters, (x,)).square().sum()

    given_parameters = {name: parameter.detach().clone() for name, parameter in other.named_parameters()}
    gradients = grad(loss)(given_parameters)
    other(x).square().sum().backward()
    assert set(gradients) == set(given_parameters)
    for name, parameter in other.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients[name], expected, rtol=1e-10, atol=1e-12)


@every_variety
def test_vmap_gives_the_gradient_of_each_input(config):
    layer = random_layer(config)
    x = random_input(3, 4)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(parameters, row):
        return functional_call(layer, parameters, (row[None],)).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for index, row in enumerate(x):
        for name, gradient in grad(loss)(parameters, row).items():
            torch.testing.assert_close(together[name][index], gradient, rtol=1e-9, atol=1e-12)


def test_parameter_count_is_the_one_published_for_split_mnist():
    settings = dict(slots=50, key_dim=5, heads=10, residual=False, variant="release")  # Table 7, 348 K
    layers = [NeurocoderLinear(*widths, **settings) for widths in ((1024, 256), (256, 256), (256, 2))]
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == 348_083
