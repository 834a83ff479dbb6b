"""MNIST, CIFAR-10 and CIFAR-100 as whole tensors, from the official files. Missing files are downloaded.

Shapes: N images of C channels, H x W pixels.

torch is imported where it is used, because a command line asks for the files before it needs torch.
"""

from __future__ import annotations

import gzip
import math
import os
import shutil
import struct
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from envs import downloads

if TYPE_CHECKING:
    from torch import Tensor

_ADVICE = "name a folder that has the official files with --data-dir or NEUROCODER_DATA"


@dataclass(frozen=True)
class DataSet:
    """The images of a data set, and the files that hold them."""

    name: str
    classes: int
    channels: int
    size: int
    """Height and width in pixels."""
    subfolder: str
    """Folder of the files below the data folder. Those of CIFAR are the folders inside the archives."""
    other_subfolders: tuple[str, ...]
    """Where other programs keep the files below the data folder; "." is the data folder itself."""
    train: tuple[str, ...]
    """Names of the files. MNIST: images and labels, as idx files, gzipped or without .gz. CIFAR: records of labels
    and pixels."""
    test: tuple[str, ...]
    label_bytes: int
    """Bytes of a record before its pixels, the last of which is the label; 0 for idx files. CIFAR-100 has a
    coarse label before the fine one."""
    downloads: dict[str, str]
    """SHA-256 of each file that the mirrors offer, by name: the files themselves, or one archive of them."""
    mirrors: tuple[str, ...]
    """Addresses that a name is appended to, tried in this order."""


DATA_SETS = {
    # LeCun, Cortes and Burges
    "mnist": DataSet(
        name="mnist",
        classes=10,
        channels=1,
        size=28,
        subfolder="mnist",
        # torchvision's, seen from two folders.
        other_subfolders=("MNIST/raw", "raw", "."),
        train=("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        test=("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        label_bytes=0,
        downloads={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    # Krizhevsky 2009
    "cifar10": DataSet(
        name="cifar10",
        classes=10,
        channels=3,
        size=32,
        subfolder="cifar-10-batches-bin",
        other_subfolders=(".",),
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        label_bytes=1,
        downloads={
            "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        },
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
    ),
    "cifar100": DataSet(
        name="cifar100",
        classes=100,
        channels=3,
        size=32,
        subfolder="cifar-100-binary",
        other_subfolders=(".",),
        train=("train.bin",),
        test=("test.bin",),
        label_bytes=2,
        downloads={
            "cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
        },
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
    ),
}


class ImageSet(NamedTuple):
    """Images and their labels, on the CPU as `load` gives them."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64, 0 to classes - 1


def data_folder(given: Path | None) -> Path:
    """Returns the folder with the data: `given`, else that of the environment variable NEUROCODER_DATA, else `data`."""
    return given if given is not None else Path(os.environ.get("NEUROCODER_DATA") or "data")


def ensure_files(name: str, folder: Path, *, download: bool = True) -> Path:
    """Returns the folder with the files of data set `name`, and downloads those that are missing.

    That folder is the first with any of the files: `mnist`, `cifar-10-batches-bin` or `cifar-100-binary` below
    `folder`, torchvision's `MNIST/raw`, or `folder` itself. Files that are there are not opened, so this is quick
    unless it downloads.

    Args:
        download: False refuses missing files.

    Raises:
        ValueError: an unknown name, or files that are missing and cannot be downloaded.
    """
    if name not in DATA_SETS:
        raise ValueError(f"data set {name!r} is unknown; use one of {', '.join(DATA_SETS)}")
    data_set = DATA_SETS[name]
    files = data_set.train + data_set.test
    places = [folder / name for name in (data_set.subfolder, *data_set.other_subfolders)]
    try:
        place = next((p for p in places if any(_find(p, file) for file in files)), None)
        missing = [file for file in files if place is None or _find(place, file) is None]
        if not missing:
            return place or places[0]
        looked = ", ".join(map(str, places if place is None else [place]))
        what = f"not found in {looked}: {', '.join(missing)}"
        if any(file.endswith(".gz") for file in missing):
            what += ", with or without .gz"
        if not download:
            raise ValueError(f"{name}: {what}; {_ADVICE}")
        try:
            _download(data_set, missing, place or places[0])
        except ValueError as error:
            raise ValueError(f"{name}: {error}; {what}; {_ADVICE}") from error
        return place or places[0]
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be used as data folder ({_one_line(error)}); {_ADVICE}"
        ) from error


def _find(place: Path, file: str) -> Path | None:
    """Returns the path of a file, gzipped or not; None if it is not in the folder."""
    paths = (place / file, place / file.removesuffix(".gz"))
    return next((path for path in paths if path.is_file()), None)


def load(name: str, folder: Path, *, download: bool = True) -> tuple[ImageSet, ImageSet]:
    """Returns the training and the test set of data set `name`, with the fine labels of CIFAR-100.

    Files are found or downloaded as in `ensure_files`. Those that were there may hold fewer images than the official
    ones, or others, so their form is checked and not their SHA-256.

    Raises:
        ValueError: as for `ensure_files`, or a damaged file. The message is one line with the reason and
            what to do.
    """
    place = ensure_files(name, folder, download=download)
    data_set = DATA_SETS[name]
    read = _read_records if data_set.label_bytes else _read_idx_pair
    train, test = (
        [_find(place, file) or place / file for file in files] for files in (data_set.train, data_set.test)
    )
    return read(data_set, train), read(data_set, test)


def _read_idx_pair(data_set: DataSet, paths: list[Path]) -> ImageSet:
    images = _read_idx(paths[0], (data_set.size, data_set.size))
    labels = _read_idx(paths[1], ())
    if len(images) != len(labels):
        raise _damaged(paths[1], f"has {len(labels)} labels for the {len(images)} images of {paths[0].name}")
    _check_labels(data_set, labels, paths[1])
    return ImageSet(images.unsqueeze(1), labels.long())


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Reads an idx file of bytes: (N, *shape) uint8.

    Its header is 0x08 for bytes, the number of dimensions, and their sizes.
    """
    import torch

    data = _contents(path)
    dimensions = 1 + len(shape)
    header = 4 + 4 * dimensions
    if len(data) <= header:
        raise _damaged(path, f"has {len(data)} bytes, too few for an idx file with data")
    magic, count, *sizes = struct.unpack_from(f">{1 + dimensions}I", data)
    if magic != 0x0800 + dimensions:
        raise _damaged(path, f"has magic number {magic:#010x}, not {0x0800 + dimensions:#010x}")
    if tuple(sizes) != shape:
        raise _damaged(path, f"has items of size {sizes}, not {list(shape)}")
    if len(data) - header != count * math.prod(shape):
        raise _damaged(path, f"has {len(data) - header} bytes of data where its header says {count} items")
    return torch.frombuffer(data, dtype=torch.uint8, offset=header).view(count, *shape)


def _read_records(data_set: DataSet, paths: list[Path]) -> ImageSet:
    import torch

    shape = (data_set.channels, data_set.size, data_set.size)
    width = data_set.label_bytes + math.prod(shape)
    images, labels = [], []
    for path in paths:
        data = _contents(path)
        if not data or len(data) % width:
            raise _damaged(path, f"has {len(data)} bytes, not a whole number of records of {width}")
        records = torch.frombuffer(data, dtype=torch.uint8).view(-1, width)
        images.append(records[:, data_set.label_bytes :])
        labels.append(records[:, data_set.label_bytes - 1])
        _check_labels(data_set, labels[-1], path)
    return ImageSet(torch.cat(images).view(-1, *shape), torch.cat(labels).long())


def _check_labels(data_set: DataSet, labels: Tensor, path: Path) -> None:
    if (largest := int(labels.max())) >= data_set.classes:
        raise _damaged(path, f"has label {largest}, the largest of {data_set.name} is {data_set.classes - 1}")


def _contents(path: Path) -> bytearray:
    # Not bytes, because a tensor over these may be written to.
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            return bytearray(file.read())
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"cannot be read ({_one_line(error)})") from error


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: {reason}; remove it to have it downloaded, or {_ADVICE}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _download(data_set: DataSet, files: list[str], place: Path) -> None:
    """Downloads `files` into the folder `place`: all of them whole, or none. Raises ValueError, OSError."""
    with (
        downloads.folder_for_downloads(place),
        tempfile.TemporaryDirectory(prefix=".download-", dir=place) as name,
    ):
        scratch = Path(name)
        for offer, sha256 in data_set.downloads.items():
            archive = offer.endswith(".tar.gz")
            if archive or offer in files:
                urls = [mirror + offer for mirror in data_set.mirrors]
                downloads.download(urls, sha256, scratch / offer)
            if archive:
                _unpack(data_set, scratch / offer, files)
        for file in files:
            os.replace(scratch / file, place / file)


def _unpack(data_set: DataSet, archive: Path, files: list[str]) -> None:
    """Copies `files` out of an archive, next to it: only plain files, under names that the archive does not choose."""
    wanted = {f"{data_set.subfolder}/{file}": archive.with_name(file) for file in files}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name in wanted and member.isreg():
                source = tar.extractfile(member)
                assert source is not None, member
                with source, open(wanted.pop(member.name), "xb") as target:
                    shutil.copyfileobj(source, target)
    if wanted:
        raise ValueError(f"{archive.name} has no plain file {min(wanted)}")
