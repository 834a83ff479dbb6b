"""Files of the published formats with few images, for tests that read, refuse or download them."""

import gzip
import random
import struct
from pathlib import Path

import pytest

from envs.images import DATA_SETS, load

MNIST_FILES = [*DATA_SETS["mnist"].train, *DATA_SETS["mnist"].test]
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = MNIST_FILES
CIFAR10_FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
ADVICE = "name a folder that has the official files with --data-dir or NEUROCODER_DATA"


def noise(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)


def idx(magic: int, *sizes: int, data: bytes) -> bytes:
    """Makes a gzipped idx file, the same bytes at every call."""
    return gzip.compress(struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + data, mtime=0)


def mnist_files() -> dict[str, bytes]:
    """Makes three training images with labels 7, 0, 9 and two test images with labels 4, 1."""
    return {
        TRAIN_IMAGES: idx(0x803, 3, 28, 28, data=noise(3 * 784, seed=1)),
        TRAIN_LABELS: idx(0x801, 3, data=bytes([7, 0, 9])),
        TEST_IMAGES: idx(0x803, 2, 28, 28, data=noise(2 * 784, seed=2)),
        TEST_LABELS: idx(0x801, 2, data=bytes([4, 1])),
    }


def cifar10_files() -> dict[str, bytes]:
    """Makes batches of records: batch i has i records of label i, and the test batch has one of label 6."""
    counts = dict(zip(CIFAR10_FILES, (1, 2, 3, 4, 5, 1), strict=True))
    labels = dict(zip(CIFAR10_FILES, range(1, 7), strict=True))
    return {
        file: b"".join(bytes([labels[file]]) + noise(3072, seed=10 * labels[file] + i) for i in range(count))
        for file, count in counts.items()
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def refusal(name: str, folder: Path, *, download: bool = False) -> str:
    """Returns the one line with which `load` refuses."""
    with pytest.raises(ValueError) as caught:
        load(name, folder, download=download)
    line = str(caught.value)
    assert "\n" not in line
    return line


def write_few(folder: Path) -> Path:
    """Writes noise as MNIST of 23 and 501 images, and as CIFAR-10 of 20 and 7."""
    draw = random.Random(0)
    for name, count in (("train", 23), ("t10k", 501)):
        pixels, labels = draw.randbytes(count * 784), bytes(i % 10 for i in range(count))
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(idx(0x803, count, 28, 28, data=pixels))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(idx(0x801, count, data=labels))
    for name, count in (*((f"data_batch_{i}", 4) for i in range(1, 6)), ("test_batch", 7)):
        records = [bytes([draw.randrange(10)]) + draw.randbytes(3072) for _ in range(count)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    return folder
