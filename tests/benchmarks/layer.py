"""Speed of the output layers: training steps of whole networks, and of the layer alone.

Run this benchmark with `make bench-layer` on a quiet machine. The layer alone is compared with programs that are built
for every input. The ratio in a table is to its first row, in the same round.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder import NeurocoderLinear, OutputLayer, auxiliary_loss, output_layer
from neurocoder.networks.conv_lstm import ConvLSTM
from neurocoder.networks.gru import GRURegressor
from neurocoder.networks.mlp import MLP
from neurocoder.networks.ntm import NTM
from tests.benchmarks.measure import Step, compare, machine, show, write_figures

SPLIT_MNIST = output_layer("neurocoder", slots=50, key_dim=5, heads=10, residual=False)
ATARI = output_layer("neurocoder", slots=80, key_dim=3, heads=15)
POLYNOMIALS = dict(
    single_step=output_layer("neurocoder", slots=10, key_dim=3, heads=15, residual=False),
    multi_step=output_layer(
        "neurocoder", slots=20, key_dim=3, heads=1, steps=5, least_used=2, residual=False
    ),
)


def training_step(network: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """Makes a step: zero, forward, backward with the layer's own loss, Adam."""
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (loss() + auxiliary_loss(network)).backward()
        optimizer.step()

    return step


def split_mnist(device: str) -> dict[str, Step]:
    """1024-256-256-2, batch 128, all layers replaced."""
    x, y = torch.randn(128, 1024, device=device), torch.randint(0, 2, (128,), device=device)

    def step(layer: OutputLayer | None) -> Step:
        factories = dict(output_layer=layer, adapted=3) if layer else {}
        network = MLP((1024, 256, 256, 2), **factories).to(device)
        return training_step(network, lambda: F.cross_entropy(network(x), y))

    return {"mlp": step(None), "neurocoder": step(SPLIT_MNIST)}


def single_layer(device: str) -> dict[str, Step]:
    """1024 -> 256, batch 128, forward and backward."""
    layer = SPLIT_MNIST(1024, 256).to(device)
    x = torch.randn(128, 1024, device=device, requires_grad=True)

    def forward_backward(apply: Callable[[Tensor], Tensor]) -> Step:
        return lambda: apply(x).sum().backward()

    return {
        "programs built": forward_backward(lambda x: with_programs_built(layer, x)),
        "neurocoder": forward_backward(layer),
        "linear": forward_backward(nn.Linear(1024, 256).to(device)),
    }


def with_programs_built(layer: NeurocoderLinear, x: Tensor) -> Tensor:
    """Computes the layer's outputs with a (d_in, d_out) matrix for each input, like the released code."""
    batch, program = len(x), layer._compose(x, layer.controller(x))
    (weights_of_slots,) = program.steps
    w_U, w_V = weights_of_slots.U.movedim(-1, 0), weights_of_slots.V.movedim(-1, 0)  # (B, n, P) each
    U = w_U @ layer.memory.M_U.repeat(batch, 1, 1)  # (B, n, d_in)
    V = w_V @ layer.memory.M_V.repeat(batch, 1, 1)  # (B, n, d_out)
    weights = U.mT @ torch.diag_embed(program.sigma.T) @ V  # (B, d_in, d_out)
    return (x.unsqueeze(1) @ weights).squeeze(1) + layer.bias


def a3c_update(device: str) -> dict[str, Step]:
    """Gradient of a rollout, 16 games x 20 steps of Pong, and Adam, with each head on the actor."""
    games, steps, actions = 16, 20, 6
    frames = torch.randint(0, 256, (steps, games, 1, 80, 80), dtype=torch.uint8, device=device)
    start = torch.zeros(steps, games, dtype=torch.bool, device=device)
    taken = torch.randint(0, actions, (steps, games, 1), device=device)
    advantage = torch.randn(steps, games, 1, device=device)

    def step(actor: OutputLayer) -> Step:
        network = ConvLSTM(actions, actor=actor).to(device)

        def loss() -> Tensor:
            features = network.features(frames.flatten(0, 1)).unflatten(0, (steps, games))
            hidden, _ = network.recur(features, network.initial_state(games), start)
            log_policy = network.actor(hidden).log_softmax(dim=-1)
            value = network.critic(hidden)
            return (value - advantage).square().sum() - (log_policy.gather(-1, taken) * advantage).sum()

        return training_step(network, loss)

    hypernet, film = output_layer("hypernet", scale="elements", hidden=64), output_layer("film", hidden=64)
    return {"mlp": step(nn.Linear), "neurocoder": step(ATARI), "hypernet": step(hypernet), "film": step(film)}


def polynomials(device: str) -> dict[str, Step]:
    """A GRU over 128 sequences of 100 points, hidden widths of the paper's Table 7."""
    x, y = torch.randn(128, 100, 2, device=device), torch.randn(128, 100, device=device)

    def step(hidden: int, layer: OutputLayer) -> Step:
        network = GRURegressor(2, hidden, output_layer=layer).to(device)
        return training_step(network, lambda: F.mse_loss(network(x), y))

    return {
        "mlp": step(32, nn.Linear),
        "neurocoder, single-step": step(16, POLYNOMIALS["single_step"]),
        "neurocoder, multi-step": step(8, POLYNOMIALS["multi_step"]),
        "hypernet": step(28, output_layer("hypernet", scale="rows", hidden=None)),
        "film": step(32, output_layer("film", hidden=None)),
    }


def algorithms(device: str) -> dict[str, Step]:
    """An NTM over 64 sequences of 60 steps, controller widths of the paper's Table 7."""
    x, y = torch.randn(64, 60, 10, device=device), torch.rand(64, 60, 8, device=device)

    def step(hidden: int, layer: OutputLayer) -> Step:
        network = NTM(10, 8, hidden=hidden, output_layer=layer).to(device)
        return training_step(network, lambda: F.binary_cross_entropy_with_logits(network(x), y))

    return {
        "mlp": step(250, nn.Linear),
        "neurocoder": step(200, output_layer("neurocoder", slots=30, key_dim=5, heads=5)),
        "hypernet": step(200, output_layer("hypernet", scale="rows", hidden=64)),
        "film": step(205, output_layer("film", hidden=64)),
    }


def saved_memory(device: str) -> dict[str, float]:
    """MiB that one layer 1024 -> 256 keeps for the gradient of 128 inputs."""
    layer = SPLIT_MNIST(1024, 256).to(device)
    x = torch.randn(128, 1024, device=device, requires_grad=True)

    def saved(apply: Callable[[Tensor], Tensor]) -> float:
        storages: dict[int, int] = {}

        def remember(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            y = apply(x)
        inputs = {tensor.untyped_storage().data_ptr() for tensor in (x, *layer.parameters())}
        del y
        return sum(size for pointer, size in storages.items() if pointer not in inputs) / 2**20

    return {
        "programs built": saved(lambda x: with_programs_built(layer, x)),
        "neurocoder": saved(layer),
        "one program an input (B x d_in x d_out)": 128 * 1024 * 256 * 4 / 2**20,
        "one attention over the slots (B x 3 x H x P)": 128 * 3 * 10 * 50 * 4 / 2**20,
    }


CASES = dict(
    split_mnist=split_mnist,
    single_layer=single_layer,
    a3c_update=a3c_update,
    polynomials=polynomials,
    algorithms=algorithms,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--seconds", type=float, default=0.2, help="seconds of each alternative in each round"
    )
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {"machine": machine(), "cases": {}, "saved_mib": {}}
    show(results["machine"])
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for name in arguments.case:
            case = CASES[name]
            print(f"\n{name} on {device}: {case.__doc__}")
            timings = compare(case(device), rounds=arguments.rounds, seconds=arguments.seconds)
            figures = {alternative: timing.figures() for alternative, timing in timings.items()}
            results["cases"][f"{name}/{device}"] = figures
            for alternative, f in figures.items():
                print(
                    f"  {alternative:26} {f['ms']:9.3f} ms [{f['ms_low']:.3f}, {f['ms_high']:.3f}]"
                    f"   {f['ratio']:8.4f} x [{f['ratio_low']:.4f}, {f['ratio_high']:.4f}]"
                )
    print(f"\nsaved_memory: {saved_memory.__doc__}")
    results["saved_mib"] = saved_memory("cpu")
    for name, size in results["saved_mib"].items():
        print(f"  {name:46} {size:9.2f} MiB")
    write_figures(arguments.json, results)


if __name__ == "__main__":
    main()
