"""The Neurocoder method written out: every P_t is built, every sum and every sort is explicit, one input at a time.

The tests of the layer share this file. Only `random_layer` uses the package. tests/golden compares `reference` with
files of the authors' released layer, which prove its variant="release".
"""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.func import functional_call

from neurocoder import NeurocoderLinear

EPSILON = 1e-6
"""The constant that the released code adds to norms."""


@dataclass(frozen=True)
class Settings:
    """Settings for the layer and the reference. By default sizes are small, and beta is that of the released code."""

    in_features: int = 4
    out_features: int = 3
    slots: int = 5
    key_dim: int = 2
    heads: int = 2
    steps: int = 0
    least_used: int = 0
    gate_from: str = "input"
    residual: bool = True
    keys: str = "generated"
    beta: float | None = None
    learn_beta: bool = False
    controller_features: int | None = None
    bias: bool = True
    variant: str = "paper"


LINEAR = Settings()
RECURRENT = Settings(steps=3, least_used=2)
# All options of the controller.
STEERED = Settings(steps=3, least_used=2, gate_from="signal", controller_features=6, learn_beta=True)


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


def random_inputs(config, *leading, seed=1):
    """The arguments of a layer: (x,), or (x, z) for a controller with a separate input."""
    x = random_input(*leading, config.in_features, seed=seed)
    if config.controller_features is None:
        return (x,)
    return x, random_input(*leading, config.controller_features, seed=seed + 1000)


def named_tensors(layer):
    """Parameters and buffers by name."""
    return dict(layer.named_parameters()) | dict(layer.named_buffers())


def reference(named, config, x, z=None):
    """Computes the layer's results for x (B, d_in) and z (B, controller_features).

    Returns:
        y (B, d_out), attention (B, J, 3, H, P), singular values (B, n), residual gates (B,).
    """
    z = x if z is None else z
    keys = _keys(named, config)
    composed = [_program(named, config, keys, z_b) for z_b in z]
    programs, attention, sigma, gate = (torch.stack(samples) for samples in zip(*composed, strict=True))
    y = (x.unsqueeze(1) @ programs).squeeze(1)
    return (y + named["bias"] if config.bias else y), attention, sigma, gate


def orthogonality(named, config):
    """|U U^T - I| + |V V^T - I|; a row has key columns where keys are learned, and always in the released code."""
    total = 0.0
    for a in "UV":
        rows = named[f"memory.M_{a}"]
        if config.keys == "learned" or config.variant == "release":
            rows = torch.cat((named[f"memory.E_{a}"], rows), dim=1)
        total = total + (rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).square().sum().sqrt()
    return total


def _keys(named, config):
    keys = {a: named.get(f"memory.E_{a}") for a in "UVS"}
    if config.keys == "generated":
        for a in "UV":
            weight, bias = (named[f"memory.key_generator_{a}.{part}"] for part in ("weight", "bias"))
            keys[a] = named[f"memory.M_{a}"] @ weight.T + bias
    return keys


def _program(named, config, keys, z):
    """One z (d_c,) -> P_t (d_in, d_out), attention (J, 3, H, P), singular values (n,), residual gate ()."""
    signals = _signals(named, config, z)
    beta = _beta(named, config)
    width = config.heads * config.key_dim
    attention = []  # (J, H, P) for each of U, V and S
    for index, a in enumerate("UVS"):
        scores = []
        for signal in signals:
            queries = signal[index * width : (index + 1) * width]
            for h in range(config.heads):
                query = queries[h * config.key_dim : (h + 1) * config.key_dim]
                scores.append(torch.stack([_score(query, key, beta, config) for key in keys[a]]))
        scores = torch.stack(scores).view(len(signals), config.heads, config.slots)
        if config.steps and config.least_used:
            rows = slice(index * config.slots, (index + 1) * config.slots)
            gates = []  # (P,) for each step
            for signal in signals:
                source = signal if config.gate_from == "signal" else z
                raw_gate = named["gate.weight"][rows] @ source + named["gate.bias"][rows]
                gates.append(1 / (1 + (-raw_gate).exp()))
            attention.append(_usage_attention(scores, gates, config))
        else:
            attention.append(scores.exp() / scores.exp().sum(dim=-1, keepdim=True))

    w_U, w_V, w_S = (w.reshape(-1, config.slots) for w in attention)  # (n, P) each, steps before heads
    gaps = [(1 + (w @ named["memory.M_S"][:, 0]).exp()).log() for w in w_S]
    n = len(gaps)
    if config.variant == "paper":
        sigma = [sum(gaps[i] for i in range(k, n)) for k in range(n)]
    else:
        sigma = [sum(gaps[i] for i in range(k + 1)) for k in range(n)]
        if config.steps:
            sigma.reverse()
    program = z.new_zeros(config.in_features, config.out_features)
    for k in range(n):
        u, v = w_U[k] @ named["memory.M_U"], w_V[k] @ named["memory.M_V"]
        program = program + sigma[k] * u[:, None] * v[None, :]
    gate = min(sigma) / (1 + (-signals[-1][-1]).exp())
    if config.residual:
        program = program + gate * named["R"]
    return program, torch.stack(attention, dim=1), torch.stack(sigma), gate


def _signals(named, config, z):
    """The composition signals (3HK + 1,), one for each step."""
    if not config.steps:
        return [named["controller.signal.weight"] @ z + named["controller.signal.bias"]]
    h, c = named["controller.h_0"][None], named["controller.c_0"][None]
    cell = nn.LSTMCell(len(z), h.shape[1]).double()
    weights = {name: named[f"controller.{name}"] for name, _ in cell.named_parameters()}
    signals = []
    for _ in range(config.steps):
        h, c = functional_call(cell, weights, (z[None], (h, c)))
        signals.append(h[0])
    return signals


def _beta(named, config):
    if config.learn_beta:
        return named["log_beta"].exp()
    if config.beta is not None:
        return config.beta
    # The released code multiplies a cosine that is K times too small by 10 or 1.
    return (10 if config.steps else 1) / config.key_dim


def _score(query, key, beta, config):
    if config.variant == "paper":
        return beta * (query @ key) / ((query @ query + EPSILON**2) * (key @ key + EPSILON**2)).sqrt()
    norms = (query.square().sum().sqrt() + EPSILON) * (key.square().sum().sqrt() + EPSILON)
    return beta * config.key_dim * (query @ key) / (config.key_dim * norms + EPSILON)


def _usage_attention(scores, gates, config):
    """Attention to one memory (J, H, P). The gates (P,) of a step draw it to the slots that were used least before."""
    candidates = [1.0 if p < config.least_used else 0.0 for p in range(config.slots)]
    past_weights, steps = [[] for _ in range(config.slots)], []
    for step, gate in zip(scores, gates, strict=True):
        heads = []
        for row in step:
            softmax = row.exp() / row.exp().sum()
            peaked = softmax / max(softmax)
            attention = [(1 - gate[p]) * peaked[p] + gate[p] * candidates[p] for p in range(config.slots)]
            for p in range(config.slots):
                past_weights[p].append(attention[p])
            heads.append(torch.stack(attention))
        unused = [1 - max(weights) for weights in past_weights]
        threshold = sorted(unused, reverse=True)[config.least_used]
        candidates = [r if r > threshold else 0.0 for r in unused]
        steps.append(torch.stack(heads))
    return torch.stack(steps)
