"""A written video plays in the browsers of this machine, with the right size and colours."""

import os
import shutil
import signal
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread

import numpy as np
import pytest

pytest.importorskip("cv2", reason="OpenCV needs libGL.so.1", exc_type=ImportError)

from launch.results.video import VideoWriter

BROWSERS = {
    "chromium": (("chromium", "chromium-browser", "google-chrome"), ("--no-sandbox", "--user-data-dir={}")),
    "firefox": (("firefox", "firefox-esr"), ("--no-remote", "--profile", "{}")),
}
"""The names of each browser's program, and its flags. {} is a new folder."""
COLOURS = np.array([(210, 164, 74), (45, 50, 184), (184, 50, 50), (92, 186, 92)], dtype=np.uint8)
PAGE = b"""<video id=video src=game.mp4 muted></video><script>
const say = words => fetch("/said", {method: "POST", body: words.join(" ")});
video.onerror = () => say(["error", video.error.code]);
video.onended = () => {
  const [width, height] = [video.videoWidth, video.videoHeight];
  const screen = new OffscreenCanvas(width, height).getContext("2d");
  screen.drawImage(video, 0, 0);
  const pixel = (x, y) => [...screen.getImageData(x * width, y * height, 1, 1).data.slice(0, 3)];
  const pixels = [pixel(.25, .25), pixel(.75, .25), pixel(.25, .75), pixel(.75, .75)];
  say(["played", width, height, ...pixels.flat()]);
};
video.play();
</script>"""


def played_in(browser: str, video: Path, profile: Path) -> list[str]:
    """Opens a page with the video in a browser. Returns what the page says when the video has ended or failed."""
    names, flags = BROWSERS[browser]
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no {browser} is installed")
    said: Queue[str] = Queue()

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            files = {"/": ("text/html", PAGE), "/game.mp4": ("video/mp4", video.read_bytes())}
            kind, content = files.get(self.path, ("text/plain", b""))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self):
            said.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *message: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        command = [program, "--headless", *(flag.format(profile) for flag in flags)]
        process = subprocess.Popen(
            [*command, f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            return said.get(timeout=60).split()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            server.shutdown()


@pytest.mark.parametrize("browser", BROWSERS)
def test_a_video_plays_in_a_browser_with_its_size_and_colours(browser, tmp_path):
    frame = COLOURS.reshape(2, 2, 3).repeat(105, axis=0).repeat(80, axis=1)
    with VideoWriter(tmp_path / "game.mp4", size=(210, 160), fps=30) as video:
        for _ in range(10):
            video.write(frame)
    (tmp_path / "profile").mkdir()
    word, *numbers = played_in(browser, tmp_path / "game.mp4", tmp_path / "profile")
    assert word == "played", numbers
    width, height, *pixels = map(int, numbers)
    assert (width, height) == (560, 420)
    # Firefox takes colours for those of high-definition television, since the file does not say which they are.
    assert pixels == pytest.approx(COLOURS.flatten(), abs=16 if browser == "firefox" else 8)
