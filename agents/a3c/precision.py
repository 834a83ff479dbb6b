"""The precision of a worker's convolutions and LSTM, where most of its time goes."""

import platform
import time
from pathlib import Path

import torch

from agents.a3c.config import A3CConfig
from neurocoder.networks.recurrent import FRAME, RecurrentActorCritic

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
"""Each precision's type to compute in. None: the type of the weights."""
TIMING_ROUNDS = 3
CPU_FRAMES = 4
BF16_MIN_SPEEDUP = 1.1
"""A smaller gain is not worth the lost digits."""


def choose_precision(network: RecurrentActorCritic, config: A3CConfig) -> str:
    """Returns fp32 or bf16: what is configured, or for "auto" what is faster on this machine.

    The test takes less than a second.

    GPUs and processors with instructions for bf16 gain: with AVX-512's a run is 1.7 times as fast (docs/results/a3c).
    Others lose as much or more. A deterministic run must not depend on a timing, so "auto" is fp32 there.
    """
    if config.precision != "auto":
        return config.precision
    return "fp32" if config.deterministic else faster_precision(network, games=config.envs_per_worker)


def node_kind(device: torch.device) -> str:
    """Names what a worker computes on: its GPU, or its processor and its instructions for bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    bf16 = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    return " ".join([facts.get("model name", platform.machine()), *bf16])


def faster_precision(network: RecurrentActorCritic, *, games: int) -> str:
    """Times the features of some frames and their gradient in both precisions. The network stays as it is."""
    device = network.lstm.bias_ih.device
    generator = torch.Generator(device)  # leaves the run's random state alone
    # A few frames are enough on a CPU. On a GPU they would only time the transfer.
    if device.type == "cpu":
        games = min(games, CPU_FRAMES)
    frames = torch.randint(
        256, (games, network.channels, FRAME, FRAME), dtype=torch.uint8, device=device, generator=generator
    )
    before, parameters = network.compute_dtype, list(network.convolutions.parameters())
    seconds = dict.fromkeys(PRECISIONS, float("inf"))
    for _ in range(TIMING_ROUNDS):
        for name, dtype in PRECISIONS.items():
            network.compute_dtype = dtype
            _wait_for(device)
            start = time.perf_counter()
            torch.autograd.grad(network.features(frames).sum(), parameters)
            _wait_for(device)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
        if max(seconds.values()) > 2 * min(seconds.values()):
            break
    network.compute_dtype = before
    return "bf16" if BF16_MIN_SPEEDUP * seconds["bf16"] < seconds["fp32"] else "fp32"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
