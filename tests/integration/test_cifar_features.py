"""Split CIFAR learns from features of a frozen trunk: computed once, kept, checked, or refused."""

import os
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.continual.data import OFFICIAL, TRUNK, cifar_features, load_stream
from agents.continual.presets import preset
from envs import images
from launch.continual import main
from launch.experiments.folder import make_runs
from launch.experiments.run import prepare
from neurocoder.networks.resnet import ResNet18Trunk
from tests.commands import NO_NETWORK, NOT_A_FOLDER, ROOT, in_this_process, result_of, rows_of


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """CIFAR-10's files with two images a class, and one to test on; no weights."""
    folder, draw = tmp_path_factory.mktemp("pictures"), random.Random(0)
    for i in range(1, 6):
        records = [bytes([(4 * i + j) % 10]) + draw.randbytes(3072) for j in range(4)]
        (folder / f"data_batch_{i}.bin").write_bytes(b"".join(records))
    (folder / "test_batch.bin").write_bytes(b"".join(bytes([c]) + draw.randbytes(3072) for c in range(10)))
    return folder


@pytest.fixture(scope="module")
def trunk_file(tmp_path_factory) -> Path:
    """The trunk of the folder NEUROCODER_DATA or of shared/data next to the checkout, else a file with random weights."""
    folder = Path(os.environ.get("NEUROCODER_DATA") or ROOT.parent / "shared" / "data")
    path = folder / "resnet18" / TRUNK
    if not path.is_file():
        path = tmp_path_factory.mktemp("weights") / TRUNK
        np.savez(path, **{name: tensor.numpy() for name, tensor in ResNet18Trunk().state_dict().items()})
    return path


@pytest.fixture
def with_trunk(pictures, trunk_file, tmp_path, monkeypatch) -> Path:
    """The data folder with pictures and trunk, and an empty cache folder next to it."""
    folder = tmp_path / "data"
    shutil.copytree(pictures, folder)
    (folder / "resnet18").mkdir()
    (folder / "resnet18" / TRUNK).symlink_to(trunk_file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def cached(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache" / "neurocoder").glob("*.safetensors"))


def features(folder: Path, device: str = "cpu") -> list[torch.Tensor]:
    train, test, source = cifar_features("cifar10", folder, torch.device(device))
    assert source == "ResNet-18 trunk to layer3, 256 features"
    return [train.x, train.labels, test.x, test.labels]


def test_features_of_cifar_are_those_of_the_trunk_and_computed_once(with_trunk, trunk_file, capsys):
    computed = features(with_trunk)
    assert capsys.readouterr().out.startswith("computing the features of cifar10 by ResNet-18 trunk")
    trunk = ResNet18Trunk()
    with np.load(trunk_file) as arrays:
        trunk.load_state_dict({name: torch.tensor(arrays[name]) for name in trunk.state_dict()})
    mean, deviation = torch.tensor([[0.491, 0.482, 0.447], [0.247, 0.243, 0.262]]).view(2, 3, 1, 1)
    expected = []
    for pictures, labels in images.load("cifar10", with_trunk, download=False):
        with torch.no_grad():
            one_by_one = [trunk((picture / 255 - mean)[None] / deviation)[0] for picture in pictures]
        expected += [torch.stack(one_by_one), labels]
    assert [len(tensor) for tensor in computed] == [20, 20, 10, 10] and computed[0].shape == (20, 256)
    torch.testing.assert_close(computed, expected, rtol=1e-3, atol=1e-4 * expected[0].abs().max().item())
    assert not computed[0].requires_grad and computed[0].std(dim=0).max() > 0

    (file,) = cached(with_trunk)
    written = file.stat().st_mtime_ns
    again = features(with_trunk)
    assert capsys.readouterr().out == "" and file.stat().st_mtime_ns == written
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(computed, again, strict=True))


def test_damaged_features_are_computed_again_and_those_of_other_images_apart(with_trunk, capsys):
    computed = features(with_trunk)
    (file,) = cached(with_trunk)
    whole = bytearray(file.read_bytes())
    for damage in (whole[:-100], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damage)
        again = features(with_trunk)
        assert capsys.readouterr().out.count("computing the features") >= 1
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(computed, again, strict=True))
        assert file.read_bytes() == whole
    batch = bytearray((with_trunk / "data_batch_3.bin").read_bytes())
    batch[5] ^= 255
    (with_trunk / "data_batch_3.bin").write_bytes(batch)
    others = features(with_trunk)
    assert (others[0] != computed[0]).any(dim=1).nonzero().flatten().tolist() == [8]
    assert len(cached(with_trunk)) == 2


def test_a_split_of_cifar_is_made_of_its_features(with_trunk):
    config = preset("split-cifar10", scenario="task", method="adam", layer="mlp")
    stream = load_stream(config.benchmark, config.scenario, with_trunk, torch.device("cpu"))
    x, labels, *_ = features(with_trunk)
    assert stream.features == "ResNet-18 trunk to layer3, 256 features" and len(stream.tasks) == 5
    for number, task in enumerate(stream.tasks):
        chosen = [i for i, label in enumerate(labels.tolist()) if label in (2 * number, 2 * number + 1)]
        assert torch.equal(task.train.x, x[chosen]) and task.test.x.shape == (2, 256)


def test_features_for_runs_on_another_machine_s_gpu_are_computed_on_what_there_is(with_trunk, tmp_path):
    config = preset("split-cifar10", scenario="task", method="adam", layer="mlp")
    described = {"label": "mlp", "continual": config.to_dict(), "data": str(with_trunk), "device": "cuda"}
    (path,) = make_runs(tmp_path / "runs", {"mlp": described})
    prepare(path, {})
    assert len(cached(with_trunk)) == 1


def reason(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        cifar_features("cifar10", folder, torch.device("cpu"))
    return " ".join(str(caught.value).split())


@pytest.mark.parametrize("damage", ["empty", "text", "cut off", "bit", "without an array"])
def test_a_damaged_trunk_is_refused_by_name(damage, with_trunk, trunk_file):
    path = with_trunk / "resnet18" / TRUNK
    path.unlink()
    whole = trunk_file.read_bytes()
    if damage == "without an array":
        with np.load(trunk_file) as arrays, path.open("wb") as file:
            np.savez(file, **{name: arrays[name] for name in arrays.files if name != "conv1.bias"})
    else:
        flipped = bytearray(whole)
        with zipfile.ZipFile(trunk_file) as arrays:
            flipped[arrays.getinfo("layer3.0.conv1.weight.npy").header_offset + 10_000] ^= 1
        path.write_bytes({"empty": b"", "text": b"<html>", "cut off": whole[:-1000], "bit": flipped}[damage])
    assert reason(with_trunk).startswith(f"{path}: is damaged (")
    assert cached(with_trunk) == []


def test_another_file_under_the_name_of_the_official_weights_is_refused(with_trunk):
    path = with_trunk / "resnet18" / OFFICIAL
    path.write_bytes(b"anything")  # goes before the trunk
    assert reason(with_trunk).startswith(f"{path}: is not torchvision's file, its SHA-256 begins with ")


def test_a_cache_folder_that_cannot_be_written_is_refused_with_what_to_do(with_trunk, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", NOT_A_FOLDER)
    line = reason(with_trunk)
    assert line.startswith(f"{NOT_A_FOLDER}/neurocoder/cifar10-") and "XDG_CACHE_HOME" in line


def test_without_weights_and_without_network_a_run_is_refused_and_can_continue_when_they_are_there(
    pictures, trunk_file, tmp_path, monkeypatch
):
    data, folder = tmp_path / "data", tmp_path / "runs"
    shutil.copytree(pictures, data)
    for name, value in (NO_NETWORK | {"XDG_CACHE_HOME": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    status, output, errors = in_this_process(
        main, "split-cifar10", "--layer", "mlp", "--epochs", 1, "--data-dir", data, "--run-dir", folder, "--device", "cpu"
    )  # fmt: skip
    announcement, error = errors.splitlines()
    assert (status, output) == (2, "") and announcement.startswith(
        "downloading https://download.pytorch.org/"
    )
    file = data / "resnet18" / OFFICIAL
    assert (
        error.startswith(f"error: {file}: is not there; it cannot be downloaded from ") and OFFICIAL in error
    )
    assert not file.parent.exists()
    file.parent.mkdir()
    shutil.copy(trunk_file, data / "resnet18" / TRUNK)
    status, output, errors = in_this_process(main, "--resume", folder)
    assert (status, errors) == (0, "") and "computing the features of cifar10" in output
    result = result_of(folder / "mlp-adam-seed1")
    assert result["features"] == "ResNet-18 trunk to layer3, 256 features"
    assert result["parameters"] == 500 * (256 + 500 + 500) + 5 * 2 * (500 + 1)
    assert len(rows_of(folder / "accuracy.csv")) == 25
