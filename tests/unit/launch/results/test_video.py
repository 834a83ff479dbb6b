"""Videos are decoded again, and compared with the frames that were written."""

import subprocess
import sys

import numpy as np
import pytest

from tests.commands import ROOT

cv2 = pytest.importorskip("cv2", reason="OpenCV needs libGL.so.1", exc_type=ImportError)

import launch.results.video  # noqa: E402
from launch.results.video import VideoWriter, screen_size  # noqa: E402

ATARI = (210, 160)


def decode(path):
    """Returns the frames as RGB, (T, H, W, 3), and the frames a second."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return np.array(frames), capture.get(cv2.CAP_PROP_FPS)


def plain(colour, size=ATARI):
    return np.full((*size, 3), colour, dtype=np.uint8)


@pytest.mark.parametrize("fps", [15, 60, 59.94])
def test_a_written_video_decodes_to_as_many_frames_at_4_to_3(tmp_path, fps):
    path = tmp_path / "episode.mp4"
    with VideoWriter(path, size=ATARI, fps=fps) as video:
        for brightness in range(0, 250, 25):
            video.write(plain(brightness))
    frames, decoded_fps = decode(path)
    assert frames.shape == (10, 420, 560, 3)
    assert decoded_fps == pytest.approx(fps, abs=0.01)
    assert frames.mean(axis=(1, 2, 3)) == pytest.approx(np.arange(0, 250, 25), abs=4)


def test_colours_and_places_survive(tmp_path):
    frame = plain(0)
    corners = {(255, 0, 0): (0, 0), (0, 255, 0): (0, 1), (0, 0, 255): (1, 0), (210, 164, 74): (1, 1)}
    for colour, (row, column) in corners.items():
        frame[105 * row : 105 * (row + 1), 80 * column : 80 * (column + 1)] = colour
    with VideoWriter(tmp_path / "v.mp4", size=ATARI, fps=15) as video:
        for _ in range(3):
            video.write(frame)
    decoded = decode(tmp_path / "v.mp4")[0][-1]
    for colour, (row, column) in corners.items():
        assert decoded[105 + 210 * row, 140 + 280 * column] == pytest.approx(colour, abs=8)


def test_frames_keep_their_order_and_small_sprites_stay_sharp(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", size=ATARI, fps=15) as video:
        for step in range(8):
            frame = plain(0)
            frame[100:104, 20 * step : 20 * step + 4] = 255  # a white ball that moves right
            video.write(frame)
    frames, _ = decode(tmp_path / "v.mp4")
    for step, frame in enumerate(frames):
        ball = np.argwhere(frame[..., 1] > 128)
        assert ball.min(axis=0) == pytest.approx([200, 70 * step], abs=2)
        assert ball.max(axis=0) == pytest.approx([207, 70 * step + 13], abs=2)
        # Smoothing would leave a grey rim.
        assert not ((frame[..., 1] > 50) & (frame[..., 1] < 205)).any()


@pytest.mark.parametrize(
    ("height", "screen"),
    [(210, (420, 560)), (250, (500, 666)), (84, (504, 672)), (480, (480, 640)), (577, (578, 770))],
)
def test_every_screen_is_even_and_4_to_3(height, screen):
    assert screen_size(height) == screen


@pytest.mark.parametrize("size", [(211, 161), (577, 771), (33, 97)])
def test_frames_of_odd_size_become_an_even_picture_of_the_same_colour(tmp_path, size):
    with VideoWriter(tmp_path / "v.mp4", size=size, fps=15) as video:
        for _ in range(3):
            video.write(plain((200, 30, 90), size))
    frames, _ = decode(tmp_path / "v.mp4")
    assert frames.shape == (3, *screen_size(size[0]), 3)
    assert frames[-1].mean(axis=(0, 1)) == pytest.approx((200, 30, 90), abs=4)


def test_an_encoder_that_opencv_lacks_is_one_clear_line_and_leaves_no_file(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(launch.results.video, "CODEC", cv2.VideoWriter.fourcc(*"avc1"))
    with pytest.raises(OSError) as caught, VideoWriter(tmp_path / "v.mp4", size=ATARI, fps=15):
        pass
    said = str(caught.value)
    assert (
        said.startswith(f"cannot write video {tmp_path / 'v.mp4'}: OpenCV has no encoder")
        and "\n" not in said
    )
    # OpenCV and FFmpeg would add lines of their own.
    assert capfd.readouterr().err == "" and list(tmp_path.iterdir()) == []


def test_an_interrupted_block_leaves_no_file_and_keeps_the_older_one(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, size=ATARI, fps=15) as video:
        video.write(plain(9))
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]
    assert path.read_bytes() == b"older"


def test_the_file_has_its_name_only_once_it_is_complete(tmp_path):
    path = tmp_path / "v.mp4"
    with VideoWriter(path, size=ATARI, fps=15) as video:
        video.write(plain(9))
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]


def test_a_folder_that_does_not_exist_is_one_clear_line(tmp_path, capfd):
    path = tmp_path / "missing" / "v.mp4"
    with pytest.raises(FileNotFoundError) as caught, VideoWriter(path, size=ATARI, fps=15):
        pass
    assert str(caught.value) == f"[Errno 2] cannot write video: No such file or directory: '{path}'"
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path):
    path = tmp_path / "v.mp4"
    script = f"""
import numpy as np, resource
from launch.results.video import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # stands in for a disk with no room
noise = np.random.default_rng(0).integers(0, 256, size=(4, 210, 160, 3), dtype=np.uint8)
with VideoWriter({str(path)!r}, size=(210, 160), fps=15) as video:
    for frame in noise:
        video.write(frame)
"""
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith(
        f"OSError: cannot write video {path}: incomplete on disk"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frame", [plain(0, (84, 84)), plain(0).astype(np.float32), plain(0)[..., 0], plain(0)[..., :2]]
)
def test_a_frame_of_another_shape_or_type_is_refused(tmp_path, frame):
    with (
        pytest.raises(ValueError, match="frame must be uint8"),
        VideoWriter(tmp_path / "v.mp4", size=ATARI, fps=15) as video,
    ):
        video.write(frame)
    assert list(tmp_path.iterdir()) == []


def test_a_video_of_no_frames_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="no frame was written"),
        VideoWriter(tmp_path / "v.mp4", size=ATARI, fps=15),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "fps"), [("v.avi", 15), ("v", 15), ("v.mp4", 0)])
def test_names_and_rates_that_cannot_work_are_refused_at_once(tmp_path, name, fps):
    with pytest.raises(ValueError, match=r"mp4|fps"):
        VideoWriter(tmp_path / name, size=ATARI, fps=fps)
