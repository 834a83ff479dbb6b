"""Speed of training steps of every Main Network with every layer, and the duration of whole runs.

Run this benchmark with `make bench-supervised` on a quiet machine. A layer's step is compared with the plain layer's. A
step has everything that a run has: fresh data, the layers' own losses, the optimiser. Images are random
bytes of the right size, which take as long as real ones.
"""

import argparse
import gzip
import struct
import tempfile
from pathlib import Path

import torch

from agents.supervised.presets import preset
from agents.supervised.training import SupervisedTraining
from envs.images import DATA_SETS
from neurocoder.settings import LAYERS
from tests.benchmarks.measure import Step, compare, machine, show, write_figures

CASES = {
    "mnist linear": ("mnist", "linear"),
    "cifar10 mlp": ("cifar10", "mlp"),
    "cifar10 lenet": ("cifar10", "lenet"),
    "cifar10 densenet": ("cifar10", "densenet"),
    "polynomials gru": ("polynomials", "gru"),
    "algorithms ntm": ("algorithms", "ntm"),
}


def write_random_images(folder: Path) -> None:
    """Writes files in the official formats, with 1,000 images each."""
    mnist = DATA_SETS["mnist"]
    (folder / mnist.subfolder).mkdir()
    for images, labels in (mnist.train, mnist.test):
        for name, head, size in ((images, (0x803, 1000, 28, 28), 28 * 28), (labels, (0x801, 1000), 1)):
            body = torch.randint(10 if size == 1 else 256, (1000 * size,), dtype=torch.uint8)
            data = struct.pack(f">{len(head)}I", *head) + bytes(body.tolist())
            (folder / mnist.subfolder / name).write_bytes(gzip.compress(data, 1))
    cifar = DATA_SETS["cifar10"]
    (folder / cifar.subfolder).mkdir()
    for name in (*cifar.train, *cifar.test):
        records = torch.randint(256, (1000, 3073), dtype=torch.uint8)
        records[:, 0] %= 10
        (folder / cifar.subfolder / name).write_bytes(bytes(records.flatten().tolist()))


def steps(task: str, network: str, data: Path, device: str) -> tuple[dict[str, Step], dict[str, int]]:
    """Returns a step of each layer, the plain one first, and the number of steps of its whole run."""
    variants = {layer: (layer, None) for layer in LAYERS}
    if task == "polynomials":
        del variants["neurocoder"]
        variants |= {f"neurocoder, {name}": ("neurocoder", name) for name in ("single-step", "multi-step")}
    calls, lengths = {}, {}
    for label, (layer, name) in variants.items():
        config = preset(task, network=network, layer=layer, name=name)
        training = SupervisedTraining(config, data, torch.device(device))
        calls[label] = training.train_step
        images = {"mnist": 60_000, "cifar10": 50_000}.get(task)
        lengths[label] = (
            config.epochs * -(-images // config.batch_size) if images and config.epochs else config.steps or 0
        )
    return calls, lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="seconds of each alternative in each round"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], nargs="*", default=["cpu"])
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {"machine": machine(), "cases": {}}
    show(results["machine"])
    with tempfile.TemporaryDirectory() as folder:
        write_random_images(Path(folder))
        for device in arguments.device:
            for name in arguments.case:
                print(f"\n{name} on {device}")
                calls, lengths = steps(*CASES[name], Path(folder), device)
                timings = compare(calls, rounds=arguments.rounds, seconds=arguments.seconds)
                for label, timing in timings.items():
                    f = timing.figures() | {"run_minutes": lengths[label] * timing.figures()["ms"] / 60_000}
                    results["cases"].setdefault(f"{name}/{device}", {})[label] = f
                    print(
                        f"  {label:24} {f['ms']:9.3f} ms [{f['ms_low']:.3f}, {f['ms_high']:.3f}]"
                        f"   {f['ratio']:7.3f} x [{f['ratio_low']:.3f}, {f['ratio_high']:.3f}]"
                        f"   a run of {lengths[label]:,} steps: {f['run_minutes']:.1f} min"
                    )
    write_figures(arguments.json, results)


if __name__ == "__main__":
    main()
