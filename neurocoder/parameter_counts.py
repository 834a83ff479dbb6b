"""Counts the parameters of the paper's Table 7 with the networks of this package: `python -m
neurocoder.parameter_counts`.

The paper and its released code state few of the widths behind that table. A verdict says how well the architecture of a
row is established. A figure that several architectures may explain has several rows.

Neurocoder layers are built as released (variant="release"). Parameters that the released code registers and never calls
are not built; a row names their count.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from neurocoder.networks.conv_lstm import ConvLSTM
from neurocoder.networks.densenet import DenseNet
from neurocoder.networks.gru import GRURegressor
from neurocoder.networks.lenet import LeNet
from neurocoder.networks.mlp import MLP
from neurocoder.networks.multi_head_mlp import MultiHeadMLP
from neurocoder.networks.ntm import NTM
from neurocoder.networks.resnet import ResNet18
from neurocoder.output_layers import OutputLayer, output_layer, parameter_count
from neurocoder.random_projection import RandomProjection

Verdict = Literal["exact", "cut", "fit", "near", "off", "open"]

VERDICTS: dict[Verdict, str] = {
    "exact": "rounds to the published figure; little about the architecture was free to choose",
    "cut": "is the published figure if its digits are cut off instead of rounded",
    "fit": "rounds to it, but widths or variants that no source states were chosen so that it does",
    "near": "the likely architecture, a few percent away",
    "off": "a reading of the sources that does not give the published figure",
    "open": "no architecture is known that explains it; built as the rows beside it suggest",
}


@dataclass(frozen=True)
class Row:
    """A figure of Table 7 and a network that may be behind it."""

    name: str
    published: str
    """The figure as printed."""
    verdict: Verdict
    architecture: str
    """The architecture in words."""
    build: Callable[..., nn.Module]
    classes: tuple[int, ...] = ()
    """Class counts of the data sets that the table averages over; the networks are build(classes). Empty: build()."""
    dead: int = 0
    """The number of further parameters that the released code registers and never calls."""

    def count(self) -> int:
        """Counts the parameters of the network, or the mean of several networks."""
        # The meta device has shapes without numbers.
        with torch.device("meta"):
            networks = [self.build(n) for n in self.classes] if self.classes else [self.build()]
        return sum(map(parameter_count, networks)) // len(networks)


def neurocoder(**settings: Any) -> OutputLayer:
    return output_layer("neurocoder", variant="release", beta=None, **settings)


# Settings of Table 6. Its "J = 1" is the linear controller, which has no gates and so no use for least_used.
plain = partial(nn.Linear, bias=False)
mnist = partial(neurocoder, key_dim=2, heads=1, steps=5, residual=False)
cifar = partial(neurocoder, slots=30, key_dim=5, heads=3, steps=5, least_used=5)
cifar_moe = output_layer("moe", experts=50, active=5, hidden=64)
cifar_nsm = output_layer("nsm", slots=10, key_dim=10, bias=False)
polynomial_single = neurocoder(slots=10, key_dim=3, heads=15, residual=False)
polynomial_multi = neurocoder(slots=20, key_dim=3, heads=1, steps=5, least_used=2, residual=False)
atari = neurocoder(slots=80, key_dim=3, heads=15)
element_scales = output_layer("hypernet", scale="elements", hidden=64)
algorithms = neurocoder(slots=30, key_dim=5, heads=5)
split_mnist = neurocoder(slots=50, key_dim=5, heads=10, residual=False)
split_cifar = partial(neurocoder, slots=100, heads=10, residual=False)


def mnist_network(layer: OutputLayer) -> nn.Module:
    return nn.Sequential(RandomProjection(784, 200), layer(200, 10))


def cifar_mlp(classes: int, *, output_layer: OutputLayer = nn.Linear, adapted: int = 0) -> nn.Module:
    return MLP((3072, 512, 256, classes), output_layer=output_layer, adapted=adapted)


def six_layer_lenet(classes: int) -> nn.Module:
    """LeNet with the affine layers of the released code's lenet.py."""
    pool = (nn.MaxPool2d(2), nn.ReLU())
    convolutions = (nn.Conv2d(3, 20, 5, padding=2), *pool, nn.Conv2d(20, 50, 5, padding=2), *pool)
    return nn.Sequential(*convolutions, MLP((50 * 8 * 8, 500, 500, 500, classes)))


def split_mnist_network(hidden: int, *, body: OutputLayer, head: OutputLayer, tasks: int = 1) -> nn.Module:
    return MultiHeadMLP((1024, hidden, hidden), 2, tasks, hidden_layer=body, head=head)


def split_cifar_network(classes: int, *, body: OutputLayer, head: OutputLayer) -> nn.Module:
    after_resnet = MultiHeadMLP((1000, 500, 500, 500), classes, 1, hidden_layer=body, head=head)
    return nn.ModuleList([ResNet18(), after_resnet])


CIFAR_CLASSES = (10, 100)
# fmt: off
ROWS = (
    Row("MNIST linear", "7.8K", "exact", "784-10 without bias", partial(MLP, (784, 10), output_layer=plain)),
    Row("MNIST Neurocoder", "7.3K", "fit",
        "784 projected to 200; P=6, learned keys, gates from the signal; LSTM of 3HK+1 = 7 (the text's 8: over 7.7K)",
        lambda: mnist_network(mnist(slots=6, least_used=2, keys="learned", gate_from="signal"))),
    Row("MNIST Neurocoder", "7.3K", "cut", "784 projected to 200; P=5, generated keys, no gates",
        lambda: mnist_network(mnist(slots=5))),
    Row("MNIST Neurocoder", "7.3K", "off", "784 projected to 200; P=5, the released class",
        lambda: mnist_network(mnist(slots=5, least_used=2)), dead=1_600),

    Row("CIFAR MLP", "1.7M", "fit", "3072-512-256-classes", cifar_mlp, CIFAR_CLASSES),
    Row("CIFAR MLP, MOE", "15.4M", "fit", "all layers: 50 experts, hidden 64",
        partial(cifar_mlp, output_layer=cifar_moe, adapted=3), CIFAR_CLASSES),
    Row("CIFAR MLP, NSM", "21.2M", "near", "all layers: P=10 K=10, the released class with F=20",
        partial(cifar_mlp, output_layer=cifar_nsm, adapted=3), CIFAR_CLASSES, dead=3_634_779),
    Row("CIFAR MLP, Neurocoder", "1.9M", "fit", "last two layers, gates from the signal",
        partial(cifar_mlp, output_layer=cifar(gate_from="signal"), adapted=2), CIFAR_CLASSES),
    Row("CIFAR MLP, Neurocoder", "1.9M", "off", "last layer, the released class",
        partial(cifar_mlp, output_layer=cifar(), adapted=1), CIFAR_CLASSES, dead=12_032),

    Row("CIFAR LeNet", "2.1M", "fit", "conv 32, conv 64, 4096-500-84-classes", LeNet, CIFAR_CLASSES),
    Row("CIFAR LeNet", "2.1M", "cut", "conv 20, conv 50, 3200-500-500-500-classes (six layers, not five)",
        six_layer_lenet, CIFAR_CLASSES),
    Row("CIFAR LeNet, MOE", "12.3M", "open", "all affine layers: 50 experts, hidden 64",
        partial(LeNet, output_layer=cifar_moe, adapted=3), CIFAR_CLASSES),
    Row("CIFAR LeNet, NSM", "27.1M", "open", "all affine layers: P=10 K=10, the released class with F=20",
        partial(LeNet, output_layer=cifar_nsm, adapted=3), CIFAR_CLASSES, dead=4_311_119),
    Row("CIFAR LeNet, Neurocoder", "2.3M", "fit", "last two layers, gates from the signal",
        partial(LeNet, output_layer=cifar(gate_from="signal")), CIFAR_CLASSES),

    Row("CIFAR DenseNet", "7.0M", "exact", "DenseNet-100, growth 12", DenseNet, CIFAR_CLASSES),
    Row("CIFAR DenseNet, MOE", "20.5M", "open", "last layer: 80 experts, hidden 136 (no source has such a width)",
        partial(DenseNet, output_layer=output_layer("moe", experts=80, active=5, hidden=136)), CIFAR_CLASSES),
    Row("CIFAR DenseNet, NSM", "16.7M", "open", "last layer: P=50 (the largest of the search) K=5",
        partial(DenseNet, output_layer=output_layer("nsm", slots=50, key_dim=5)), CIFAR_CLASSES),
    Row("CIFAR DenseNet, Neurocoder", "7.3M", "fit", "last layer, gates from the signal",
        partial(DenseNet, output_layer=cifar(gate_from="signal")), CIFAR_CLASSES),
    Row("CIFAR DenseNet, Neurocoder", "7.3M", "off", "last layer, the released class",
        partial(DenseNet, output_layer=cifar()), CIFAR_CLASSES, dead=54_896),

    Row("Polynomials GRU", "3.4K", "cut", "GRU 32", partial(GRURegressor, 2, 32)),
    Row("Polynomials HyperNet", "3.5K", "fit", "GRU 28, row scales from one layer 28-28",
        partial(GRURegressor, 2, 28, output_layer=output_layer("hypernet", scale="rows", hidden=None))),
    Row("Polynomials FiLM", "3.6K", "fit", "GRU 32, modulation from one layer 32-2",
        partial(GRURegressor, 2, 32, output_layer=output_layer("film", hidden=None))),
    Row("Polynomials Neurocoder, J=1", "3.6K", "exact", "GRU 16, linear controller, no R",
        partial(GRURegressor, 2, 16, output_layer=polynomial_single)),
    Row("Polynomials Neurocoder, J=5", "2.1K", "exact", "GRU 8, the released class, no R",
        partial(GRURegressor, 2, 8, output_layer=polynomial_multi), dead=88),

    Row("Atari LSTM, 6 actions", "3.2M", "exact", "four convolutions, LSTM 512", partial(ConvLSTM, 6)),
    Row("Atari LSTM, 9 actions", "3.2M", "cut", "four convolutions, LSTM 512", partial(ConvLSTM, 9)),
    Row("Atari LSTM, 18 actions", "3.2M", "cut", "four convolutions, LSTM 512", partial(ConvLSTM, 18)),
    Row("Atari HyperNet, 6 actions", "3.6M", "off", "actor: element scales, hidden 64",
        partial(ConvLSTM, 6, actor=element_scales)),
    Row("Atari HyperNet, 9 actions", "3.6M", "fit", "actor: element scales, hidden 64",
        partial(ConvLSTM, 9, actor=element_scales)),
    Row("Atari HyperNet, 18 actions", "3.6M", "off", "actor: element scales, hidden 64",
        partial(ConvLSTM, 18, actor=element_scales)),
    Row("Atari Neurocoder, 6 actions", "3.3M", "cut", "actor, linear controller", partial(ConvLSTM, 6, actor=atari)),
    Row("Atari Neurocoder, 9 actions", "3.3M", "cut", "actor, linear controller", partial(ConvLSTM, 9, actor=atari)),
    Row("Atari Neurocoder, 18 actions", "3.3M", "cut", "actor, linear controller", partial(ConvLSTM, 18, actor=atari)),
    Row("Atari Neurocoder, 9 actions", "3.3M", "off", "actor and critic, linear controllers",
        partial(ConvLSTM, 9, actor=atari, critic=atari)),

    Row("Multi-algorithm NTM", "308K", "fit", "10 in, 8 out, LSTM 250, cell width 20", partial(NTM, 10, 8, hidden=250)),
    Row("Multi-algorithm NTM, NSM", "264K", "fit", "LSTM 200, both heads: P=4 K=4 (the search has no P=4)",
        partial(NTM, 10, 8, hidden=200, output_layer=output_layer("nsm", slots=4, key_dim=4))),
    Row("Multi-algorithm NTM, FiLM", "254K", "fit", "LSTM 205 (an odd width), both heads: two layers, hidden 64",
        partial(NTM, 10, 8, hidden=205, output_layer=output_layer("film", hidden=64))),
    Row("Multi-algorithm NTM, Neurocoder", "255K", "exact", "LSTM 200, both heads, linear controller",
        partial(NTM, 10, 8, hidden=200, output_layer=algorithms)),

    Row("Split MNIST MLP", "328K", "exact", "1024-256-256 without biases, one 2-way head with bias",
        partial(split_mnist_network, 256, body=plain, head=nn.Linear)),
    Row("Split MNIST MLP", "328K", "off", "the same with the heads of all five tasks",
        partial(split_mnist_network, 256, body=plain, head=nn.Linear, tasks=5)),
    Row("Split MNIST NSM", "2.3M", "exact", "all layers: P=5 K=5, the released class with F=15",
        partial(MLP, (1024, 256, 256, 2), output_layer=output_layer("nsm", slots=5, key_dim=5, bias=False), adapted=3),
        dead=645_651),
    Row("Split MNIST Neurocoder", "348K", "exact", "all layers, linear controller, one head",
        partial(split_mnist_network, 256, body=split_mnist, head=split_mnist)),
    Row("Split MNIST Neurocoder", "348K", "off", "the same with the heads of all five tasks",
        partial(split_mnist_network, 256, body=split_mnist, head=split_mnist, tasks=5)),
    Row("Split MNIST MLP, released log", "570,402", "exact", "hidden 400, one head",
        partial(split_mnist_network, 400, body=plain, head=nn.Linear)),
    Row("Split MNIST Neurocoder, released log", "423,539", "exact", "hidden 400, one head",
        partial(split_mnist_network, 400, body=split_mnist, head=split_mnist)),

    Row("Split CIFAR-10 ResNet", "12.6M", "cut", "ResNet-18 to 1000 classes, 500-500-500 without biases, 2-way head",
        partial(split_cifar_network, 2, body=plain, head=nn.Linear)),
    Row("Split CIFAR-100 ResNet", "12.6M", "cut", "the same with a 5-way head",
        partial(split_cifar_network, 5, body=plain, head=nn.Linear)),
    Row("Split CIFAR-10 Neurocoder", "12.6M", "exact", "ResNet-18, all four layers after it, K=10 in the 2-way head",
        partial(split_cifar_network, 2, body=split_cifar(key_dim=5), head=split_cifar(key_dim=10))),
    Row("Split CIFAR-100 Neurocoder", "12.6M", "exact", "the same with a 5-way head",
        partial(split_cifar_network, 5, body=split_cifar(key_dim=5), head=split_cifar(key_dim=10))),
)
# fmt: on


def table() -> str:
    """Formats the rows for a terminal of 120 columns."""
    lines = [_line("network", "published", "ours", "verdict", "architecture")]
    for row in ROWS:
        count, words = row.count(), row.architecture
        if row.dead:
            words += f"; with {row.dead:,} more that are never called: {count + row.dead:,}"
        first, *rest = textwrap.wrap(words, width=50)
        lines.append(_line(row.name, row.published, f"{count:,}", row.verdict, first))
        lines += [_line("", "", "", "", more) for more in rest]
    return "\n".join(lines)


def _line(name: str, published: str, ours: str, verdict: str, architecture: str) -> str:
    return f"{name:36}  {published:>9}  {ours:>10}  {verdict:7}  {architecture}".rstrip()


def main() -> None:
    print(table(), end="\n\n")
    for verdict, meaning in VERDICTS.items():
        print(f"{verdict:5}  {meaning}")


if __name__ == "__main__":
    main()
