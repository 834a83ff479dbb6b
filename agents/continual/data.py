"""The inputs of a continual-learning run: MNIST's pixels, or CIFAR's features from a frozen ResNet-18.

The features are computed once and kept in the cache folder (XDG_CACHE_HOME, else ~/.cache).
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from agents.continual.config import BENCHMARKS
from agents.continual.tasks import CLASSES_PER_TASK, Split, TaskStream, mnist_features, split_tasks
from agents.files import write_atomically
from agents.image_scales import SCALES
from envs import images
from envs.downloads import download, folder_for_downloads
from neurocoder.networks.resnet import ResNet18, ResNet18Trunk

# torchvision's network for ImageNet.
OFFICIAL = "resnet18-f37072fd.pth"
OFFICIAL_SHA256 = "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"
OFFICIAL_URL = f"https://download.pytorch.org/models/{OFFICIAL}"
TRUNK = "resnet18_imagenet_conv1_to_layer3_bnfolded.npz"


class Extractor(NamedTuple):
    """A frozen network that makes features (B, d) of images (B, 3, 32, 32)."""

    name: str
    features: Callable[[Tensor], Tensor]
    sha256: str
    """The SHA-256 of its file of weights."""


def load_stream(benchmark: str, scenario: str, data: Path, device: torch.device) -> TaskStream:
    """Loads the tasks of a run onto the device. Raises ValueError for data that cannot be used."""
    name = BENCHMARKS[benchmark]
    if name == "mnist":
        train, test = (
            Split(mnist_features(part.images.to(device)), part.labels.to(device))
            for part in images.load(name, data)
        )
        features = "pixels, padded to 32 x 32"
    else:
        train, test, features = cifar_features(name, data, device)
    stream = split_tasks(train, test, per_task=CLASSES_PER_TASK[benchmark], scenario=scenario)
    return stream._replace(features=features)


def cifar_features(name: str, data: Path, device: torch.device) -> tuple[Split, Split, str]:
    """Returns the features of a CIFAR data set, from the cache or computed, and in words what they are.

    Raises:
        ValueError: data or a cache folder that cannot be used.
    """
    extractor = find_extractor(data)
    parts = images.load(name, data)
    digest = hashlib.sha256(extractor.sha256.encode())
    for part in parts:
        digest.update(part.images.numpy().tobytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurocoder"
    path = cache / f"{name}-{digest.hexdigest()[:16]}"
    features = _read_cache(path)
    if features is None:
        print(f"computing the features of {name} by {extractor.name}; they are kept in {cache}", flush=True)
        mean, deviation = torch.tensor(SCALES[name], device=device).view(2, 1, -1, 1, 1)
        features = {
            use: torch.cat(
                [
                    extractor.features((x.to(device) / 255 - mean) / deviation).cpu()
                    for x in part.images.split(500)
                ]
            )
            for use, part in zip(("train", "test"), parts, strict=True)
        }
        _write_cache(path, features)
    train, test = (
        Split(features[use].to(device), part.labels.to(device))
        for use, part in zip(("train", "test"), parts, strict=True)
    )
    return train, test, extractor.name


def _read_cache(path: Path) -> dict[str, Tensor] | None:
    """Reads the tensors that `_write_cache` wrote. None if there are none, or if the file cannot be used."""
    with contextlib.suppress(OSError):
        for file in path.parent.glob(f"{path.name}-*.safetensors"):
            content = file.read_bytes()
            if file.name == _cache_name(path, content):
                return load(content)
    return None


def _write_cache(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors into a file whose name is `path`, for their source, and a digest of the file's content.

    Raises:
        ValueError: the file cannot be written.
    """
    content = save(tensors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path.with_name(_cache_name(path, content)), content)
    except OSError as error:
        reason = f"cannot be written ({error}); name another cache folder by XDG_CACHE_HOME"
        raise ValueError(f"{path}: {reason}") from error


def _cache_name(path: Path, content: bytes) -> str:
    return f"{path.name}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"


def find_extractor(data: Path) -> Extractor:
    """Loads the official ResNet-18, or else its trunk, from `data`/resnet18.

    The official one is downloaded if neither is there.

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
            with folder_for_downloads(official.parent):
                download([OFFICIAL_URL], OFFICIAL_SHA256, official)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{official}: is not there; it {error}; put torchvision's {OFFICIAL} there"
            ) from error
    digest = _sha256(official)
    if digest != OFFICIAL_SHA256:
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
