"""What the network of a continual-learning run sees: MNIST's pixels, or CIFAR's features from a frozen ResNet-18.

The features are computed once, and kept with their checksums in the cache folder (XDG_CACHE_HOME, else ~/.cache).
"""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from agents.continual.config import BENCHMARKS
from agents.continual.tasks import CLASSES_PER_TASK, Split, TaskStream, mnist_features, split_tasks
from agents.runs.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from envs import images
from neurocoder.networks.resnet import ResNet18, ResNet18Trunk

OFFICIAL = "resnet18-f37072fd.pth"  # torchvision's, ImageNet; the name begins with its SHA-256 as torch.hub names files
OFFICIAL_URL = f"https://download.pytorch.org/models/{OFFICIAL}"
TRUNK = "resnet18_imagenet_conv1_to_layer3_bnfolded.npz"
SCALES = {  # mean and deviation a channel, as released
    "cifar10": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "cifar100": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
}


class Extractor(NamedTuple):
    """A frozen network that makes features (B, d) of images (B, 3, 32, 32)."""

    name: str
    features: Callable[[Tensor], Tensor]
    sha256: str
    """Of its file of weights."""


@functools.lru_cache(maxsize=1)
def load_stream(benchmark: str, scenario: str, data: Path, device: torch.device) -> tuple[TaskStream, str]:
    """The tasks of a run on the device, and in words what their features are. ValueError for data that cannot be used.

    Kept for the next run of this process, which is likely to have the same.
    """
    name = BENCHMARKS[benchmark]
    if name == "mnist":
        train, test = (
            Split(mnist_features(part.images.to(device)), part.labels.to(device))
            for part in images.load(name, data)
        )
        source = "pixels, padded to 32 x 32"
    else:
        train, test, source = cifar_features(name, data, device)
    stream = split_tasks(train, test, per_task=CLASSES_PER_TASK[benchmark], scenario=scenario)
    return stream, source


def cifar_features(name: str, data: Path, device: torch.device) -> tuple[Split, Split, str]:
    """Features of a CIFAR data set, from the cache or computed, and in words what they are. ValueError as `load_stream`."""
    extractor = find_extractor(data)
    parts = images.load(name, data)
    digest = hashlib.sha256(extractor.sha256.encode())
    for part in parts:
        digest.update(part.images.numpy().tobytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurocoder"
    folder = cache / f"{name}-{digest.hexdigest()[:16]}"
    try:
        features = load_checkpoint(folder / "step-000000000000").tensors["features"]
    except CheckpointError:
        print(f"computing the features of {name} by {extractor.name}; they are kept in {folder}", flush=True)
        mean, deviation = torch.tensor(SCALES[name], device=device).view(2, 1, -1, 1, 1)
        network = extractor.features
        features = {
            which: torch.cat(
                [network((x.to(device) / 255 - mean) / deviation).cpu() for x in part.images.split(500)]
            )
            for which, part in zip(("train", "test"), parts, strict=True)
        }
        try:
            save_checkpoint(folder, 0, {"features": features}, {"extractor": extractor.name, "data": name})
        except OSError as error:
            reason = f"cannot be written ({error}); name another cache folder by XDG_CACHE_HOME"
            raise ValueError(f"{folder}: {reason}") from error
    train, test = (
        Split(features[which].to(device), part.labels.to(device))
        for which, part in zip(("train", "test"), parts, strict=True)
    )
    return train, test, extractor.name


def find_extractor(data: Path) -> Extractor:
    """The official ResNet-18, or else its trunk, from `data`/resnet18; the official one is downloaded if neither is there.

    Raises:
        ValueError: neither can be had, or the file is damaged.
    """
    official, trunk = data / "resnet18" / OFFICIAL, data / "resnet18" / TRUNK
    if trunk.is_file() and not official.is_file():
        to_layer3 = ResNet18Trunk()
        try:
            with np.load(trunk, allow_pickle=False) as arrays:
                to_layer3.load_folded(arrays)
        except (OSError, EOFError, ValueError, RuntimeError, BadZipFile) as error:
            raise ValueError(f"{trunk}: is damaged ({error}); remove it or put it there again") from error
        return Extractor("ResNet-18 trunk to layer3, 256 features", _frozen(to_layer3), _sha256(trunk))
    if not official.is_file():
        try:
            official.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                OFFICIAL_URL, str(official), hash_prefix="f37072fd", progress=False
            )
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{official}: is not there and cannot be downloaded ({error}); put torchvision's {OFFICIAL} there"
            ) from error
    digest = _sha256(official)
    if not digest.startswith("f37072fd"):
        raise ValueError(
            f"{official}: is not torchvision's file, its SHA-256 begins with {digest[:8]}; remove it"
        )
    network = ResNet18()
    network.load_state_dict(torch.load(official, weights_only=True))
    return Extractor("ResNet-18 with its 1000-way layer, 1000 features", _frozen(network), digest)


def _frozen(network: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    network.eval().requires_grad_(False)

    def features(x: Tensor) -> Tensor:
        return network.to(x.device)(x)

    return features


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
