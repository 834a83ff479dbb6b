"""variant="release" against the method written out, which tests/golden compares with the authors' released layer."""

from dataclasses import replace

import pytest
import torch

from tests.unit.neurocoder.layer_by_hand import (
    Settings,
    named_tensors,
    orthogonality,
    random_input,
    random_layer,
    reference,
)

SMALL = dict(in_features=24, out_features=10, slots=12, key_dim=5)
ATARI = dict(in_features=64, out_features=18, slots=20, key_dim=3)
# The configurations of the golden files, apart from ATARI's slots: 80 there.
CONFIGURATIONS = [
    Settings(**sizes, steps=J, heads=H, least_used=least_used, residual=residual, keys=keys, bias=False, variant="release")
    for sizes, J, H, least_used, residual, keys in [
        (ATARI, 0, 15, 5, True, "generated"),
        (SMALL, 0, 3, 0, True, "generated"),
        (SMALL, 0, 3, 0, True, "learned"),
        (SMALL, 0, 3, 0, False, "generated"),
        (SMALL, 1, 3, 0, False, "generated"),
        (SMALL, 1, 3, 2, True, "generated"),
        (SMALL, 5, 1, 2, True, "learned"),
        (SMALL, 5, 1, 2, False, "generated"),
        (SMALL, 5, 3, 0, True, "generated"),
        (SMALL, 5, 3, 5, True, "generated"),
    ]
]  # fmt: skip


def name(config: Settings) -> str:
    residual = "R" if config.residual else "noR"
    return f"J{config.steps}_H{config.heads}_l{config.least_used}_{residual}_{config.keys}"


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=name)
def test_outputs_gradients_and_orthogonality_agree_with_the_released_method_written_out(config):
    layer = random_layer(config, orthogonality_weight=1.0)
    named = named_tensors(layer)
    x = random_input(2, config.in_features).requires_grad_()
    parameters = dict(layer.named_parameters())
    results = (
        (layer(x), layer.auxiliary_loss()),
        (reference(named, config, x)[0], orthogonality(named, config)),
    )
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)
    gradients = [
        torch.autograd.grad(y.square().sum() + loss, [x, *parameters.values()], materialize_grads=True, allow_unused=True)
        for y, loss in results
    ]  # fmt: skip
    for parameter, fast, slow in zip(["x", *parameters], *gradients, strict=True):
        torch.testing.assert_close(
            fast, slow, rtol=1e-8, atol=1e-9, msg=lambda text, parameter=parameter: f"{parameter}: {text}"
        )


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=name)
def test_the_paper_variant_of_the_method_differs_so_the_comparison_can_fail(config):
    named = named_tensors(random_layer(config))
    x = random_input(1, config.in_features)
    released, paper = (
        reference(named, replace(config, variant=variant), x)[0] for variant in ("release", "paper")
    )
    assert (paper - released).norm() > 1e-3 * released.norm()
