"""One model trained on three small tasks by plain loops, to compare runs with."""

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.continual.config import ContinualConfig
from agents.continual.network import build_network
from agents.continual.presets import preset
from agents.continual.tasks import Split, TaskStream, shuffled, split_tasks
from neurocoder.settings import NeurocoderSettings, StoredProgramSettings

FEATURES, CLASSES = 6, 6


def some_images(count: int, seed: int) -> Split:
    """Draws `count` images of every class: noise around a point."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(count)
    points = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    return Split(points[labels] + torch.randn(len(labels), FEATURES, generator=draw), labels)


def stream(scenario: str = "task") -> TaskStream:
    """Three tasks of two classes, 14 images each: with batches of 4, four steps an epoch, the last on two images."""
    return split_tasks(
        some_images(count=7, seed=1), some_images(count=10, seed=2), per_task=2, scenario=scenario
    )


def small(layer: str = "mlp", method: str = "adam", scenario: str = "task", **changes) -> ContinualConfig:
    defaults = dict(
        hidden=5,
        epochs=2,
        batch_size=4,
        learning_rate=0.1 if method in ("sgd", "adagrad") else 0.01,
        neurocoder=NeurocoderSettings(slots=4, key_dim=2, heads=2, residual=False, orthogonality_weight=0.5),
        nsm=StoredProgramSettings(slots=3, key_dim=2, key_loss_weight=0.5),
    )
    config = preset("split-mnist", scenario=scenario, method=method, layer=layer)
    return replace(config, **defaults | changes)


class ByHand(nn.Module):
    """Two plain layers and plain heads, or the layers that a run would have; trained as anybody would."""

    def __init__(self, config: ContinualConfig):
        super().__init__()
        self.config, self.stream = config, stream(config.scenario)
        (seed,) = config.seeds
        torch.manual_seed(seed)
        heads, classes = self.stream.heads, self.stream.classes
        if config.layer == "mlp":
            self.hidden = nn.ModuleList(
                nn.Linear(n, config.hidden, bias=False) for n in (FEATURES, config.hidden)
            )
            self.heads = nn.ModuleList(nn.Linear(config.hidden, classes) for _ in range(heads))
        else:
            built = build_network(config, FEATURES, classes, heads)
            self.hidden, self.heads = built.hidden, built.heads
        self.losses: list[list[float]] = []
        """The loss of every step, by task."""

    def forward(self, x: Tensor, head: int) -> Tensor:
        return self.heads[head](F.relu(self.hidden[1](F.relu(self.hidden[0](x)))))

    def optimizer(self) -> torch.optim.Optimizer:
        kind = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}.get(
            self.config.method, torch.optim.Adam
        )
        return kind(self.parameters(), self.config.learning_rate, foreach=False)

    def extra(self) -> Tensor:
        layers = [*self.hidden, *self.heads]
        return sum(
            layer.auxiliary_loss() for layer in layers if hasattr(layer, "auxiliary_loss")
        ) + torch.zeros(())

    def accuracy(self, trained_tasks: int) -> list[float]:
        """Returns the accuracies on all tests, in percent, after this many tasks."""
        now = max(trained_tasks - 1, 0)
        row = []
        for number, task in enumerate(self.stream.tasks):
            right = 0
            for x, label in zip(task.test.x, task.test.labels.tolist(), strict=True):
                scores = self(x[None], task.head)[0].tolist()
                # Classes that are not seen yet are no answer; that of the task itself always is.
                seen = 2 * max(now, number) + 2 if self.config.scenario == "class" else 2
                right += scores[:seen].index(max(scores[:seen])) == label
            row.append(100 * right / len(task.test.x))
        return row

    def batches(self, number: int) -> list[Split]:
        config, train = self.config, self.stream.tasks[number].train
        batches = []
        for epoch in range(config.epochs):
            order = shuffled(len(train.x), seed=config.seeds[0], task=number, epoch=epoch).tolist()
            for first in range(0, len(order), config.batch_size):
                chosen = order[first : first + config.batch_size]
                batches.append(Split(train.x[chosen], train.labels[chosen]))
        return batches

    def task_loss(self, number: int, batch: Split) -> Tensor:
        y = self(batch.x, self.stream.tasks[number].head)
        if self.config.scenario == "class":
            y = y[:, : 2 * number + 2]
        return F.cross_entropy(y, batch.labels)

    def train_all(self) -> list[list[float]]:
        """The accuracies after each task."""
        rows, anchor, optimizer = [], None, self.optimizer()
        # A head that a loss does not reach has a gradient of 0, not none. So Adam counts its steps and keeps its momentum.
        for parameter in self.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for number in range(3):
            if self.config.reset_optimizer:
                optimizer = self.optimizer()
            self.losses.append([])
            for batch in self.batches(number):
                loss = self.task_loss(number, batch)
                self.losses[-1].append(loss.item())
                loss = loss + self.extra()
                if anchor is not None and self.config.method == "l2":
                    for parameter, before in zip(self.parameters(), anchor, strict=True):
                        loss = loss + self.config.strength * ((parameter - before) ** 2).sum()
                    if self.config.neurocoder.variant == "release":
                        loss = loss + self.extra()
                optimizer.zero_grad(set_to_none=False)
                loss.backward()
                optimizer.step()
            anchor = copy.deepcopy([parameter.detach() for parameter in self.parameters()])
            rows.append(self.accuracy(number + 1))
        return rows


def slow_si(config: ContinualConfig, *, loss: str) -> tuple[list[Tensor], ByHand]:
    """Importances after each task, of gradients of the task's loss alone or of the whole loss, and the network."""
    network = ByHand(config)
    optimizer, ps = network.optimizer(), list(network.parameters())
    importance, anchor, importances = [torch.zeros_like(p) for p in ps], None, []
    for number in range(3):
        omega, start = [torch.zeros_like(p) for p in ps], [p.detach().clone() for p in ps]
        for batch in network.batches(number):
            task, rest = network.task_loss(number, batch), network.extra()
            if anchor is not None:
                for p, weight, before in zip(ps, importance, anchor, strict=True):
                    rest = rest + config.strength * (weight * (p - before) ** 2).sum()
            alone = torch.autograd.grad(task, ps, retain_graph=True, materialize_grads=True)
            whole = torch.autograd.grad(task + rest, ps, materialize_grads=True)
            before_step = [p.detach().clone() for p in ps]
            for p, gradient in zip(ps, whole, strict=True):
                p.grad = gradient
            optimizer.step()
            for i, p in enumerate(ps):
                omega[i] -= (alone if loss == "task" else whole)[i] * (p.detach() - before_step[i])
        for i, p in enumerate(ps):
            path = omega[i] / ((p.detach() - start[i]) ** 2 + 0.1)
            importance[i] = (importance[i] + path).clamp(min=0)
        anchor = [p.detach().clone() for p in ps]
        importances.append(torch.cat([weight.flatten() for weight in importance]))
    return importances, network
