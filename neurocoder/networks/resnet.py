"""ResNet-18 (He et al. 2016): torchvision's architecture under torchvision's names, and its trunk to layer3.

    network = ResNet18()
    # torchvision's ImageNet weights
    network.load_state_dict(torch.load("resnet18-f37072fd.pth"))
    # frozen: 1000 fixed features an image, for Split CIFAR
    network.eval().requires_grad_(False)

`.train()` on a module that holds a frozen ResNet18 lets its batch norm learn again. Call `.eval()` after it, or compute
the features once. The trunk has no batch norm, so for the trunk `.requires_grad_(False)` is enough.

Shapes: B images of any height H and width W. Pretrained weights expect colours in [0, 1], minus ImageNet's mean
(0.485, 0.456, 0.406) and divided by its deviation (0.229, 0.224, 0.225).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neurocoder.checks import check_sizes
from neurocoder.output_layers import OutputLayer

NORM_EPSILON = 1e-5
"""The epsilon of nn.BatchNorm2d."""


class ToLayer3(nn.Module):
    """The layers that ResNet18 and ResNet18Trunk share: conv1 to layer3.

    Folded: the convolutions have a bias, and there is no batch norm.
    """

    def __init__(self, *, folded: bool):
        super().__init__()
        self.conv1 = _convolution(3, 64, 7, stride=2, folded=folded)
        self.bn1 = _norm(64, folded=folded)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _layer(64, 64, folded=folded)
        self.layer2 = _layer(64, 128, folded=folded)
        self.layer3 = _layer(128, 256, folded=folded)

    def to_layer3(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 256, H / 16, W / 16), rounded up."""
        x = self.maxpool(self.bn1(self.conv1(images)).relu())  # (B, 64, H / 4, W / 4)
        return self.layer3(self.layer2(self.layer1(x)))


class ResNet18(ToLayer3):
    """The whole network, 11,689,512 parameters with 1000 classes. The factory makes its last layer, `fc`.

    `load_state_dict` takes torchvision's state dict as it is.

    Raises:
        ValueError: a size is below 1. The message names it.
    """

    def __init__(self, classes: int = 1000, *, output_layer: OutputLayer = nn.Linear):
        super().__init__(folded=False)
        check_sizes(classes=classes)
        self.layer4 = _layer(256, 512, folded=False)
        self.fc = output_layer(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes)."""
        x = self.layer4(self.to_layer3(images))  # (B, 512, H / 32, W / 32)
        return self.fc(x.mean(dim=(2, 3)))


class ResNet18Trunk(ToLayer3):
    """The part of ResNet-18 up to layer3, with 256 features. Batch norm is folded into the convolutions."""

    def __init__(self) -> None:
        super().__init__(folded=True)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> features (B, 256), the mean of layer3 over the image."""
        return self.to_layer3(images).mean(dim=(2, 3))

    def load_folded(self, arrays: Mapping[str, Any]) -> None:
        """Loads weights and biases from tensors or arrays by name: `fold_batch_norm(...)` or `np.load(npz)`.

        Names of layer4 and fc are allowed and not used.

        Raises:
            RuntimeError: an array is missing or has another shape. The message names it.
        """
        self.load_state_dict(
            {name: torch.as_tensor(arrays[name]) for name in self.state_dict() if name in arrays}
        )


def fold_batch_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Maps the state dict of ResNet18, or torchvision's, to weight and bias of every convolution, equal in eval mode.

    With scale = gamma / sqrt(variance + epsilon): norm(W x) = (scale W) x + (beta - scale mean).
    """
    folded = {}
    norms = [name.removesuffix(".running_var") for name in state if name.endswith(".running_var")]
    # layer2.0.bn1 follows layer2.0.conv1, and layer2.0.downsample.1 follows layer2.0.downsample.0.
    for norm in norms:
        convolution = norm.replace("bn", "conv").replace("downsample.1", "downsample.0")
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + NORM_EPSILON).sqrt()
        folded[f"{convolution}.weight"] = state[f"{convolution}.weight"] * scale[:, None, None, None]
        folded[f"{convolution}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return folded


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions plus a shortcut. Where the channels change, the first convolution halves the image."""

    def __init__(self, channels_in: int, channels: int, *, folded: bool):
        super().__init__()
        stride = 1 if channels == channels_in else 2
        self.conv1 = _convolution(channels_in, channels, 3, stride=stride, folded=folded)
        self.bn1 = _norm(channels, folded=folded)
        self.conv2 = _convolution(channels, channels, 3, folded=folded)
        self.bn2 = _norm(channels, folded=folded)
        # An empty Sequential is the identity.
        self.downsample = nn.Sequential()
        if stride == 2:
            self.downsample.append(_convolution(channels_in, channels, 1, stride=stride, folded=folded))
            self.downsample.append(_norm(channels, folded=folded))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.downsample(x)).relu()


def _layer(channels_in: int, channels: int, *, folded: bool) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(channels_in, channels, folded=folded), BasicBlock(channels, channels, folded=folded)
    )


def _convolution(channels_in: int, channels: int, kernel: int, *, stride: int = 1, folded: bool) -> nn.Conv2d:
    """Makes a convolution with Kaiming-normal weights (fan-out), as in torchvision; a folded norm's bias is 0."""
    convolution = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=folded)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _norm(channels: int, *, folded: bool) -> nn.Module:
    return nn.Identity() if folded else nn.BatchNorm2d(channels)
