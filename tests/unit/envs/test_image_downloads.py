"""Data sets that are not there are downloaded, from a web server on this machine."""

import functools
import hashlib
import http.server
import io
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from envs.images import DATA_SETS, ensure_files, load
from tests.unit.envs.image_files import (
    ADVICE,
    CIFAR10_FILES,
    MNIST_FILES,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    cifar10_files,
    idx,
    mnist_files,
    refusal,
    write,
)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A web server on this machine: its address and the folder it serves."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def offer(monkeypatch, name: str, served: dict[str, bytes], mirrors: list[str]) -> None:
    """Make `mirrors` those of a data set, and the MD5 of what they serve the right ones."""
    downloads = {file: hashlib.md5(data).hexdigest() for file, data in served.items()}
    monkeypatch.setitem(
        DATA_SETS, name, replace(DATA_SETS[name], mirrors=tuple(mirrors), downloads=downloads)
    )


def archive(members: dict[str, bytes | str]) -> bytes:
    """A tar.gz file with files, given by their bytes, and symbolic links, given by where they lead."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def files_below(folder: Path) -> list[str]:
    found = [path for path in folder.rglob("*") if not path.is_dir() or path.name.startswith(".")]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def test_missing_files_are_downloaded_from_the_first_mirror_that_has_them(
    tmp_path, monkeypatch, mirror, capsys
):
    address, served = mirror
    write(served / "second", mnist_files())
    offer(monkeypatch, "mnist", mnist_files(), [f"{address}/first/", f"{address}/second/"])
    train, _ = load("mnist", tmp_path / "data")
    assert train.labels.tolist() == [7, 0, 9]
    assert files_below(tmp_path / "data") == sorted(f"mnist/{file}" for file in MNIST_FILES)
    assert f"downloading {address}/second/{TEST_LABELS}\n" in capsys.readouterr().err


def test_only_what_is_missing_is_downloaded(tmp_path, monkeypatch, mirror, capsys):
    address, served = mirror
    write(served, mnist_files())
    offer(monkeypatch, "mnist", mnist_files(), [f"{address}/"])
    own = mnist_files() | {TRAIN_LABELS: idx(0x801, 3, data=bytes([5, 5, 5]))}
    del own[TEST_IMAGES]
    write(tmp_path / "data", own)
    assert load("mnist", tmp_path / "data")[0].labels.tolist() == [5, 5, 5]
    assert capsys.readouterr().err == f"downloading {address}/{TEST_IMAGES}\n"
    load("mnist", tmp_path / "data")
    assert capsys.readouterr().err == ""


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing_behind(tmp_path, monkeypatch, mirror):
    address, served = mirror
    write(served, mnist_files() | {TEST_IMAGES: b"altered"})
    offer(monkeypatch, "mnist", mnist_files(), [f"{address}/"])
    line = refusal("mnist", tmp_path / "data", download=True)
    md5 = hashlib.md5(mnist_files()[TEST_IMAGES]).hexdigest()
    url = f"{address}/{TEST_IMAGES}"
    reason = f"(truncated or altered: another MD5 than {md5})"
    assert line == f"mnist: cannot be downloaded from {url} {reason}; {ADVICE}"
    assert files_below(tmp_path / "data") == []


def test_an_altered_file_on_one_mirror_is_taken_from_the_next(tmp_path, monkeypatch, mirror):
    address, served = mirror
    write(served / "first", {file: data + b"more" for file, data in mnist_files().items()})
    write(served / "second", mnist_files())
    offer(monkeypatch, "mnist", mnist_files(), [f"{address}/first/", f"{address}/second/"])
    place = ensure_files("mnist", tmp_path / "data")
    assert {file: (place / file).read_bytes() for file in MNIST_FILES} == mnist_files()


def test_without_a_mirror_that_answers_the_ones_tried_are_named_with_what_to_do(
    tmp_path, monkeypatch, mirror
):
    address, _ = mirror
    offer(monkeypatch, "mnist", mnist_files(), [f"{address}/none/", "http://127.0.0.1:1/"])
    line = refusal("mnist", tmp_path / "data", download=True)
    assert line.startswith(
        f"mnist: cannot be downloaded from {address}/none/{TRAIN_IMAGES} (HTTP Error 404: File not found) "
        f"or http://127.0.0.1:1/{TRAIN_IMAGES} (<urlopen error "
    )
    assert line.endswith(f"; {ADVICE}")
    assert files_below(tmp_path / "data") == []


def test_a_mirror_that_falls_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("envs.images.TIMEOUT", 0.1)
    silent = http.server.HTTPServer(("127.0.0.1", 0), QuietHandler)  # listens, but nobody serves
    with silent:
        offer(monkeypatch, "mnist", mnist_files(), [f"http://127.0.0.1:{silent.server_port}/"])
        assert "(timed out)" in refusal("mnist", tmp_path, download=True)


@pytest.mark.parametrize("in_place", [[], ["data_batch_2.bin"]])
def test_a_cifar_archive_is_unpacked_for_the_files_that_are_missing(tmp_path, monkeypatch, mirror, in_place):
    address, served = mirror
    files = cifar10_files()
    inside = {f"cifar-10-batches-bin/{file}": data for file, data in files.items()}
    packed = {"cifar-10-binary.tar.gz": archive({"cifar-10-batches-bin/readme.html": b"hello"} | inside)}
    write(served, packed)
    offer(monkeypatch, "cifar10", packed, [f"{address}/"])
    own = {file: files[file][:3073] for file in in_place}
    write(tmp_path / "data/cifar-10-batches-bin", own)
    train, test = load("cifar10", tmp_path / "data")
    assert len(train.labels) == 15 - len(in_place) and test.labels.tolist() == [6]
    expected = [f"cifar-10-batches-bin/{file}" for file in sorted(CIFAR10_FILES)]
    assert files_below(tmp_path / "data") == expected


@pytest.mark.parametrize(
    "evil",
    [
        {"cifar-100-binary/train.bin": "/etc/passwd"},
        {"cifar-100-binary/train.bin": "test.bin"},
        {"../train.bin": bytes(3074)},
        {"/cifar-100-binary/train.bin": bytes(3074)},
        {"cifar-100-binary/../../train.bin": bytes(3074)},
    ],
)
def test_an_archive_with_a_link_or_a_path_that_leads_elsewhere_is_refused_and_leaves_nothing_behind(
    tmp_path, monkeypatch, mirror, evil
):
    address, served = mirror
    packed = {"cifar-100-binary.tar.gz": archive({"cifar-100-binary/test.bin": bytes(3074)} | evil)}
    write(served, packed)
    offer(monkeypatch, "cifar100", packed, [f"{address}/"])
    line = refusal("cifar100", tmp_path / "deep/data", download=True)
    assert line == f"cifar-100-binary.tar.gz: has no plain file cifar-100-binary/train.bin; {ADVICE}"
    assert files_below(tmp_path) == ["served/cifar-100-binary.tar.gz"]
