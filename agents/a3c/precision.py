"""In which precision a worker computes its convolutions and its LSTM: most of its time goes there."""

import platform
import time
from pathlib import Path

import torch

from agents.a3c.config import A3CConfig
from neurocoder.networks.conv_lstm import FRAME, ConvLSTM

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}  # None: as the weights are kept
ROUNDS = 3
MARGIN = 1.1  # by which bf16 must be faster: below that it only costs digits


def choose_precision(network: ConvLSTM, config: A3CConfig) -> str:
    """fp32 or bf16: what is configured, or for "auto" the faster one on this machine, by a test of less than a second.

    GPUs and processors with instructions for bf16 gain (a run with AVX-512's is 1.7 times as fast, docs/results/a3c),
    others lose as much or more. In a deterministic run a timing must not decide anything, so "auto" means fp32 there.
    """
    if config.precision != "auto":
        return config.precision
    return "fp32" if config.deterministic else faster_precision(network, games=config.envs_per_worker)


def node_kind(device: torch.device) -> str:
    """Names the kind of machine that a worker computes on: its GPU, or its processor with its instructions for bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    about = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = about.get("flags", "").split()
    bf16 = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    return " ".join([about.get("model name", platform.machine()), *bf16])


def faster_precision(network: ConvLSTM, *, games: int) -> str:
    """fp32 or bf16, by the time that features of some frames and their gradient take. The network stays as it is."""
    device = network.lstm.bias_ih.device
    own = torch.Generator(device)  # not the one that the run draws from
    if device.type == "cpu":
        games = min(games, 4)  # enough to see it there; of a GPU they would only time the way to it
    frames = torch.randint(256, (games, 1, FRAME, FRAME), dtype=torch.uint8, device=device, generator=own)
    before, parameters = network.compute_dtype, list(network.convolutions.parameters())
    seconds = dict.fromkeys(PRECISIONS, float("inf"))
    for _ in range(ROUNDS):
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
    return "bf16" if MARGIN * seconds["bf16"] < seconds["fp32"] else "fp32"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
