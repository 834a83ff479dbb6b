"""Writes games as .mp4 files that an ordinary player shows with the right shape and colours."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

# Read by OpenCV at its first video. A failure is reported once, by the errors below.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# VP9: browsers, VLC, mpv and the players of Windows show it. QuickTime Player does not; for it:
# ffmpeg -i game.mp4 -c:v libx264 -pix_fmt yuv420p game-h264.mp4 (the wheels of OpenCV have no encoder for H.264).
CODEC = cv2.VideoWriter.fourcc(*"vp09")

# OpenCV encodes the colours of standard-definition television (BT.601) and does not say so in the file. So players
# guess: VLC and mpv take more than 576 lines for high definition (BT.709) and shift the colours. Firefox does so
# with every size, by up to 15 of 255.
MAX_HEIGHT = 576


def screen_size(height: int) -> tuple[int, int]:
    """Returns (height, width) in pixels of the 4:3 screen that a picture of `height` lines fills.

    Atari's pixels are wider than high: 210 x 160 of them become 420 x 560. Every line is repeated the same
    number of times, up to `MAX_HEIGHT`, so that no line looks thicker than another. Both sizes are even,
    because the codec halves the resolution of colour.
    """
    lines = max(1, MAX_HEIGHT // height) * height
    return lines + lines % 2, 2 * round(lines * 4 / 3 / 2)


class VideoWriter:
    """Writes RGB frames to a file, which appears complete at the end of the block or not at all.

        with VideoWriter("episode.mp4", size=(210, 160), fps=15) as video:
            video.write(frame)  # uint8 (210, 160, 3)

    Raises:
        OSError: the file cannot be opened at the start of the block, or is incomplete at its end.
    """

    def __init__(self, path: str | os.PathLike[str], *, size: tuple[int, int], fps: float):
        """
        Args:
            path: the file, ending in .mp4.
            size: the (height, width) of the frames. They are shown at 4:3 (`screen_size`).
            fps: frames a second. The true speed of an Atari game is 60 / frame skip.

        Raises:
            ValueError: another ending, or a speed that is not positive.
        """
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"a video's name must end in .mp4, got {self.path}")
        if fps <= 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.frame_shape = (*size, 3)
        self.fps = fps
        self.frames_written = 0
        self._screen = screen_size(size[0])[::-1]  # (width, height), OpenCV's order
        # OpenCV knows the format by the ending, so .mp4 stays last.
        self._partial = self.path.with_name(f".{self.path.stem}.partial.mp4")

    def __enter__(self) -> Self:
        try:
            # Unlike OpenCV, this says why a file cannot be written.
            self._partial.touch()
        except OSError as error:
            raise OSError(error.errno, f"cannot write video: {error.strerror}", str(self.path)) from error
        self._encoder = cv2.VideoWriter(str(self._partial), cv2.CAP_FFMPEG, CODEC, self.fps, self._screen)
        if not self._encoder.isOpened():
            self._partial.unlink()
            raise OSError(
                f"cannot write video {self.path}: OpenCV has no encoder for it at {self.fps} frames/s; "
                "install the opencv-python of requirements.txt, or leave the video out"
            )
        return self

    def write(self, frame: np.ndarray) -> None:
        """Appends one frame, uint8 RGB (H, W, 3). Raises ValueError for a frame of another shape or type."""
        # OpenCV drops a frame that does not fit without a word.
        if frame.shape != self.frame_shape or frame.dtype != np.uint8:
            raise ValueError(f"frame must be uint8 {self.frame_shape}, got {frame.dtype} {frame.shape}")
        enlarged = cv2.resize(frame, self._screen, interpolation=cv2.INTER_NEAREST)
        self._encoder.write(cv2.cvtColor(enlarged, cv2.COLOR_RGB2BGR))
        self.frames_written += 1

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._encoder.release()
        try:
            if error is None:
                self._check()
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _check(self) -> None:
        """Reads the number of frames back, because OpenCV reports no error when the disk is full."""
        if self.frames_written == 0:
            raise ValueError(f"no frame was written to {self.path}")
        frames_stored = int(cv2.VideoCapture(str(self._partial)).get(cv2.CAP_PROP_FRAME_COUNT))
        if frames_stored != self.frames_written:
            raise OSError(f"cannot write video {self.path}: incomplete on disk, which may be full")
