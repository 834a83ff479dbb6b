"""TensorBoard curves of an Atari run."""

import gc
import subprocess
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.runs.curves import Curves
from tests.commands import ROOT


def test_pictures_of_the_attention_are_written_and_do_not_stay_in_memory(tmp_path):
    from matplotlib.figure import Figure

    curves = Curves(tmp_path, frame_skip=4, env_steps=0, warn=print)
    attention = np.full((3, 15, 80), 1 / 80)
    curves.write_attention(attention, 100)  # the first one sets matplotlib up
    gc.disable()  # no collection by chance
    try:
        curves.write_attention(attention, 200)
        left = [found for found in gc.get_objects() if type(found) is Figure]
    finally:
        gc.enable()
    curves.close()
    assert not left
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [image.step for image in events.Images("program/attention")] == [100, 200]


FILL_THE_DISK = """
import resource, signal, sys, threading
from pathlib import Path
hook = threading.excepthook
from agents.runs.curves import Curves
assert threading.excepthook is hook
curves = Curves(Path(sys.argv[1]), frame_skip=4, env_steps=0, warn=print)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))  # no file may grow
for number in range(100):
    curves.describe({"number": number})
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
curves.flush()
curves.describe({"number": 100})
curves.close()
other = threading.Thread(target=lambda: 1 / 0)
other.start()
other.join()
"""


def test_a_full_disk_costs_one_warning_and_no_traceback_until_there_is_room_again(tmp_path):
    command = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    (warning,) = done.stdout.splitlines()
    assert warning.startswith(f"curves cannot be written to {tmp_path} ([Errno 27] File too large)")
    # The error of any other thread is still printed.
    assert done.stderr.count("Traceback") == 1 and done.stderr.rstrip().endswith("division by zero")
    (page,) = EventAccumulator(str(tmp_path)).Reload().Tensors("run/text_summary")
    assert b"| number | 100 |" in page.tensor_proto.string_val[0]
