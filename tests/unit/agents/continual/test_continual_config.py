"""Settings of continual learning: the benchmark's and the paper's, networks by their published sizes, refusals."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from agents.continual.config import BENCHMARKS, LAYER_CHOICES, METHODS, SCENARIOS, ContinualConfig
from agents.continual.network import build_network, flatten, unflatten
from agents.continual.presets import PRESETS, preset
from neurocoder.networks.multi_head_mlp import MultiHeadMLP
from neurocoder.parameter_counts import ROWS, parameter_count, split_cifar
from neurocoder.settings import LAYERS, LayerSettings, NeurocoderSettings, StoredProgramSettings
from tests.commands import ROOT

# GT-RIPL/Continual-Learning-Benchmark, Split MNIST: learning rate; strength for tasks, domains and classes.
BENCHMARK = {
    "adam": (1e-3, 0, 0, 0),
    "sgd": (1e-2, 0, 0, 0),
    "adagrad": (1e-2, 0, 0, 0),
    "l2": (1e-3, 0.01, 0.5, 100),
    "ewc": (1e-3, 100, 100, 600),
    "online-ewc": (1e-3, 400, 700, 100),
    "si": (1e-3, 300, 3000, 600),
}


@pytest.mark.parametrize("method", METHODS)
def test_the_preset_of_a_method_has_the_benchmarks_learning_rate_and_its_strength_in_every_scenario(method):
    rate, *strengths = BENCHMARK[method]
    for scenario, strength in zip(("task", "domain", "class"), strengths, strict=True):
        for layer in LAYER_CHOICES:
            config = preset("split-mnist", scenario=scenario, method=method, layer=layer)
            assert (config.learning_rate, config.strength) == (rate, strength)
            assert (config.epochs, config.batch_size, config.reset_optimizer) == (4, 128, False)
            assert (config.benchmark, config.scenario, config.method, config.layer) == (
                "split-mnist", scenario, method, layer,
            )  # fmt: skip


@pytest.mark.parametrize(
    ("benchmark", "slots", "hidden"), [("split-mnist", 50, 256), ("split-cifar100", 100, 500)]
)
def test_the_preset_table_6_has_the_papers_neurocoder_and_the_widths_of_table_7(benchmark, slots, hidden):
    config = preset(benchmark, scenario="task", method="adam", layer="neurocoder", name="table-6")
    layer = config.neurocoder
    assert (layer.slots, layer.key_dim, layer.heads, layer.residual) == (slots, 5, 10, False)
    assert config.adapt == "all"
    assert layer.orthogonality_weight == 10 and layer.steps == 0  # the paper's "J = 1", the linear controller
    assert config.hidden == hidden and not config.bias
    assert (config.nsm.slots, config.nsm.key_dim) == (5, 5)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_preset_best_is_table_6_with_plain_hidden_layers_and_a_residual_program(benchmark):
    for layer in LAYER_CHOICES:
        best, paper = (
            preset(benchmark, scenario="task", method="adam", layer=layer, name=name) for name in PRESETS
        )
        if layer in ("neurocoder", "lowrank"):
            paper = replace(paper, adapt="heads", neurocoder=replace(paper.neurocoder, residual=True))
        assert best == paper
        assert best == preset(benchmark, scenario="task", method="adam", layer=layer)


def network(layer: str, *, benchmark: str = "split-mnist", classes: int = 2, heads: int = 1, **changes):
    """Makes the network of a run, its parameters without numbers."""
    config = preset(benchmark, scenario="task", method="adam", layer=layer, name="table-6")
    release = replace(config.neurocoder, variant="release")
    config = replace(config, **{"neurocoder": release} | changes)
    # What is measured when it is made needs numbers.
    with torch.device("cpu" if layer == "lowrank" else "meta"):
        return build_network(config, 1024 if benchmark == "split-mnist" else 1000, classes, heads)


BIASES = 256 + 256 + 2  # which the released Neurocoder registers and never adds
HEADS = 4 * 2 * 257  # of four more tasks


@pytest.mark.parametrize(
    ("layer", "changes", "count"),
    [
        ("mlp", {}, 328_194),
        ("mlp", {"hidden": 400}, 570_402),
        ("mlp", {"hidden": 400, "bias": True}, 570_402 + 2 * 400),
        ("mlp", {"heads": 5}, 328_194 + HEADS),
        ("neurocoder", {"bias": True}, 348_083),
        ("neurocoder", {}, 348_083 - BIASES),
        ("neurocoder", {"bias": True, "hidden": 400}, 423_539),
        ("neurocoder", {"bias": True, "heads": 5}, 563_319),
        ("nsm", {}, 1_650_269),  # published as 2.3M, with 645,651 that are never called
        ("lowrank", {}, 10 * (1024 + 256) + 10 * (256 + 256) + 10 * (256 + 2)),
    ],
)
def test_a_network_for_split_mnist_has_the_published_number_of_parameters(layer, changes, count):
    assert parameter_count(network(layer, **changes)) == count


def test_a_network_for_split_cifar_has_the_published_number_of_parameters_without_the_resnet():
    (published,) = (row.count() for row in ROWS if row.name == "Split CIFAR-10 ResNet")
    resnet = 11_689_512
    assert parameter_count(network("mlp", benchmark="split-cifar10")) == published - resnet
    kind = split_cifar(key_dim=5)
    expected = parameter_count(MultiHeadMLP((1000, 500, 500, 500), 5, 1, hidden_layer=kind, head=kind))
    assert (
        parameter_count(network("neurocoder", benchmark="split-cifar100", classes=5, bias=True)) == expected
    )


@pytest.mark.parametrize("layer", ["neurocoder", "nsm", "lowrank"])
@pytest.mark.parametrize(
    ("adapt", "hidden", "heads"), [("all", True, True), ("hidden", True, False), ("heads", False, True)]
)
def test_the_layers_that_are_not_adapted_are_plain_and_only_plain_heads_have_a_bias(
    layer, adapt, hidden, heads
):
    built = network(layer, heads=2, adapt=adapt)
    for layers, adapted, bias in ((built.hidden, hidden, False), (built.heads, heads, True)):
        assert len(layers) == 2
        for part in layers:
            assert (type(part) is not torch.nn.Linear) == adapted
            assert adapted or (part.bias is not None) == bias
            assert not adapted or getattr(part, "bias", None) is None


def test_a_network_and_the_vector_of_its_parameters_are_made_from_each_other():
    built = build_network(small(layer="nsm"), features=6, classes=2, heads=2)
    theta = flatten(built)
    named = unflatten(built, theta)
    assert list(named) == [name for name, _ in built.named_parameters()]
    for name, parameter in built.named_parameters():
        assert torch.equal(named[name], parameter) and named[name].data_ptr() != parameter.data_ptr()
    assert theta.shape == (parameter_count(built),) and not theta.requires_grad


def small(**changes) -> ContinualConfig:
    defaults = dict(benchmark="split-mnist", scenario="task", method="adam", layer="mlp", hidden=4)
    return ContinualConfig(**defaults | changes)


ALL_CHANGED = ContinualConfig(
    benchmark="split-cifar10", scenario="class", method="si", layer="lowrank", seeds=(3, 5),
    neurocoder=NeurocoderSettings(slots=7), nsm=StoredProgramSettings(slots=3),
    hidden=8, bias=True, adapt="heads", epochs=3, batch_size=16, learning_rate=0.1, strength=2.0, reset_optimizer=True,
)  # fmt: skip


def test_the_changed_settings_above_change_every_field():
    defaults = ContinualConfig(benchmark="split-mnist", scenario="task", method="adam", layer="mlp").to_dict()
    altered = ALL_CHANGED.to_dict()
    assert [name for name, value in defaults.items() if altered[name] == value] == []


def test_settings_come_back_the_same_through_json():
    presets = [
        preset(benchmark, scenario=scenario, method=method, layer=layer)
        for benchmark in BENCHMARKS
        for scenario in SCENARIOS
        for method in METHODS
        for layer in LAYER_CHOICES
    ]
    assert len(set(map(repr, presets))) == 3 * 3 * 7 * 4
    for config in (ALL_CHANGED, *presets):
        again = ContinualConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config and isinstance(again.seeds, tuple)


def test_a_setting_that_this_version_does_not_know_is_refused_by_name():
    with pytest.raises(ValueError, match="invented"):
        ContinualConfig.from_dict(ALL_CHANGED.to_dict() | {"invented": 1})


def test_the_settings_of_other_layers_that_earlier_versions_stored_are_dropped():
    earlier = asdict(LayerSettings()) | ALL_CHANGED.to_dict()
    assert {"hypernet", "film", "moe"} <= earlier.keys()
    assert ContinualConfig.from_dict(earlier) == ALL_CHANGED


def test_the_layers_that_can_be_trained_are_known_layers():
    assert set(LAYER_CHOICES) < set(LAYERS)


@pytest.mark.parametrize(
    "changes",
    [
        dict(hidden=1, epochs=1, batch_size=1, seeds=(0,)),
        dict(strength=0.0),
        *(dict(method=method, strength=0.0) for method in METHODS),
        *(dict(method=method, strength=1e9) for method in ("l2", "si", "ewc", "online-ewc")),
    ],
)
def test_a_setting_at_the_edge_of_its_range_is_accepted(changes):
    small(**changes).check()


NAN, INFINITE = float("nan"), float("inf")
REFUSED = [
    ({"benchmark": "split-mnits"}, "benchmark 'split-mnits' is not known; .*did you mean split-mnist"),
    ({"scenario": "tasks"}, "--scenario 'tasks' is not known; choose one of task, domain, class"),
    ({"method": "onlineewc"}, "--method 'onlineewc' is not known; .*did you mean online-ewc"),
    ({"layer": "neurocodr"}, "--layer 'neurocodr' is not known; .*did you mean neurocoder"),
    ({"layer": "film"}, "--layer 'film' is not known; choose one of mlp, nsm, neurocoder, lowrank"),
    ({"adapt": "some"}, "--adapt 'some' is not known; choose one of all, hidden, heads"),
    *(
        ({name: 0}, f"--{name.replace('_', '-')} is 0; it must be at least 1")
        for name in ("hidden", "epochs", "batch_size")
    ),
    *(
        ({"learning_rate": value}, f"--learning-rate is {value}; it must be a finite number above 0")
        for value in (0.0, -1.0, NAN, INFINITE)
    ),
    *(
        ({"method": "l2", "strength": value}, f"--strength is {value}; it must be a finite number, 0 or more")
        for value in (-1.0, NAN, INFINITE)
    ),
    *(
        ({"method": method, "strength": 1.0}, f"--strength 1.0: {method} has no penalty; it is for l2, si, ewc, online-ewc")
        for method in ("adam", "adagrad", "sgd")
    ),
    ({"seeds": (1, -1)}, "--seed is -1; it must be 0 or more"),
    ({"neurocoder": NeurocoderSettings(heads=0)}, "--neurocoder.heads is 0"),
    ({"nsm": StoredProgramSettings(slots=0)}, "--nsm.slots is 0"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[str(changes) for changes, _ in REFUSED])
def test_settings_out_of_range_and_impossible_combinations_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        small(**changes).check()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("benchmark", "split-cifar"),
        ("scenario", "classes"),
        ("method", "ewcc"),
        ("layer", "low-rank"),
        ("preset", "table-7"),
    ],
)
def test_an_unknown_name_has_no_preset_and_is_refused_in_one_line(name, near):
    names = dict(benchmark="split-mnist", scenario="task", method="adam", layer="mlp")
    typed = name if name == "benchmark" else f"--{name}"
    with pytest.raises(ValueError, match=f"^{typed} '{near}' is not known; choose one of [^\n]*$"):
        preset(**names | {"name" if name == "preset" else name: near})


def test_settings_can_be_imported_and_checked_without_torch_or_ray():
    program = (
        "import sys; from agents.continual.presets import preset; "
        "preset('split-mnist', scenario='task', method='si', layer='neurocoder'); "
        "print(sorted({'agents', 'torch', 'ray', 'numpy'} & set(sys.modules)))"
    )
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("['agents']\n", "")
