"""Settings of supervised runs: the paper's presets by their published sizes, every combination built, refusals."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from agents.supervised.config import IMAGES, NETWORKS, SupervisedConfig
from agents.supervised.network import build_network
from agents.supervised.presets import PRESETS, preset
from envs import algorithms, polynomials
from neurocoder.parameter_counts import parameter_count
from neurocoder.settings import (
    LAYERS,
    FiLMSettings,
    HyperNetSettings,
    MixtureOfExpertsSettings,
    NeurocoderSettings,
    StoredProgramSettings,
)
from tests.commands import ROOT

COMBINATIONS = [
    (task, network, layer) for task, networks in NETWORKS.items() for network in networks for layer in LAYERS
]

# Published, and what fits it: see neurocoder.parameter_counts. Those of CIFAR are means over 10 and 100 classes. A Neurocoder is counted
# as released, with keys that are never used, NSM without biases.
MNIST, CIFAR = ("mnist",), ("cifar10", "cifar100")
COUNTS = [
    (MNIST, "linear", "mlp", None, "7.8K", 7_840),
    (CIFAR, "mlp", "mlp", None, "1.7M", 1_718_839),
    (CIFAR, "mlp", "moe", None, "15.4M", 15_356_350),
    (CIFAR, "mlp", "nsm", None, "21.2M, with what is never called", 17_222_733),
    (CIFAR, "mlp", "neurocoder", None, "1.9M", 1_925_204),
    (CIFAR, "lenet", "mlp", None, "2.1M", 2_148_955),
    (CIFAR, "lenet", "moe", None, "12.3M, unexplained", 17_584_046),
    (CIFAR, "lenet", "nsm", None, "27.1M, unexplained", 21_051_709),
    (CIFAR, "lenet", "neurocoder", None, "2.3M", 2_309_004),
    (CIFAR, "densenet", "mlp", None, "7.0M", 7_032_247),
    (CIFAR, "densenet", "moe", None, "20.5M", 20_476_352),
    (CIFAR, "densenet", "neurocoder", None, "7.3M", 7_303_608),
    (("polynomials",), "gru", "mlp", None, "3.4K", 3_489),
    (("polynomials",), "gru", "hypernet", None, "3.5K", 3_529),
    (("polynomials",), "gru", "film", None, "3.6K", 3_555),
    (("polynomials",), "gru", "neurocoder", "single-step", "3.6K", 3_600),
    (("polynomials",), "gru", "neurocoder", "multi-step", "2.1K", 2_150 - 88),  # 88 are never called
    (("algorithms",), "ntm", "mlp", None, "308K", 307_760),
    (("algorithms",), "ntm", "nsm", None, "264K", 263_778),
    (("algorithms",), "ntm", "film", None, "254K", 253_838),
    (("algorithms",), "ntm", "neurocoder", None, "255K", 255_012),
]


@pytest.mark.parametrize(
    ("tasks", "network", "layer", "name", "published", "count"),
    COUNTS,
    ids=[" ".join(filter(None, (tasks[0], *words, f"({published})"))) for tasks, *words, published, _ in COUNTS],
)  # fmt: skip
def test_a_preset_gives_the_network_of_the_published_size(tasks, network, layer, name, published, count):
    counts = []
    for task in tasks:
        config = preset(task, network=network, layer=layer, name=name)
        config = replace(config, neurocoder=replace(config.neurocoder, variant="release"))
        if layer == "nsm" and task in CIFAR:
            config = replace(config, bias=False)
        with torch.device("meta"):  # shapes without numbers
            counts.append(parameter_count(build_network(config)))
    assert sum(counts) // len(counts) == count


def test_the_neurocoder_for_mnist_is_within_three_percent_of_the_published_7_3_thousand():
    count = parameter_count(build_network(preset("mnist", layer="neurocoder")))
    assert count == pytest.approx(7_300, rel=0.03)


def inputs_and_output_shape(config: SupervisedConfig) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Two inputs of the task, and the shape of what a network has to answer with."""
    generator = torch.Generator().manual_seed(0)
    if config.task == "polynomials":
        x, y = polynomials.sequences(2, points=10, pieces=5, generator=generator)
        return x, tuple(y.shape)
    if config.task == "algorithms":
        x, bits, *_ = algorithms.episode(2, tasks_per_sequence=1, generator=generator)
        return x, (2, x.shape[1], bits.shape[2])
    shape, classes = {
        "mnist": ((1, 28, 28), 10),
        "cifar10": ((3, 32, 32), 10),
        "cifar100": ((3, 32, 32), 100),
    }[config.task]
    return torch.rand(2, *shape, generator=generator), (2, classes)


@pytest.mark.parametrize(("task", "network", "layer"), COMBINATIONS, ids=map(" ".join, COMBINATIONS))
def test_every_combination_maps_inputs_of_its_task_to_answers_of_its_task(task, network, layer):
    config = preset(task, network=network, layer=layer)
    x, shape = inputs_and_output_shape(config)
    only_output = network == "densenet" and layer != "mlp"  # its hundred layers are the same, and slow
    # What chooses by its inputs, or is measured when it is made, needs numbers; for the others shapes are enough.
    device = "cpu" if layer in ("moe", "lowrank") else "meta"
    with torch.device(device), torch.no_grad():
        built = build_network(config)
        answers = built.output(torch.rand(2, 1168)) if only_output else built(x.to(device))
        assert answers.shape == shape


def test_the_first_network_and_the_first_preset_of_a_task_are_its_defaults():
    for task, networks in NETWORKS.items():
        assert preset(task, layer="mlp").network == networks[0]
    for task, names in PRESETS.items():
        assert preset(task, layer="neurocoder") == preset(task, layer="neurocoder", name=names[0])
        assert preset(task, layer="neurocoder") != preset(task, layer="neurocoder", name=names[1])


ALL_CHANGED = SupervisedConfig(
    task="cifar100", network="densenet", layer="lowrank", seed=7,
    neurocoder=NeurocoderSettings(slots=7), hypernet=HyperNetSettings(hidden=None), film=FiLMSettings(hidden=5),
    moe=MixtureOfExpertsSettings(active=2), nsm=StoredProgramSettings(slots=3),
    adapted=2, bias=False, projection=9, hidden=8, pieces=2, points=50, noise=True, scale="raw",
    tasks_per_sequence=4, batch_size=16, epochs=3, steps=99, optimizer="sgd", learning_rate=0.1, momentum=0.9,
    weight_decay=1e-4, step_decay=True, gradient_value_clip=10.0, augment=True, precision="bf16",
)  # fmt: skip


def test_the_changed_settings_above_change_every_field():
    defaults = SupervisedConfig(task="mnist", network="linear", layer="mlp").to_dict()
    altered = ALL_CHANGED.to_dict()
    assert [name for name, value in defaults.items() if altered[name] == value] == []


def test_settings_come_back_the_same_through_json():
    for config in (ALL_CHANGED, *(preset(task, network=n, layer=layer) for task, n, layer in COMBINATIONS)):
        assert SupervisedConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_setting_that_this_version_does_not_know_is_refused_by_name():
    with pytest.raises(ValueError, match="invented"):
        SupervisedConfig.from_dict(ALL_CHANGED.to_dict() | {"invented": 1})


@pytest.mark.parametrize(
    ("task", "network", "changes"),
    [
        ("cifar10", "mlp", {"adapted": 3}),
        ("cifar10", "lenet", {"adapted": 3}),
        ("cifar10", "densenet", {"adapted": 1, "augment": True}),
        ("mnist", "linear", {"projection": 1}),
        ("mnist", "linear", {"epochs": None, "steps": 1}),
        ("mnist", "linear", {"epochs": 1, "seed": 0}),
        ("polynomials", "gru", {"pieces": 100}),
        ("polynomials", "gru", {"points": 5, "momentum": 0.0}),
        ("algorithms", "ntm", {"tasks_per_sequence": 1, "momentum": 0.99, "weight_decay": 0.0}),
    ],
)
def test_a_setting_at_the_edge_of_its_range_is_accepted(task, network, changes):
    replace(preset(task, network=network, layer="mlp"), **changes).check()


NAN, INFINITE = float("nan"), float("inf")
POLYNOMIALS, DENSENET = ("polynomials", "gru"), ("cifar10", "densenet")
REFUSED = [
    (POLYNOMIALS, {"task": "polynomal"}, "task 'polynomal' is not known; .*did you mean polynomials"),
    (POLYNOMIALS, {"network": "grue"}, "--network 'grue' is not known; .*did you mean gru"),
    (POLYNOMIALS, {"layer": "hyprnet"}, "--layer 'hyprnet' is not known; .*did you mean hypernet"),
    (POLYNOMIALS, {"network": "ntm"}, "--network ntm cannot learn polynomials; its networks are gru"),
    (("mnist", "mlp"), {"network": "lenet"}, "--network lenet cannot learn mnist; its networks are linear, mlp"),
    *(
        (POLYNOMIALS, {name: 0}, f"--{name.replace('_', '-')} is 0; it must be at least 1")
        for name in ("adapted", "projection", "hidden", "pieces", "points", "tasks_per_sequence", "batch_size",
                     "epochs", "steps")
    ),
    (POLYNOMIALS, {"seed": -1}, "--seed is -1; it must be 0 or more"),
    (POLYNOMIALS, {"steps": None}, "neither --epochs nor --steps is given"),
    (POLYNOMIALS, {"epochs": 3}, "--epochs: polynomials draws fresh data at every step; give --steps"),
    (("algorithms", "ntm"), {"epochs": 3}, "--epochs: algorithms draws fresh data at every step"),
    (POLYNOMIALS, {"adapted": 2}, r"--adapted is 2; gru has 1 affine layer\(s\) to adapt"),
    (DENSENET, {"adapted": 2}, r"--adapted is 2; densenet has 1 affine layer\(s\) to adapt"),
    (("cifar10", "lenet"), {"adapted": 4}, r"--adapted is 4; lenet has 3 affine layer\(s\) to adapt"),
    (("mnist", "mlp"), {"projection": 5}, "--projection is for the linear network, not for mlp"),
    (("mnist", "mlp"), {"augment": True}, "--augment is for CIFAR's images, not for mnist"),
    (POLYNOMIALS, {"augment": True}, "--augment is for CIFAR's images, not for polynomials"),
    (POLYNOMIALS, {"pieces": 3}, "--points 100 cannot be split into 3 equal --pieces"),
    (POLYNOMIALS, {"scale": "piece"}, "--scale 'piece' is not known; choose one of chunk, sequence, raw"),
    (POLYNOMIALS, {"optimizer": "adamw"}, "--optimizer 'adamw' is not known; choose one of adam, sgd, rmsprop"),
    (POLYNOMIALS, {"precision": "fp16"}, "--precision 'fp16' is not known; choose one of fp32, bf16"),
    *(
        (POLYNOMIALS, {name: value}, f"--{name.replace('_', '-')} is {value}; it must be a finite number above 0")
        for name in ("learning_rate", "gradient_value_clip")
        for value in (0.0, -1.0, NAN, INFINITE)
    ),
    *((POLYNOMIALS, {"weight_decay": value}, f"--weight-decay is {value}") for value in (-0.1, NAN, INFINITE)),
    *((POLYNOMIALS, {"momentum": value}, f"--momentum is {value}") for value in (-0.1, 1.0, NAN)),
    (POLYNOMIALS, {"neurocoder": NeurocoderSettings(heads=0)}, "--neurocoder.heads is 0"),
    (POLYNOMIALS, {"nsm": StoredProgramSettings(slots=0)}, "--nsm.slots is 0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("valid", "changes", "message"), REFUSED, ids=[f"{valid[0]} {changes}" for valid, changes, _ in REFUSED]
)
def test_settings_out_of_range_and_impossible_combinations_are_refused_in_one_line(valid, changes, message):
    task, network = valid
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        replace(preset(task, network=network, layer="mlp"), **changes).check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(task="cifar", layer="mlp"), "task 'cifar' is not known; .*did you mean cifar10"),
        (
            dict(task="mnist", layer="neurocodr"),
            "--layer 'neurocodr' is not known; .*did you mean neurocoder",
        ),
        (dict(task="mnist", network="gru", layer="mlp"), "--network gru cannot learn mnist"),
        (
            dict(task="polynomials", layer="neurocoder", name="multistep"),
            "--preset 'multistep' is not known; choose one of single-step, multi-step .did you mean multi-step",
        ),
        (
            dict(task="mnist", layer="neurocoder", name="multi-step"),
            "--preset multi-step: mnist has only one",
        ),
    ],
)
def test_an_unknown_preset_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        preset(**arguments)


def test_the_tasks_with_epochs_are_those_with_images():
    for task in NETWORKS:
        config = preset(task, layer="mlp")
        assert (config.epochs is None, config.steps is None) == (
            (False, True) if task in IMAGES else (True, False)
        )


def test_the_presets_can_be_imported_and_checked_without_torch_or_ray():
    program = (
        "import sys; from agents.supervised.presets import preset; preset('mnist', layer='neurocoder'); "
        "print(sorted({'agents', 'torch', 'ray', 'numpy'} & set(sys.modules)))"
    )
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("['agents']\n", "")
