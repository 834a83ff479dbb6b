"""Steepness of an actor's output layer: singular values, and the effect of one step of Adam.

    python -m tests.benchmarks.steepness                  fresh layers: the plain head, and Neurocoder's
    python -m tests.benchmarks.steepness CHECKPOINT ...   saved policies of A3C, over one game each

The singular values are those of the layer's derivative. The derivative is that of the logits by the LSTM's
output. The mean of all logits is subtracted first, since the policy does not depend on it. A - 1
directions are left for A actions.
"""

import argparse
import itertools
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from agents.actor_critic.play import play
from agents.actor_critic.policy import Policy
from agents.runs.checkpoints import CheckpointError, load_checkpoint
from agents.runs.policy import to_policy
from launch.command_line.errors import fail
from neurocoder import output_layer
from neurocoder.settings import NeurocoderSettings

FEATURES, ACTIONS, INPUTS = 512, 6, 80
# Layers of each kind, for medians.
LAYERS = 20
LEARNING_RATE = 5e-4


def singular_values(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Returns those of the centred logits' derivative, (A - 1,), as medians over the inputs (B, d)."""
    inputs = inputs.detach().requires_grad_()
    outputs = layer(inputs)
    rows = [torch.autograd.grad(logit.sum(), inputs, retain_graph=True)[0] for logit in outputs.unbind(1)]
    derivative = torch.stack(rows, dim=1)  # (B, A, d)
    return torch.linalg.svdvals(derivative - derivative.mean(dim=1, keepdim=True)).median(dim=0).values[:-1]


def first_step(layer: nn.Module, inputs: Tensor) -> float:
    """Makes a step of Adam on random advantages.

    Returns the KL divergence of the policy before the step from the policy after it, in nats.
    """
    optimizer = torch.optim.Adam(layer.parameters(), lr=LEARNING_RATE)
    before = layer(inputs).log_softmax(dim=-1)
    action = torch.multinomial(before.detach().exp(), 1)
    (-before.gather(1, action) * torch.randn_like(action, dtype=before.dtype)).mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = layer(inputs).log_softmax(dim=-1)
        return (before.exp() * (before - after)).sum(dim=-1).mean().item()


def fresh_layers() -> None:
    kinds = {"mlp": output_layer("mlp")}
    for heads, beta, gain in itertools.product((15, 5), (1.0, 3.0, 10.0), (1.0, 0.3)):
        settings = asdict(NeurocoderSettings(heads=heads, beta=beta, gain=gain))
        name = f"neurocoder, {heads} heads, beta {beta:g}, gain {gain:g}"
        kinds[name] = output_layer("neurocoder", **settings)
    for name, build in kinds.items():
        torch.manual_seed(0)
        values, divergences = [], []
        for _ in range(LAYERS):
            layer = build(FEATURES, ACTIONS)
            inputs = 0.3 * torch.tanh(torch.randn(INPUTS, FEATURES) + torch.randn(FEATURES))
            values.append(singular_values(layer, inputs))
            divergences.append(first_step(layer, inputs))
        show(name, torch.stack(values).median(dim=0).values)
        print(f"    first step of Adam: KL {torch.tensor(divergences).median():.1e}", flush=True)


def saved_policies(checkpoints: Iterable[Path]) -> None:
    torch.set_num_threads(1)
    for checkpoint in checkpoints:
        policy, config = to_policy(load_checkpoint(checkpoint))
        values = singular_values(policy.network.actor, actor_inputs(policy))
        show(f"{checkpoint}, {config.head}", values)


def actor_inputs(policy: Policy) -> Tensor:
    """Returns the LSTM's outputs in one game, (steps, 512)."""
    hidden: list[Tensor] = []
    hook = policy.network.actor.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    play(policy, episodes=1, seed=1)
    hook.remove()
    return torch.cat(hidden)


def show(name: str, values: Tensor) -> None:
    print(f"{name}: singular values {' '.join(f'{value:.2f}' for value in values.tolist())}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="*", type=Path)
    checkpoints = parser.parse_args().checkpoints
    if not checkpoints:
        fresh_layers()
        return
    try:
        saved_policies(checkpoints)
    except CheckpointError as error:
        fail(error)


if __name__ == "__main__":
    main()
