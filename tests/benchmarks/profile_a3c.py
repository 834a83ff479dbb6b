"""The parts of a worker's time.

Run this profiler with `make profile-a3c` on a quiet machine. It prints the shares for one worker with the
parameter server in one process, and writes a trace for https://ui.perfetto.dev. Then py-spy draws the
stacks of a run on Ray: server, workers and driver.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from agents.a3c.config import A3CConfig
from agents.a3c.local_training import LocalTraining
from neurocoder.kernels import conv_pool_relu, convolutions
from tests.benchmarks.measure import machine, show

# The first part whose pattern is in an operation's name has its time.
PARTS = {
    "games": ("games",),
    "first convolution and pooling": ("first convolution",),
    "convolutions, forward": ("mkldnn_convolution", "cudnn_convolution"),
    "convolutions, backward": ("convolution_backward",),
    "pooling and ReLU": ("pooling", "max_pool"),
    "LSTM and heads": ("mm", "lstm", "sigmoid", "tanh", "linear", "attend"),
    "update of the weights": ("optimizer", "Optimizer", "adam"),
}


def mark(owner: Any, name: str, part: str) -> None:
    """Replaces an object's function so that the profiler records its time as `part`."""
    function = getattr(owner, name)

    def marked(*arguments):
        with record_function(part):
            return function(*arguments)

    setattr(owner, name, marked)


def shares(config: A3CConfig, rollouts: int, trace: Path) -> dict[str, float]:
    """Returns the share of each part in the time of rollouts with their updates, the largest first."""
    torch.set_num_threads(1)
    training = LocalTraining(config)
    mark(training.worker.games, "step", "games")
    for name in ("conv_pool_relu", "conv_pool_relu_backward"):
        mark(conv_pool_relu, name, "first convolution and pooling")
    for name in ("pool_relu", "pool_relu_backward"):
        mark(convolutions, name, "pooling and ReLU")
    # The first rollout is a warm-up.
    training.advance()
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("other"):
        for _ in range(rollouts):
            training.advance()
    training.close()
    profiler.export_chrome_trace(str(trace))
    seconds: Counter[str] = Counter()
    for event in profiler.key_averages():
        part = next(
            (part for part, patterns in PARTS.items() if any(p in event.key for p in patterns)), "other"
        )
        seconds[part] += event.self_cpu_time_total
    return {part: spent / seconds.total() for part, spent in seconds.most_common()}


def draw_stacks(config: A3CConfig, seconds: int, picture: Path) -> None:
    """Has py-spy look at a run on Ray and draw its stacks."""
    with tempfile.TemporaryDirectory() as folder:
        train = [
            sys.executable, "-m", "launch.train", "--env", config.env, "--head", config.head,
            "--envs-per-worker", str(config.envs_per_worker), "--precision", config.precision,
            "--run-dir", f"{folder}/run", "--evaluate-every", "0", "--evaluate-episodes", "0",
        ]  # fmt: skip
        spy = [
            str(Path(sys.executable).parent / "py-spy"), "record", "--subprocesses",
            "--duration", str(seconds), "--output", str(picture),
        ]  # fmt: skip
        subprocess.run([*spy, "--", *train], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Seaquest")
    parser.add_argument("--head", default="neurocoder")
    parser.add_argument("--games", type=int, default=16)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--rollouts", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=60, help="length of the run that py-spy looks at")
    parser.add_argument(
        "--out", type=Path, default=Path("profile"), help="folder of the trace and the picture"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    show(machine())
    trace, picture = arguments.out / "trace.json", arguments.out / "stacks.svg"
    config = A3CConfig(
        env=arguments.env,
        head=arguments.head,
        workers=0,
        envs_per_worker=arguments.games,
        optimizer="adam",
        precision=arguments.precision,
    )
    for part, share in shares(config, arguments.rollouts, trace).items():
        print(f"  {part:29} {100 * share:5.1f} %")
    draw_stacks(config, arguments.seconds, picture)
    print(f"{trace}: open it in https://ui.perfetto.dev\n{picture}: open it in a browser")


if __name__ == "__main__":
    main()
