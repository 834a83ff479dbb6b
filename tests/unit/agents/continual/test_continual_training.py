"""Continual training against plain loops, seeds together against seeds one by one, continued runs against whole ones."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.continual import training as module
from agents.continual.config import ContinualConfig
from agents.continual.network import unflatten
from agents.continual.tasks import shuffled
from agents.continual.training import ContinualTraining, Snapshot
from agents.errors import LOWER_RATE, TrainingError
from agents.runs.checkpoints import load_newest
from agents.runs.snapshots import to_snapshot
from launch.experiments.run import save
from neurocoder.settings import NeurocoderSettings
from tests.unit.agents.continual.continual_by_hand import ByHand, slow_si, small, stream

CPU = torch.device("cpu")
CLOSE = dict(rtol=1e-6, atol=1e-8)
LAYERS = ("mlp", "nsm", "neurocoder", "lowrank")


@pytest.fixture(autouse=True)
def double_precision():
    """Lets two ways of computing the same differ by next to nothing. Adam would enlarge the difference."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trained(
    config: ContinualConfig, *, tasks: int | None = None, snapshot: Snapshot | None = None
) -> ContinualTraining:
    training = ContinualTraining(config, stream(config.scenario), CPU, snapshot)
    while not training.finished and training.tasks_done != tasks:
        training.advance()
    return training


def train_task(training: ContinualTraining) -> None:
    """Trains to the end of the next task."""
    training.advance()
    while not training.is_save_point:
        training.advance()


def parameters(training: ContinualTraining, seed: int = 0) -> dict[str, Tensor]:
    """Returns the parameters of the model in that row, by name."""
    return {name: p.clone() for name, p in unflatten(training.network, training.theta.detach()[seed]).items()}


AS_RELEASED = NeurocoderSettings(
    slots=4, key_dim=2, heads=2, residual=False, orthogonality_weight=0.05, variant="release"
)
LOOPS = {
    "Adam": small(),
    "Adam on domains": small(scenario="domain", seeds=(4,)),
    "Adam on classes": small(scenario="class", epochs=4),
    "Adam that forgets its statistics": small(reset_optimizer=True),
    "Adagrad": small(method="adagrad"),
    "SGD on classes": small(method="sgd", scenario="class"),
    "L2": small(method="l2", strength=3.0),
    "L2 on domains, Neurocoder": small("neurocoder", "l2", "domain", strength=3.0),
    "L2 on domains, Neurocoder as released": small(
        "neurocoder", "l2", "domain", strength=3.0, neurocoder=AS_RELEASED
    ),
    "NSM with its extra loss": small("nsm"),
    "Neurocoder with its extra loss": small("neurocoder"),
    "low-rank control on classes": small("lowrank", scenario="class"),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_run_is_the_run_of_a_plain_loop(name):
    config = LOOPS[name]
    by_hand = ByHand(config)
    untrained, before = by_hand.accuracy(0), {k: p.detach().clone() for k, p in by_hand.named_parameters()}
    training = ContinualTraining(config, stream(config.scenario), CPU)
    assert {k: p.tolist() for k, p in parameters(training).items()} == {
        k: p.tolist() for k, p in before.items()
    }
    rows = by_hand.train_all()
    while not training.finished:
        training.advance()
    after = parameters(training)
    torch.testing.assert_close(after, dict(by_hand.named_parameters()), **CLOSE)
    assert all(not torch.allclose(after[name], before[name], rtol=1e-3, atol=1e-5) for name in before)
    for ours, expected in ((training.accuracy[0], rows), (training.untrained[0], untrained)):
        torch.testing.assert_close(ours, torch.tensor(expected), rtol=1e-12, atol=0)
    assert len({accuracy for row in rows for accuracy in row}) > 1


@pytest.mark.parametrize(
    "changes", [dict(reset_optimizer=True), dict(method="l2", strength=3.0), dict(scenario="domain"), dict(seeds=(2,))]
)  # fmt: skip
def test_the_loops_above_differ_where_their_settings_do(changes):
    runs = [ByHand(small(**settings)) for settings in ({}, changes)]
    for run in runs:
        run.train_all()
    first = [dict(run.named_parameters())["hidden.0.weight"] for run in runs]
    assert not torch.allclose(*first, rtol=1e-3, atol=1e-5)


def test_a_record_has_the_step_the_mean_loss_since_and_after_a_task_the_accuracies(monkeypatch):
    monkeypatch.setattr(module, "RECORD_EVERY", 3)
    by_hand, training, records = ByHand(small()), ContinualTraining(small(), stream(), CPU), []
    rows = by_hand.train_all()
    while not training.finished:
        records.append(training.advance())
        assert training.step == records[-1].step
        assert training.is_save_point == ("charts/average_accuracy" in records[-1].scalars)
    assert [record.step for record in records] == [3, 6, 8, 11, 14, 16, 19, 22, 24]
    expected = [
        mean
        for losses in by_hand.losses
        for mean in (sum(losses[:3]) / 3, sum(losses[3:6]) / 3, sum(losses[6:]) / 2)
    ]
    for number, record in enumerate(records):
        task, place = divmod(number, 3)
        scalars = {"losses/task": expected[number]}
        if place == 2:
            seen = rows[task][: task + 1]
            scalars |= {f"accuracy/task_{i}": accuracy for i, accuracy in enumerate(seen, start=1)}
            scalars["charts/average_accuracy"] = sum(seen) / len(seen)
        assert record.scalars == pytest.approx(scalars)
        line = f"task {task + 1} of 3  step {[3, 6, 8][place]} / 8  loss {expected[number]:.4g}"
        assert record.progress == line


def test_a_task_of_a_whole_number_of_records_ends_with_the_last_of_them(monkeypatch):
    monkeypatch.setattr(module, "RECORD_EVERY", 4)
    training = ContinualTraining(small(), stream(), CPU)
    records = [training.advance() for _ in range(6)]
    assert training.finished and [record.step for record in records] == [4, 8, 12, 16, 20, 24]
    assert [len(record.scalars) for record in records] == [1, 3, 1, 4, 1, 5]


# what a step may touch


@pytest.mark.parametrize("layer", ["mlp", "nsm", "lowrank", "neurocoder"])
def test_without_extra_losses_only_the_head_of_the_task_learns(layer):
    none = dict(
        neurocoder=replace(small().neurocoder, orthogonality_weight=0.0),
        nsm=replace(small().nsm, key_loss_weight=0.0),
    )
    training = ContinualTraining(small(layer, "sgd", **none), stream(), CPU)
    for number in range(3):
        before = parameters(training)
        train_task(training)
        after = parameters(training)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        allowed = {
            name for name in before if not name.startswith("heads.") or name.startswith(f"heads.{number}.")
        }
        # Parameters that come before a softmax over all slots may have no gradient.
        assert (
            moved <= allowed
            and any(name.startswith("heads.") for name in moved)
            and len(moved) > len(allowed) / 2
        )


def test_the_orthogonality_loss_is_of_all_heads_also_of_those_that_do_not_answer():
    training = ContinualTraining(small("neurocoder", "sgd"), stream(), CPU)
    before = parameters(training)
    train_task(training)
    after = parameters(training)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for head in (1, 2):
        assert {f"heads.{head}.memory.M_U", f"heads.{head}.memory.M_V"} <= moved
        assert f"heads.{head}.controller.signal.weight" not in moved


def test_a_class_not_yet_seen_is_no_answer_and_one_of_an_earlier_task_is():
    training = ContinualTraining(
        small(scenario="class", method="sgd", learning_rate=1e-6), stream("class"), CPU
    )
    bias = unflatten(training.network, training.theta.data[0])["heads.0.bias"]
    bias[:] = 100 * torch.tensor([0.0, 3.0, 1.0, 2.0, -1.0, 9.0])  # outweighs every image
    while not training.finished:
        training.advance()
    # The answer is 1 after the first and the second task, 5 after the third. A test is never without its own classes.
    assert training.accuracy[0].tolist() == [[50.0, 0.0, 50.0], [50.0, 0.0, 50.0], [0.0, 0.0, 50.0]]


# importances


def test_si_weighs_parameters_by_the_task_s_loss_without_penalty_and_without_extra_losses():
    config = small("neurocoder", "si", strength=20.0)
    training = ContinualTraining(config, stream(), CPU)
    expected, network = slow_si(config, loss="task")
    for importance in expected:
        train_task(training)
        torch.testing.assert_close(training.regularizer.anchor.importance[0], importance, **CLOSE)
    torch.testing.assert_close(parameters(training), dict(network.named_parameters()), **CLOSE)
    whole, _ = slow_si(config, loss="everything")
    assert all((a - b).abs().max() > 0.1 * a.max() for a, b in zip(expected, whole, strict=True))


def test_ewc_weighs_parameters_by_squared_gradients_of_the_answers_of_the_task_s_head():
    config = small("lowrank", "ewc", "class")
    training = trained(config, tasks=1)
    network, task = ByHand(config), stream("class").tasks[0]
    network.load_state_dict(parameters(training))
    total = [torch.zeros_like(p) for p in network.parameters()]
    for x in task.train.x:
        y = network(x[None], 0)[:, :2]
        loss = F.cross_entropy(y, y.argmax(dim=1))
        for square, slope in zip(total, torch.autograd.grad(loss, list(network.parameters())), strict=True):
            square += slope**2 / len(task.train.x)
    expected = torch.cat([square.flatten() for square in total])
    torch.testing.assert_close(training.regularizer.anchor.importance[0], expected, **CLOSE)
    torch.testing.assert_close(
        training.regularizer.anchor.parameters, training.theta.detach(), rtol=0, atol=0
    )


@pytest.mark.parametrize("method", ["ewc", "online-ewc"])
def test_the_fisher_of_the_released_agents_contains_the_orthogonality_loss(method):
    config = small("neurocoder", method, "domain", neurocoder=AS_RELEASED)
    training = trained(config, tasks=1)
    network, task = ByHand(config), stream("domain").tasks[0]
    network.load_state_dict(parameters(training))
    total = [torch.zeros_like(p) for p in network.parameters()]
    for x in task.train.x:
        y = network(x[None], 0)
        loss = F.cross_entropy(y, y.argmax(dim=1)) + network.extra()
        for square, slope in zip(total, torch.autograd.grad(loss, list(network.parameters())), strict=True):
            square += slope**2 / len(task.train.x)
    expected = torch.cat([square.flatten() for square in total])
    torch.testing.assert_close(training.regularizer.anchor.importance[0], expected, **CLOSE)


# seeds


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("method", "scenario"), [("adam", "task"), ("si", "task"), ("ewc", "domain"), ("online-ewc", "class")]
)
def test_seeds_that_train_together_are_the_seeds_one_by_one(layer, method, scenario):
    config = small(layer, method, scenario, epochs=1, seeds=(3, 8))
    together = trained(config)
    for row, seed in enumerate(config.seeds):
        alone = trained(replace(config, seeds=(seed,)))
        torch.testing.assert_close(together.theta[row], alone.theta[0], **CLOSE)
        assert torch.equal(together.accuracy[row], alone.accuracy[0])
        assert torch.equal(together.untrained[row], alone.untrained[0])
        assert method == "adam" or alone.regularizer.anchor.importance.max() > 0
        for name, tensor in alone.regularizer.state_dict().items():
            torch.testing.assert_close(together.regularizer.state_dict()[name][row], tensor[0], **CLOSE)


@pytest.mark.parametrize("layer", LAYERS)
def test_seeds_that_train_together_in_single_precision_are_close_to_the_seeds_one_by_one(layer):
    torch.set_default_dtype(torch.float32)
    config = small(layer, "sgd", learning_rate=0.01, seeds=(3, 8))
    together = trained(config, tasks=1)
    for row, seed in enumerate(config.seeds):
        alone = trained(replace(config, seeds=(seed,)), tasks=1)
        assert alone.theta.dtype == torch.float32
        torch.testing.assert_close(together.theta[row], alone.theta[0], rtol=1e-4, atol=1e-6)


def test_every_seed_has_weights_and_an_order_of_its_own(monkeypatch):
    training = ContinualTraining(small(seeds=(0, 1, 2, 2**32 - 1)), stream(), CPU)
    begin = training.theta.detach().clone()
    seen = []
    step = training._step
    monkeypatch.setattr(training, "_step", lambda task, batch: seen.append(batch.x) or step(task, batch))
    while not training.finished:
        training.advance()
    for a, b in itertools.combinations(range(4), 2):
        assert (begin[a] != begin[b]).all() and (training.theta[a] != training.theta[b]).all()
        assert any((x[a] != x[b]).any() for x in seen[:4])


# stopped and continued


@pytest.mark.parametrize(
    ("layer", "method", "seeds"),
    [
        ("mlp", "adam", (1,)),
        ("mlp", "sgd", (1, 2)),
        ("mlp", "adagrad", (1, 2)),
        ("lowrank", "l2", (1,)),
        ("neurocoder", "si", (1, 2)),
        ("neurocoder", "adam", (1,)),
        ("nsm", "ewc", (1,)),
        ("lowrank", "online-ewc", (1, 2)),
    ],
)
def test_a_run_continued_after_a_task_is_bit_identical_to_one_that_never_stopped(
    layer, method, seeds, tmp_path
):
    torch.set_default_dtype(torch.float32)  # as it is used
    config = small(layer, method, epochs=1, seeds=seeds)
    whole = trained(config)
    for stop in (1, 2):
        stopped = trained(config, tasks=stop)
        save(stopped, tmp_path, keep=1, about={})
        torch.manual_seed(99)  # what came before does not matter
        snapshot = to_snapshot(Snapshot, load_newest(tmp_path, warn=pytest.fail))
        assert snapshot.tasks_done == stop
        continued = trained(config, snapshot=snapshot)
        assert continued.step == whole.step and continued.seconds > snapshot.seconds > 0
        for ours, theirs in zip(tensors(continued), tensors(whole), strict=True):
            assert ours[0] == theirs[0] and torch.equal(ours[1], theirs[1]), ours[0]


def tensors(training: ContinualTraining) -> list[tuple[str, Tensor]]:
    snapshot = training.snapshot()
    groups = {"optimizer": snapshot.optimizer, "regularizer": snapshot.regularizer}
    named = {f"{group}.{name}": tensor for group, values in groups.items() for name, tensor in values.items()}
    fields = {name: getattr(snapshot, name) for name in ("theta", "accuracy", "untrained")}
    return sorted((fields | named).items())


def test_only_the_newest_of_the_saved_tasks_is_kept_with_its_settings(tmp_path):
    config = small(method="si", seeds=(1, 2))
    for stop in (1, 2):
        training = trained(config, tasks=stop)
        save(training, tmp_path, keep=1, about={"config": config.to_dict()})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000002"]
    state = load_newest(tmp_path, warn=pytest.fail).state
    assert ContinualConfig.from_dict(state["config"]) == config and state["seconds"] == training.seconds


# what cannot continue


def test_a_learning_rate_that_is_far_too_large_ends_training_with_seed_task_and_step(monkeypatch):
    monkeypatch.setattr(module, "RECORD_EVERY", 3)
    config = small(method="sgd", learning_rate=1e200, seeds=(5, 6))
    losses = []
    for seed in config.seeds:
        by_hand = ByHand(replace(config, seeds=(seed,)))
        by_hand.train_all()
        losses.append(by_hand.losses[0])
    step = next(s for s in range(8) if not all(abs(values[s]) < float("inf") for values in losses))
    seed, loss = next(
        (seed, values[step])
        for seed, values in zip(config.seeds, losses, strict=True)
        if not abs(values[step]) < float("inf")
    )
    assert step > 0
    with pytest.raises(TrainingError) as failure:
        trained(config)
    assert (
        str(failure.value)
        == f"the loss of seed {seed} became {loss} in task 1 at step {step + 1}; {LOWER_RATE}"
    )


def test_the_first_seed_that_sees_a_damaged_image_is_named_with_its_task_and_step(monkeypatch):
    monkeypatch.setattr(module, "RECORD_EVERY", 3)
    config, tasks = small(seeds=(6, 8, 3, 1)), stream()
    damaged = tasks.tasks[1].train.x.clone()
    damaged[10] = float("nan")
    task = tasks.tasks[1]._replace(train=tasks.tasks[1].train._replace(x=damaged))
    tasks = tasks._replace(tasks=[tasks.tasks[0], task, tasks.tasks[2]])
    steps = [shuffled(14, seed=seed, task=1, epoch=0).tolist().index(10) // 4 + 1 for seed in config.seeds]
    first = min(steps)
    seed = config.seeds[steps.index(first)]
    training = ContinualTraining(config, tasks, CPU)
    train_task(training)
    with pytest.raises(TrainingError) as failure:
        train_task(training)
    assert str(failure.value) == f"the loss of seed {seed} became nan in task 2 at step {first}; {LOWER_RATE}"
    assert 1 < first < max(steps) and seed != config.seeds[0]
