"""Data sets that are not there are downloaded, from a web server on this machine."""

import contextlib
import functools
import hashlib
import http.server
import io
import resource
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from envs.downloads import download
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
    noise,
    refusal,
    write,
)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Starts a web server on this machine: its address and the folder it serves."""
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
    """Makes `mirrors` those of a data set, and the SHA-256 of what they serve the right ones."""
    downloads = {file: hashlib.sha256(data).hexdigest() for file, data in served.items()}
    monkeypatch.setitem(
        DATA_SETS, name, replace(DATA_SETS[name], mirrors=tuple(mirrors), downloads=downloads)
    )


def archive(members: dict[str, bytes | str]) -> bytes:
    """Makes a tar.gz file with files, given by their bytes, and symbolic links, given by their targets."""
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
    """Returns the paths of all files below a folder, and of the hidden folders."""
    paths = [path for path in folder.rglob("*") if not path.is_dir() or path.name.startswith(".")]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


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
    files = mnist_files() | {TRAIN_LABELS: idx(0x801, 3, data=bytes([5, 5, 5]))}
    del files[TEST_IMAGES]
    write(tmp_path / "data", files)
    assert load("mnist", tmp_path / "data")[0].labels.tolist() == [5, 5, 5]
    assert capsys.readouterr().err == f"downloading {address}/{TEST_IMAGES}\n"
    load("mnist", tmp_path / "data")
    assert capsys.readouterr().err == ""


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing_behind(tmp_path, monkeypatch, mirror):
    address, served = mirror
    write(served, mnist_files() | {TEST_IMAGES: b"altered"})
    offer(monkeypatch, "mnist", mnist_files(), [f"{address}/"])
    line = refusal("mnist", tmp_path / "data", download=True)
    wanted = hashlib.sha256(mnist_files()[TEST_IMAGES]).hexdigest()
    served_sum = hashlib.sha256(b"altered").hexdigest()
    assert line.startswith(f"mnist: cannot be downloaded from {address}/{TEST_IMAGES} (SHA256 hash of ")
    assert f"expected {wanted} but got {served_sum}" in line and line.endswith(f"; {ADVICE}")
    assert not (tmp_path / "data").exists()


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
        f"mnist: cannot be downloaded from {address}/none/{TRAIN_IMAGES} (404 Client Error: File not found "
        f"for url: {address}/none/{TRAIN_IMAGES}) "
        f"or http://127.0.0.1:1/{TRAIN_IMAGES} ([Errno 111] Connection refused)"
    )
    # It says where files were looked for, and leaves no empty folder.
    folders = ", ".join(str(tmp_path / "data" / folder) for folder in ("mnist", "MNIST/raw", "raw", "."))
    names = ", ".join(MNIST_FILES)
    assert line.endswith(f"; not found in {folders}: {names}, with or without .gz; {ADVICE}")
    assert list(tmp_path.iterdir()) == [tmp_path / "served"]


def test_a_mirror_that_never_answers_is_left_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("envs.downloads.TIMEOUT", 0.1)
    # This server listens, but nobody answers.
    with http.server.HTTPServer(("127.0.0.1", 0), QuietHandler) as silent:
        offer(monkeypatch, "mnist", mnist_files(), [f"http://127.0.0.1:{silent.server_port}/"])
        assert "(timed out)" in refusal("mnist", tmp_path, download=True)


@pytest.fixture
def halting(monkeypatch):
    """Starts web servers that send 100 bytes fewer than they announce, and then hang up or fall silent."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("envs.downloads.TIMEOUT", 0.2)
    ended = threading.Event()
    with contextlib.ExitStack() as stack:

        def serve(data: bytes, *, silent: bool) -> str:
            class Handler(QuietHandler):
                def do_GET(self) -> None:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[:-100])
                    if silent:
                        ended.wait()

            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield serve
        ended.set()


@pytest.mark.parametrize(("silent", "reason"), [(True, "timed out"), (False, "IncompleteRead(")])
def test_a_mirror_that_halts_amid_a_file_is_left_and_nothing_of_it_stays(
    tmp_path, monkeypatch, halting, silent, reason
):
    files = {file: noise(3_000_000, seed=1) for file in MNIST_FILES}
    offer(monkeypatch, "mnist", files, [halting(files[TRAIN_IMAGES], silent=silent)])
    line = refusal("mnist", tmp_path / "data", download=True)
    assert reason in line and "cannot be downloaded from" in line and line.endswith(f"; {ADVICE}")
    assert files_below(tmp_path / "data") == []


def test_a_full_disk_is_reported_as_one_and_not_as_a_mirror_that_fails(tmp_path, monkeypatch, mirror):
    address, served = mirror
    files = {file: noise(300_000, seed=1) for file in MNIST_FILES}
    write(served, files)
    offer(monkeypatch, "mnist", files, [f"{address}/", "http://127.0.0.1:1/"])
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        line = refusal("mnist", tmp_path / "data", download=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert line.startswith(f"{tmp_path / 'data'}: cannot be used as data folder ([Errno 27] File too large)")
    assert files_below(tmp_path / "data") == []


def test_ctrl_c_amid_a_download_leaves_nothing_behind(tmp_path, monkeypatch, mirror):
    address, served = mirror
    write(served, mnist_files())
    offer(monkeypatch, "mnist", mnist_files(), [f"{address}/"])
    opened = []

    def interrupt(*arguments: object, **named: object) -> None:
        opened.extend(files_below(tmp_path / "data"))
        raise KeyboardInterrupt

    monkeypatch.setattr("requests.models.Response.iter_content", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load("mnist", tmp_path / "data")
    # There was something to remove.
    assert len(opened) == 2 and files_below(tmp_path / "data") == []


def test_a_file_that_is_there_is_downloaded_again_only_if_its_checksum_is_another(tmp_path, mirror, capsys):
    address, served = mirror
    write(served, {"file": b"right"})
    urls, sha256 = [f"{address}/none", f"{address}/file"], hashlib.sha256(b"right").hexdigest()
    (tmp_path / "file").write_bytes(b"wrong")
    download(urls, sha256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"right"
    assert capsys.readouterr().err == "".join(f"downloading {url}\n" for url in urls)
    download(urls, sha256, tmp_path / "file")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("in_place", [[], ["data_batch_2.bin"]])
def test_a_cifar_archive_is_unpacked_for_the_files_that_are_missing(tmp_path, monkeypatch, mirror, in_place):
    address, served = mirror
    files = cifar10_files()
    inside = {f"cifar-10-batches-bin/{file}": data for file, data in files.items()}
    packed = {"cifar-10-binary.tar.gz": archive({"cifar-10-batches-bin/readme.html": b"hello"} | inside)}
    write(served, packed)
    offer(monkeypatch, "cifar10", packed, [f"{address}/"])
    # These files have one record only, and stay.
    write(tmp_path / "data/cifar-10-batches-bin", {file: files[file][:3073] for file in in_place})
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
    missing = "cifar-100-binary.tar.gz has no plain file cifar-100-binary/train.bin"
    assert line.startswith(f"cifar100: {missing}; not found in ") and line.endswith(ADVICE)
    assert files_below(tmp_path) == ["served/cifar-100-binary.tar.gz"] and not (tmp_path / "deep").exists()
