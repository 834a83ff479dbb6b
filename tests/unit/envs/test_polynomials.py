"""Polynomial sequences: against a loop over single points, the drawn degrees, scaling and noise."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.polynomials import draw_coefficients, evaluate, sequences

SCALES = ["chunk", "sequence", "raw"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_sequences(coefficients, points, scale):
    """Computes inputs and targets without noise, one point at a time, from coefficients (B, n_pa, 11)."""
    batch, pieces, _ = coefficients.shape
    length = points // pieces
    inputs, targets = np.zeros((batch, points, 2)), np.zeros((batch, points))
    for b in range(batch):
        xs = [-5 + 10 * t / (points - 1) for t in range(points)]
        ys = [np.polyval(coefficients[b, t // length].tolist()[::-1], xs[t]) for t in range(points)]
        chunks = [ys[piece * length : (piece + 1) * length] for piece in range(pieces)]
        for t in range(points):
            divisor = {"chunk": chunks[t // length], "sequence": ys, "raw": [1.0]}[scale]
            targets[b, t] = ys[t] / max(abs(y) for y in divisor)
            inputs[b, t] = xs[t] / 5, targets[b, t - 1] if t else 0.0
    return torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 3),
    pieces=st.integers(1, 5),
    length=st.integers(2, 6),
    scale=st.sampled_from(SCALES),
)
def test_sequences_are_those_of_a_loop_over_single_points(seed, batch, pieces, length, scale):
    points = pieces * length
    expected = slow_sequences(draw_coefficients(batch, pieces, generator=seeded(seed)), points, scale)
    drawn = sequences(batch, points=points, pieces=pieces, scale=scale, generator=seeded(seed))
    largest = expected[1].abs().max().item()
    torch.testing.assert_close(drawn, expected, rtol=1e-5, atol=1e-6 * largest)


def test_evaluation_is_exact_to_float64():
    coefficients = draw_coefficients(4, 3, generator=seeded())
    x = torch.linspace(-5, 5, 12, dtype=torch.float64)
    expected = [
        [np.polyval(coefficients[b, p].numpy()[::-1], x[4 * p : 4 * p + 4].numpy()) for p in range(3)]
        for b in range(4)
    ]
    torch.testing.assert_close(
        evaluate(coefficients, x), torch.tensor(np.array(expected)), rtol=1e-12, atol=0
    )


def test_degrees_are_uniform_from_2_to_10():
    coefficients = draw_coefficients(2000, 5, generator=seeded())
    # The degree is the last place that is not 0.
    degrees = (coefficients != 0).cumsum(dim=-1).argmax(dim=-1)
    counts = degrees.flatten().bincount(minlength=11)
    assert counts.shape == (11,) and not counts[:2].any()
    # This is chi-square with 8 degrees of freedom.
    assert ((counts[2:] - 10_000 / 9) ** 2 / (10_000 / 9)).sum() < 30


def test_coefficients_are_uniform_from_minus_1_to_1():
    coefficients = draw_coefficients(2000, 5, generator=seeded())
    assert coefficients.dtype == torch.float64
    for place in range(11):
        drawn = coefficients[..., place][coefficients[..., place] != 0]
        assert -1 <= drawn.min() < -0.98 and 0.98 < drawn.max() <= 1
        assert abs(drawn.mean()) < 5 / math.sqrt(3 * len(drawn))
        assert abs(drawn.square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / len(drawn))


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 4),
    pieces=st.integers(1, 6),
    length=st.integers(1, 5),
    noise=st.booleans(),
    scale=st.sampled_from(SCALES),
)
def test_inputs_are_x_over_5_and_the_y_before(batch, pieces, length, noise, scale):
    points = pieces * length
    inputs, targets = sequences(
        batch, points=points, pieces=pieces, noise=noise, scale=scale, generator=seeded()
    )
    assert inputs.shape == (batch, points, 2) and targets.shape == (batch, points)
    assert inputs.dtype == targets.dtype == torch.float32
    assert inputs.isfinite().all() and targets.isfinite().all()
    torch.testing.assert_close(inputs[..., 0], torch.linspace(-1, 1, points).expand(batch, -1))
    assert torch.equal(inputs[:, 1:, 1], targets[:, :-1]) and not inputs[:, 0, 1].any()


def test_scaling_by_chunk_makes_the_largest_y_of_every_chunk_1():
    _, y = sequences(50, generator=seeded())
    torch.testing.assert_close(y.view(50, 5, 20).abs().amax(dim=2), torch.ones(50, 5))


def test_scaling_by_sequence_makes_the_largest_y_1_and_keeps_the_proportions():
    _, y = sequences(50, scale="sequence", generator=seeded())
    _, raw = sequences(50, scale="raw", generator=seeded())
    torch.testing.assert_close(y.abs().amax(dim=1), torch.ones(50))
    torch.testing.assert_close(y * raw.abs().amax(dim=1, keepdim=True), raw)


def test_scaling_by_chunk_is_the_default():
    assert inspect.signature(sequences).parameters["scale"].default == "chunk"


@pytest.mark.parametrize("scale", SCALES)
def test_the_noise_has_three_tenths_of_the_largest_y_as_variance(scale):
    _, clean = sequences(500, scale=scale, generator=seeded())
    # The same seed draws the same polynomials.
    _, noisy = sequences(500, scale=scale, noise=True, generator=seeded())
    variance = 0.3 * clean.double().abs().amax(dim=1, keepdim=True)
    standard = (noisy.double() - clean) / variance.sqrt()
    assert abs(standard.mean()) < 0.02
    assert abs(standard.var() - 1) < 0.03
    # The noise is normal, and independent from point to point.
    near = (standard.abs() < 1).double().mean()
    assert abs(near - 0.6827) < 0.01
    assert abs((standard[:, 1:] * standard[:, :-1]).mean()) < 0.02


@pytest.mark.parametrize("noise", [False, True])
def test_the_same_seed_gives_the_same_sequences_and_nothing_else_is_random(noise):
    before = torch.random.get_rng_state()
    first = sequences(3, noise=noise, generator=seeded(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    again = sequences(3, noise=noise, generator=seeded(1))
    other = sequences(3, noise=noise, generator=seeded(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("name", ["batch", "points", "pieces"])
@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused_by_name(name, size):
    sizes = dict(batch=2, points=10, pieces=5) | {name: size}
    with pytest.raises(ValueError, match=f"{name} is {size}; it must be at least 1"):
        sequences(sizes.pop("batch"), **sizes, generator=seeded())


@pytest.mark.parametrize(("points", "pieces"), [(100, 3), (4, 5)])
def test_pieces_of_unequal_length_are_refused(points, pieces):
    with pytest.raises(ValueError, match=f"points is {points} and pieces is {pieces}; pieces must divide"):
        sequences(2, points=points, pieces=pieces, generator=seeded())


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="scale is 'chunks'; it must be 'chunk', 'sequence' or 'raw'"):
        sequences(2, scale="chunks", generator=seeded())
