"""ResNet-18 against torchvision's names, shapes and outputs; its folded trunk; the Split CIFAR networks on top.

The folder of the trunk's weights is NEUROCODER_DATA, or shared/data next to the checkout.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neurocoder import NeurocoderLinear, output_layer
from neurocoder.networks.mlp import MLP
from neurocoder.networks.resnet import ResNet18, ResNet18Trunk, fold_batch_norm
from neurocoder.output_layers import parameter_count
from tests.commands import ROOT

DATA = Path(os.environ.get("NEUROCODER_DATA") or ROOT.parent / "shared" / "data")
TRUNK = DATA / "resnet18" / "resnet18_imagenet_conv1_to_layer3_bnfolded.npz"
needs_trunk = pytest.mark.skipif(not TRUNK.exists(), reason=f"no {TRUNK}; set NEUROCODER_DATA")

LAYERS = ((1, 64), (2, 128), (3, 256), (4, 512))


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes in resnet18-f37072fd.pth."""

    def norm(name, channels):
        vectors = {f"{name}.{v}": (channels,) for v in ("weight", "bias", "running_mean", "running_var")}
        return vectors | {f"{name}.num_batches_tracked": ()}

    shapes = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    before = 64
    for layer, width in LAYERS:
        for block in (0, 1):
            at = f"layer{layer}.{block}"
            shapes |= {f"{at}.conv1.weight": (width, before, 3, 3)} | norm(f"{at}.bn1", width)
            shapes |= {f"{at}.conv2.weight": (width, width, 3, 3)} | norm(f"{at}.bn2", width)
            if before != width:
                shapes |= {f"{at}.downsample.0.weight": (width, before, 1, 1)}
                shapes |= norm(f"{at}.downsample.1", width)
            before = width
    return shapes | {"fc.weight": (1000, 512), "fc.bias": (1000,)}


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def with_random_norms(network: nn.Module) -> nn.Module:
    """The network with the parameters and running statistics of its batch norms drawn at random."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def features_by_hand(arrays, images, layers):
    """Computes pooled features after `layers` layers in float64, with functional calls on the arrays."""
    arrays = {name: torch.as_tensor(array).double() for name, array in arrays.items()}

    def convolve(x, name, norm, stride=1):
        weight = arrays[f"{name}.weight"]
        x = F.conv2d(x, weight, arrays.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)
        if f"{norm}.weight" not in arrays:
            return x
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(arrays[f"{norm}.{part}"] for part in parts))

    x = F.max_pool2d(F.relu(convolve(images.double(), "conv1", "bn1", 2)), 3, 2, 1)
    for layer in range(1, layers + 1):
        for block in (0, 1):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(convolve(x, f"{at}.conv1", f"{at}.bn1", stride))
            y = convolve(y, f"{at}.conv2", f"{at}.bn2")
            if stride == 2:
                x = convolve(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = F.relu(y + x)
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def test_state_dict_has_the_official_names_and_shapes():
    assert shapes_of(ResNet18()) == official_shapes()


@pytest.mark.parametrize("counters", [True, False], ids=["with counters", "without counters"])
def test_an_official_state_dict_loads_strictly(counters):
    state = {
        name: torch.rand(shape) if shape else torch.tensor(7)
        for name, shape in official_shapes().items()
        if counters or shape
    }
    network = ResNet18()
    network.load_state_dict(state, strict=True)
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_parameter_count_is_the_official_one():
    assert parameter_count(ResNet18()) == 11_689_512


def test_initial_weights_have_torchvisions_distributions():
    for name, module in ResNet18().named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


@pytest.mark.parametrize("size", [32, 33, 64])
def test_images_of_any_size_become_one_logit_a_class_or_256_features(size):
    images = torch.randn(2, 3, size, size)
    assert ResNet18(7)(images).shape == (2, 7)
    assert ResNet18Trunk()(images).shape == (2, 256)


def test_the_factory_makes_the_last_layer_only():
    factory = output_layer("neurocoder", slots=10, key_dim=3, heads=5)
    network = ResNet18(5, output_layer=factory)
    assert [name for name, module in network.named_modules() if isinstance(module, NeurocoderLinear)] == [
        "fc"
    ]
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_logits_equal_those_written_out_by_hand():
    torch.manual_seed(0)
    network = with_random_norms(ResNet18()).double().eval()
    state = network.state_dict()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = F.linear(features_by_hand(state, images, layers=4), state["fc.weight"], state["fc.bias"])
        torch.testing.assert_close(network(images), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
def test_the_folded_trunk_equals_the_network_with_batch_norm(dtype, tolerance):
    torch.manual_seed(0)
    network = with_random_norms(ResNet18()).to(dtype).eval()
    trunk = ResNet18Trunk().to(dtype)
    trunk.load_folded(fold_batch_norm(network.state_dict()))
    images = torch.randn(2, 3, 64, 64, dtype=dtype)
    with torch.no_grad():
        expected = network.to_layer3(images)
        torch.testing.assert_close(
            trunk.to_layer3(images), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item()
        )
        assert torch.equal(trunk(images), trunk.to_layer3(images).mean(dim=(2, 3)))


def test_folding_leaves_a_weight_and_a_bias_for_every_convolution():
    folded = fold_batch_norm(ResNet18().state_dict())
    convolutions = [name for name, module in ResNet18().named_modules() if isinstance(module, nn.Conv2d)]
    assert set(folded) == {f"{name}.{part}" for name in convolutions for part in ("weight", "bias")}


def test_a_missing_array_and_a_wrong_shape_are_named():
    arrays = fold_batch_norm(ResNet18().state_dict())
    with pytest.raises(RuntimeError, match=r"layer3\.1\.conv2\.bias"):
        ResNet18Trunk().load_folded({k: v for k, v in arrays.items() if k != "layer3.1.conv2.bias"})
    with pytest.raises(RuntimeError, match=r"size mismatch for conv1\.weight"):
        ResNet18Trunk().load_folded(arrays | {"conv1.weight": torch.zeros(64, 3, 3, 3)})


def test_a_frozen_network_has_no_gradient_and_its_statistics_do_not_change():
    network = ResNet18().eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert not network(torch.randn(2, 3, 32, 32)).requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@needs_trunk
def test_the_trunk_takes_every_array_of_the_file_but_those_of_layer4_and_fc():
    trunk = ResNet18Trunk()
    with np.load(TRUNK) as file:
        arrays = dict(file)
        trunk.load_folded(file)
    state = trunk.state_dict()
    left_over = set(arrays) - set(state)
    assert {name.split(".")[0] for name in left_over} <= {"layer4", "fc"}
    assert all(np.array_equal(tensor.numpy(), arrays[name]) for name, tensor in state.items())


@needs_trunk
@pytest.mark.parametrize("size", [32, 112])
def test_pretrained_features_equal_those_written_out_by_hand(size):
    arrays = dict(np.load(TRUNK))
    trunk = ResNet18Trunk()
    trunk.load_folded(arrays)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = features_by_hand(arrays, images, layers=3)
        features = trunk(images)
        assert features.shape == (3, 256)
        assert features.isfinite().all()
        torch.testing.assert_close(features.double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(trunk.double()(images.double()), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_outputs_and_gradients_equal_those_of_torchvision(training):
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    theirs = with_random_norms(models.resnet18()).double().train(training)
    ours = ResNet18().double().train(training)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
    outputs = [network(images) for network in (ours, theirs)]
    close(*outputs)
    for output in outputs:
        output.square().mean().backward()
    for (name, parameter), (their_name, their_parameter) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == their_name
        close(parameter.grad, their_parameter.grad)
    # This includes the running statistics.
    close(dict(ours.state_dict()), dict(theirs.state_dict()))


# The Split CIFAR networks: frozen features -> 500-500-500 with ReLU -> one head for each task.


def split_cifar_mlp(features: int, classes: int) -> nn.Module:
    body = MLP((features, 500, 500, 500), output_layer=partial(nn.Linear, bias=False), adapted=3)
    return nn.Sequential(body, nn.ReLU(), nn.Linear(500, classes))


def split_cifar_neurocoder(features: int, classes: int) -> nn.Module:
    settings = dict(slots=100, heads=10, residual=False, variant="release")
    body = MLP(
        (features, 500, 500, 500), output_layer=output_layer("neurocoder", key_dim=5, **settings), adapted=3
    )
    head = output_layer("neurocoder", key_dim=10, **settings)
    return nn.Sequential(body, nn.ReLU(), head(500, classes))


@pytest.mark.parametrize("make", [split_cifar_mlp, split_cifar_neurocoder])
def test_a_split_cifar_network_learns_on_the_features_of_a_frozen_trunk(make):
    trunk = ResNet18Trunk().requires_grad_(False)
    network = make(256, 2)
    logits = network(trunk(torch.rand(4, 3, 32, 32)))
    assert logits.shape == (4, 2)
    logits.square().sum().backward()
    assert all(parameter.grad is None for parameter in trunk.parameters())
    assert any(parameter.grad.any() for parameter in network[0].layers[0].parameters())
