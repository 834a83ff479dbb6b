"""Supervised training: its steps against plain torch, continued runs against runs that never stopped."""

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from agents.errors import LOWER_RATE, TrainingError
from agents.records import Record
from agents.runs.checkpoints import load_newest
from agents.runs.snapshots import to_snapshot
from agents.seeding import mixed_seed
from agents.supervised import training as module
from agents.supervised.config import SupervisedConfig
from agents.supervised.presets import preset
from agents.supervised.training import Snapshot, SupervisedTraining, best
from envs import polynomials
from envs.images import data_folder, ensure_files, load
from launch.experiments.run import save
from neurocoder import NeurocoderLinear
from neurocoder.networks.gru import GRURegressor
from neurocoder.settings import MixtureOfExpertsSettings, NeurocoderSettings
from tests.commands import ROOT
from tests.unit.envs.image_files import write_few

CPU = torch.device("cpu")
NOWHERE = Path("no data needed")
OPTIMIZERS = ("adam", "sgd", "rmsprop")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_few(tmp_path_factory.mktemp("data"))


def digits(**changes) -> SupervisedConfig:
    """784-10 on MNIST, five steps an epoch."""
    return replace(preset("mnist", layer="mlp"), batch_size=5, **{"epochs": 2} | changes)


def sequences(**changes) -> SupervisedConfig:
    """A small GRU on short polynomials."""
    defaults = dict(hidden=4, points=10, batch_size=3, steps=20)
    return replace(preset("polynomials", layer="mlp"), **defaults | changes)


def train(training: SupervisedTraining, *, until: int | None = None) -> list[Record]:
    records = []
    while not training.finished and training.step != until:
        records.append(training.advance())
    return records


def test_accuracy_is_that_of_a_loop_over_the_test_images(data):
    training = SupervisedTraining(digits(epochs=1), data, CPU)
    (record,) = train(training)
    _, (images, labels) = load("mnist", data, download=False)
    right = 0
    with torch.no_grad():
        for image, label in zip(images, labels, strict=True):
            right += int(training.network(image[None] / 255).argmax() == label)
    assert 0 < right < 501
    assert record.scalars["charts/test_accuracy"] == 100 * right / 501
    assert training.curve == [(5, 100 * right / 501)]


def by_hand(config: SupervisedConfig, steps: int) -> tuple[GRURegressor | nn.Module, list[float]]:
    """The network after some steps on polynomials, and the losses, by a plain loop."""
    torch.manual_seed(config.seed)
    if config.layer == "mlp":
        gru, output = nn.GRU(2, config.hidden, batch_first=True), nn.Linear(config.hidden, 1)
        network: nn.Module = nn.ModuleDict({"gru": gru, "output": output})
    else:
        settings = dict(slots=5, key_dim=2, heads=2, beta=10.0, orthogonality_weight=0.5)
        network = GRURegressor(2, config.hidden, output_layer=partial(NeurocoderLinear, **settings))
    parameters, rate, decay = network.parameters(), config.learning_rate, config.weight_decay
    optimizer = {
        "adam": lambda: torch.optim.Adam(parameters, rate, weight_decay=decay, foreach=False),
        "sgd": lambda: torch.optim.SGD(
            parameters, rate, config.momentum, weight_decay=decay, nesterov=config.momentum > 0, foreach=False
        ),
        "rmsprop": lambda: torch.optim.RMSprop(
            parameters, rate, 0.95, weight_decay=decay, momentum=config.momentum, foreach=False
        ),
    }[config.optimizer]()
    drops = [steps // 2, 3 * steps // 4] if config.step_decay else []
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, gamma=0.1)
    losses = []
    for step in range(steps):
        x, y = polynomials.sequences(
            config.batch_size,
            points=config.points,
            pieces=config.pieces,
            scale=config.scale,
            generator=torch.Generator().manual_seed(mixed_seed("sequences", config.seed, step)),
        )
        if config.layer == "mlp":
            answers = output(gru(x)[0])[..., 0]
            loss = ((answers - y) ** 2).mean()
        else:
            loss = ((network(x) - y) ** 2).mean() + network.output.auxiliary_loss()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        if config.gradient_value_clip is not None:
            for parameter in network.parameters():
                parameter.grad.clamp_(-config.gradient_value_clip, config.gradient_value_clip)
        optimizer.step()
        schedule.step()
    return network, losses


LOOPS = {
    "Adam": sequences(),
    "Adam with weight decay": sequences(weight_decay=0.1, seed=3),
    "SGD": sequences(optimizer="sgd", learning_rate=0.1),
    "SGD with Nesterov's momentum": sequences(optimizer="sgd", learning_rate=0.1, momentum=0.9),
    "SGD with drops of the rate": sequences(optimizer="sgd", learning_rate=1.0, step_decay=True),
    "RMSProp with clipped gradients": sequences(optimizer="rmsprop", momentum=0.9, gradient_value_clip=0.01),
    "Neurocoder with its extra loss": sequences(
        layer="neurocoder",
        neurocoder=NeurocoderSettings(slots=5, key_dim=2, heads=2, orthogonality_weight=0.5),
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_the_steps_of_training_are_those_of_a_plain_loop(name):
    config = LOOPS[name]
    training = SupervisedTraining(config, NOWHERE, CPU)
    before = {key: value.clone() for key, value in training.network.state_dict().items()}
    (record,) = train(training)
    network, losses = by_hand(config, 20)
    after = training.network.state_dict()
    torch.testing.assert_close(dict(after), dict(network.state_dict()), rtol=1e-4, atol=1e-6)
    assert all(not torch.allclose(after[key], before[key], rtol=1e-4, atol=1e-6) for key in before)
    task, extra = record.scalars["losses/task"], record.scalars["losses/extra"]
    assert record.step == 20 and task + extra == pytest.approx(sum(losses) / 20, rel=1e-5)
    assert (extra > 0) == (config.layer == "neurocoder")
    # The sequences are fresh, so this is a test.
    assert record.scalars["charts/mse"] == record.scalars["losses/task"]


def test_the_learning_rate_is_divided_by_ten_after_half_and_after_three_quarters_of_the_steps(monkeypatch):
    monkeypatch.setattr(module, "RECORD_EVERY", 1)
    for step_decay, rates in ((True, [0.1] * 4 + [0.01] * 2 + [0.001] * 2), (False, [0.1] * 8)):
        training = SupervisedTraining(
            sequences(steps=8, learning_rate=0.1, step_decay=step_decay), NOWHERE, CPU
        )
        for rate in rates:
            record = training.advance()
            assert record.scalars["charts/learning_rate"] == pytest.approx(rate)
            assert training.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        assert training.finished


def test_in_bfloat16_weights_stay_in_single_precision_and_losses_close_to_those_of_single_precision():
    losses = []
    for precision in ("fp32", "bf16"):
        training = SupervisedTraining(sequences(precision=precision), NOWHERE, CPU)
        (record,) = train(training)
        losses.append(record.scalars["losses/task"])
        assert {tensor.dtype for tensor in training.network.state_dict().values()} == {torch.float32}
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("rate", [1e9, 1e17])
def test_a_loss_that_is_not_finite_ends_training_with_its_exact_step(rate, monkeypatch):
    monkeypatch.setattr(module, "RECORD_EVERY", 3)
    config = sequences(scale="raw", optimizer="sgd", learning_rate=rate)
    _, losses = by_hand(config, 20)
    step = next(step for step, loss in enumerate(losses, start=1) if not abs(loss) < float("inf"))
    assert step > 1
    training = SupervisedTraining(config, NOWHERE, CPU)
    with pytest.raises(TrainingError) as failure:
        train(training)
    assert str(failure.value) == f"the loss became {losses[step - 1]} at step {step}; {LOWER_RATE}"


def test_records_end_at_evaluations_and_at_the_end_and_evaluations_are_the_curve(data, monkeypatch):
    monkeypatch.setattr(module, "RECORD_EVERY", 3)
    training = SupervisedTraining(digits(epochs=None, steps=12), data, CPU)
    records = train(training)
    assert [record.step for record in records] == [3, 5, 8, 10, 12]
    assert [record.step for record in records if "charts/test_accuracy" in record.scalars] == [5, 10, 12]
    assert training.curve == [
        (r.step, r.scalars["charts/test_accuracy"]) for r in records if "charts/test_accuracy" in r.scalars
    ]


@pytest.mark.parametrize(("larger", "expected"), [(True, (2, 5.0)), (False, (1, 1.0))])
def test_the_best_evaluation_is_the_first_of_equals_and_a_number(larger, expected):
    curve = [(0, float("nan")), (1, 1.0), (2, 5.0), (3, 5.0), (4, 1.0)]
    assert best(curve, larger_is_better=larger) == expected
    assert best(curve[:1], larger_is_better=larger) is None


# one run and the same run again


def noisy(optimizer: str, **changes) -> SupervisedConfig:
    """A run that needs its random numbers: experts with noise and augmented images. Its channels come last."""
    experts = MixtureOfExpertsSettings(experts=4, active=2, hidden=3)
    rates = {"adam": 1e-3, "sgd": 0.05, "rmsprop": 1e-4}
    config = preset("cifar10", network="lenet", layer="moe")
    return replace(
        config, moe=experts, adapted=1, augment=True, batch_size=4, epochs=None, steps=12, optimizer=optimizer,
        learning_rate=rates[optimizer], momentum=0.9, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module", params=OPTIMIZERS)
def uninterrupted(request, data) -> tuple[SupervisedConfig, Snapshot]:
    """A run of twelve steps with records at 3, 5, 8, 10 and 12, evaluated at 5, 10 and 12: its settings and its end."""
    config = noisy(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RECORD_EVERY", 3)
        training = SupervisedTraining(config, data, CPU)
        train(training)
    return config, training.snapshot()


def differences(one: Snapshot, other: Snapshot) -> list[str]:
    """Names of all tensors that are not bit-identical."""
    names = []
    for group in ("parameters", "optimizer"):
        tensors, others = getattr(one, group), getattr(other, group)
        assert tensors.keys() == others.keys() and tensors
        names += [f"{group}.{name}" for name in tensors if not torch.equal(tensors[name], others[name])]
    return names


@pytest.mark.parametrize("stop", [3, 8])
def test_a_run_continued_from_a_checkpoint_is_bit_identical_to_one_that_never_stopped(
    uninterrupted, data, stop, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "RECORD_EVERY", 3)
    config, expected = uninterrupted
    stopped = SupervisedTraining(config, data, CPU)
    train(stopped, until=stop)
    save(stopped, tmp_path, keep=2, about={})
    snapshot = to_snapshot(Snapshot, load_newest(tmp_path, warn=pytest.fail))
    assert snapshot.step == stop
    continued = SupervisedTraining(config, data, CPU, snapshot)
    records = train(continued)
    assert records[0].step > stop
    assert differences(continued.snapshot(), expected) == []
    assert continued.curve == expected.curve and [step for step, _ in expected.curve] == [5, 10, 12]
    assert continued.seconds > snapshot.seconds > 0


def test_two_runs_of_one_seed_are_bit_identical_and_another_seed_gives_another_run(
    uninterrupted, data, monkeypatch
):
    monkeypatch.setattr(module, "RECORD_EVERY", 3)
    config, expected = uninterrupted
    torch.manual_seed(99)  # what came before does not matter
    again, other = (SupervisedTraining(seeded, data, CPU) for seeded in (config, replace(config, seed=2)))
    train(again)
    train(other, until=3)
    assert differences(again.snapshot(), expected) == [] and again.curve == expected.curve
    same = set(expected.parameters) - {name[11:] for name in differences(other.snapshot(), expected)}
    assert same == set()


def test_a_checkpoint_has_the_settings_and_the_latest_metric_as_well_as_its_tensors(data, tmp_path):
    config = digits()
    training = SupervisedTraining(config, data, CPU)
    train(training, until=5)
    save(training, tmp_path, keep=2, about={"config": config.to_dict()})
    state = load_newest(tmp_path, warn=pytest.fail).state
    assert SupervisedConfig.from_dict(state["config"]) == config
    assert state["metric"] == training.curve[0][1]


# real data


def test_three_hundred_steps_are_enough_to_read_most_of_the_real_digits():
    for folder in (data_folder(None), ROOT.parent / "shared/data"):
        with contextlib.suppress(ValueError):
            ensure_files("mnist", folder, download=False)
            break
    else:
        pytest.skip("no files of mnist in the folder of NEUROCODER_DATA or data, nor in ../shared/data")
    config = replace(preset("mnist", layer="mlp"), epochs=None, steps=300)
    records = train(SupervisedTraining(config, folder, CPU))
    assert records[-1].scalars["charts/test_accuracy"] > 80  # guessing reads 10 percent
