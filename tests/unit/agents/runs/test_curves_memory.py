"""Memory of the TensorBoard curves of an A3C run."""

import gc

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.runs.curves import Curves


def test_pictures_of_the_attention_are_written_and_do_not_stay_in_memory(tmp_path):
    from matplotlib.figure import Figure

    curves = Curves(tmp_path, frame_skip=4, env_steps=0, warn=print)
    attention = np.full((3, 15, 80), 1 / 80)
    # The first picture sets matplotlib up.
    curves.write_attention(attention, 100)
    # The garbage collection must not hide figures that stay.
    gc.disable()
    try:
        curves.write_attention(attention, 200)
        left = [thing for thing in gc.get_objects() if type(thing) is Figure]
    finally:
        gc.enable()
    curves.close()
    assert not left
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [image.step for image in events.Images("program/attention")] == [100, 200]
