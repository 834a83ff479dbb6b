"""Image files of the published formats: what is read from good ones, and how bad ones are refused."""

import contextlib
import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from envs.images import DATA_SETS, data_folder, ensure_files, load
from tests.commands import ROOT
from tests.unit.envs.image_files import (
    ADVICE,
    MNIST_FILES,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    cifar10_files,
    idx,
    mnist_files,
    noise,
    refusal,
    write,
)


def test_mnist_files_are_read_pixel_by_pixel(tmp_path):
    write(tmp_path / "mnist", mnist_files())
    train, test = load("mnist", tmp_path, download=False)
    for images, count, seed in ((train.images, 3, 1), (test.images, 2, 2)):
        assert images.shape == (count, 1, 28, 28) and images.dtype == torch.uint8
        pixels = noise(count * 784, seed)
        for n, row, column in ((0, 0, 0), (0, 0, 27), (0, 27, 0), (1, 3, 5), (count - 1, 27, 27)):
            assert images[n, 0, row, column] == pixels[784 * n + 28 * row + column]
        assert images.flatten().tolist() == list(pixels)
    assert train.labels.tolist() == [7, 0, 9] and test.labels.tolist() == [4, 1]
    assert train.labels.dtype == torch.int64


def test_cifar10_records_are_read_as_a_red_a_green_and_a_blue_plane(tmp_path):
    write(tmp_path / "cifar-10-batches-bin", cifar10_files())
    train, test = load("cifar10", tmp_path, download=False)
    assert train.images.shape == (15, 3, 32, 32) and test.images.shape == (1, 3, 32, 32)
    assert train.labels.tolist() == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5]
    assert test.labels.tolist() == [6]
    # The second record of the second batch.
    pixels = noise(3072, seed=21)
    for channel, row, column in ((0, 0, 0), (1, 0, 0), (2, 31, 31), (1, 7, 30)):
        assert train.images[2, channel, row, column] == pixels[1024 * channel + 32 * row + column]
    assert test.images.flatten().tolist() == list(noise(3072, seed=60))


def test_cifar100_is_read_with_its_fine_labels(tmp_path):
    records = [bytes([19, 99]) + noise(3072, 1), bytes([3, 0]) + noise(3072, 2)]
    write(tmp_path / "cifar-100-binary", {"train.bin": b"".join(records), "test.bin": records[1]})
    train, test = load("cifar100", tmp_path, download=False)
    assert train.labels.tolist() == [99, 0] and test.labels.tolist() == [0]
    assert train.images.flatten().tolist() == list(noise(3072, 1) + noise(3072, 2))
    assert test.images.shape == (1, 3, 32, 32)


def test_what_is_read_can_be_written_to_and_lies_in_order(tmp_path):
    write(tmp_path, mnist_files() | cifar10_files())
    for name in ("mnist", "cifar10"):
        for images, labels in load(name, tmp_path, download=False):
            assert images.is_contiguous() and labels.is_contiguous()
            images.fill_(3)
            labels.fill_(1)


def test_files_are_found_in_the_folder_itself_as_well(tmp_path):
    write(tmp_path, mnist_files())
    assert ensure_files("mnist", tmp_path, download=False) == tmp_path
    assert len(load("mnist", tmp_path, download=False)[0].images) == 3


def test_a_folder_of_the_data_set_goes_before_the_folder_itself_and_the_two_are_not_mixed(tmp_path):
    write(tmp_path, mnist_files())
    write(tmp_path / "mnist", {TEST_LABELS: mnist_files()[TEST_LABELS]})
    assert refusal("mnist", tmp_path).startswith(
        f"mnist: not found in {tmp_path / 'mnist'}: {TRAIN_IMAGES}, "
    )


def test_the_data_folder_is_the_given_one_else_that_of_the_environment_else_data(monkeypatch):
    monkeypatch.setenv("NEUROCODER_DATA", "/from/environment")
    assert data_folder(Path("given")) == Path("given")
    assert data_folder(None) == Path("/from/environment")
    monkeypatch.setenv("NEUROCODER_DATA", "")
    assert data_folder(None) == Path("data")
    monkeypatch.delenv("NEUROCODER_DATA")
    assert data_folder(None) == Path("data")


def test_files_are_asked_for_without_torch(tmp_path):
    write(tmp_path / "mnist", mnist_files())
    program = (
        "import sys; from pathlib import Path; from envs.images import ensure_files; "
        "ensure_files('mnist', Path(sys.argv[1]), download=False); "
        "print([m for m in ('torch', 'numpy', 'urllib.request') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path):
    assert refusal("fashion", tmp_path) == (
        "data set 'fashion' is unknown; use one of mnist, cifar10, cifar100"
    )


def test_missing_files_are_refused_with_all_names_and_all_folders_and_what_to_do(tmp_path):
    looked = ", ".join(str(tmp_path / folder) for folder in ("mnist", "MNIST/raw", "raw", "."))
    assert refusal("mnist", tmp_path) == (
        f"mnist: not found in {looked}: {', '.join(MNIST_FILES)}, with or without .gz; {ADVICE}"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "raw", "."])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_found_as_other_programs_keep_it(folder, packed, tmp_path):
    files = mnist_files()
    if not packed:
        files = {name.removesuffix(".gz"): gzip.decompress(data) for name, data in files.items()}
    write(tmp_path / folder, files)
    train, test = load("mnist", tmp_path, download=False)
    assert train.images.flatten().tolist() == list(noise(3 * 784, 1))
    assert train.labels.tolist() == [7, 0, 9] and test.labels.tolist() == [4, 1]


def test_gzipped_and_plain_files_may_lie_side_by_side_and_a_damaged_one_is_named(tmp_path):
    files = mnist_files()
    plain = TRAIN_IMAGES.removesuffix(".gz")
    files[plain] = gzip.decompress(files.pop(TRAIN_IMAGES))
    write(tmp_path, files)
    assert load("mnist", tmp_path, download=False)[0].labels.tolist() == [7, 0, 9]
    (tmp_path / plain).write_bytes(files[plain][:-1])
    assert refusal("mnist", tmp_path).startswith(f"{tmp_path / plain}: has 2351 bytes of data where")


def test_one_missing_file_is_refused_with_its_name(tmp_path):
    files = cifar10_files()
    del files["data_batch_4.bin"]
    folder = write(tmp_path / "cifar-10-batches-bin", files)
    assert refusal("cifar10", tmp_path) == f"cifar10: not found in {folder}: data_batch_4.bin; {ADVICE}"


def test_a_data_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    line = refusal("mnist", tmp_path / "data", download=True)
    assert line.startswith(f"{tmp_path / 'data'}: cannot be used as data folder (") and line.endswith(ADVICE)


@pytest.mark.parametrize(
    ("file", "data", "reason"),
    [
        (TRAIN_IMAGES, b"", "has 0 bytes, too few for an idx file with data"),
        (TRAIN_IMAGES, mnist_files()[TRAIN_IMAGES][:-9], "cannot be read (Compressed file ended before"),
        (TEST_LABELS, b"not gzip at all", "cannot be read (Not a gzipped file"),
        (TEST_IMAGES, mnist_files()[TEST_LABELS], "has 10 bytes, too few for an idx file with data"),
        (TRAIN_LABELS, mnist_files()[TRAIN_IMAGES], "has magic number 0x00000803, not 0x00000801"),
        (
            TRAIN_IMAGES,
            idx(0x803, 1, 32, 32, data=noise(1024, 1)),
            "has items of size [32, 32], not [28, 28]",
        ),
        (
            TRAIN_IMAGES,
            idx(0x803, 3, 28, 28, data=noise(2351, 1)),
            "has 2351 bytes of data where its header says 3 items",
        ),
        (TRAIN_LABELS, idx(0x801, 2, data=bytes(3)), "has 3 bytes of data where its header says 2 items"),
        (TEST_IMAGES, idx(0x803, 0, 28, 28, data=b""), "has 16 bytes, too few for an idx file with data"),
        (
            TRAIN_LABELS,
            idx(0x801, 4, data=bytes(4)),
            f"has 4 labels for the 3 images of {TRAIN_IMAGES}",
        ),
        (TEST_LABELS, idx(0x801, 2, data=bytes([1, 10])), "has label 10, the largest of mnist is 9"),
    ],
)
def test_a_damaged_mnist_file_is_refused_with_its_name_the_reason_and_what_to_do(
    tmp_path, file, data, reason
):
    folder = write(tmp_path / "mnist", mnist_files() | {file: data})
    line = refusal("mnist", tmp_path)
    assert line.startswith(f"{folder / file}: {reason}")
    assert line.endswith(f"; remove it to have it downloaded, or {ADVICE}")


def test_a_flipped_bit_in_a_gzipped_file_is_refused(tmp_path):
    data = bytearray(mnist_files()[TRAIN_IMAGES])
    data[len(data) // 2] ^= 4
    folder = write(tmp_path / "mnist", mnist_files() | {TRAIN_IMAGES: bytes(data)})
    assert refusal("mnist", tmp_path).startswith(f"{folder / TRAIN_IMAGES}: cannot be read (")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "has 0 bytes, not a whole number of records of 3073"),
        (bytes(2 * 3073 - 1), "has 6145 bytes, not a whole number of records of 3073"),
        (bytes(3073) + bytes([10]) + bytes(3072), "has label 10, the largest of cifar10 is 9"),
    ],
)
def test_a_damaged_cifar_file_is_refused_with_its_name_the_reason_and_what_to_do(tmp_path, data, reason):
    folder = write(tmp_path / "cifar-10-batches-bin", cifar10_files() | {"data_batch_3.bin": data})
    expected = f"{folder / 'data_batch_3.bin'}: {reason}; remove it to have it downloaded, or {ADVICE}"
    assert refusal("cifar10", tmp_path) == expected


def test_the_coarse_label_of_cifar100_is_not_taken_for_the_fine_one(tmp_path):
    good, bad = bytes([200, 5]) + bytes(3072), bytes([5, 100]) + bytes(3072)
    folder = write(tmp_path / "cifar-100-binary", {"train.bin": good, "test.bin": bad})
    line = refusal("cifar100", tmp_path)
    assert line.startswith(f"{folder / 'test.bin'}: has label 100, the largest of cifar100 is 99")


# Images of each class in the published sets.
PUBLISHED = {
    "mnist": (
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ),
    "cifar10": ([5000] * 10, [1000] * 10),
    "cifar100": ([500] * 100, [100] * 100),
}


def folder_with(name: str) -> Path:
    """Returns the folder with the published files, or skips the test if there is none."""
    for folder in (data_folder(None), ROOT.parent / "shared/data"):
        with contextlib.suppress(ValueError):
            return ensure_files(name, folder, download=False)
    pytest.skip(f"no files of {name} in the folder of NEUROCODER_DATA or data, nor in ../shared/data")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sets_are_read_with_the_published_number_of_images_of_each_class(name):
    data_set = DATA_SETS[name]
    sets = load(name, folder_with(name), download=False)
    for (images, labels), counts in zip(sets, PUBLISHED[name], strict=True):
        assert images.shape == (sum(counts), data_set.channels, data_set.size, data_set.size)
        assert labels.bincount().tolist() == counts


def test_the_published_mnist_images_have_their_known_mean_and_checksums():
    folder = folder_with("mnist")
    (images, labels), _ = load("mnist", folder, download=False)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert images.double().mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    for file, sha256 in DATA_SETS["mnist"].downloads.items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == sha256
