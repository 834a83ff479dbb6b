"""What supervised tasks are trained on and measured by, against slow loops."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from agents.supervised.config import SupervisedConfig
from agents.supervised.presets import preset
from agents.supervised.tasks import AlgorithmTask, ImageTask, PolynomialTask, flip_and_shift
from envs import algorithms
from envs.images import load
from tests.unit.envs.image_files import write_few

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_few(tmp_path_factory.mktemp("data"))


def digits(**changes) -> SupervisedConfig:
    """784-10 on MNIST, five steps an epoch."""
    return replace(preset("mnist", layer="mlp"), batch_size=5, **{"epochs": 2} | changes)


def test_every_image_comes_once_an_epoch_with_its_label_in_an_order_of_its_own(data):
    task = ImageTask(digits(), data, CPU)
    (images, labels), _ = load("mnist", data, download=False)
    numbers = {image.numpy().tobytes(): number for number, image in enumerate(images)}
    orders = []
    for epoch in range(2):
        batches = [task.batch(step) for step in range(5 * epoch, 5 * epoch + 5)]
        assert [len(x) for x, _ in batches] == [5, 5, 5, 5, 3]
        order = [numbers[(255 * x).round().byte().numpy().tobytes()] for xs, _ in batches for x in xs]
        assert sorted(order) == list(range(23))
        assert torch.cat([y for _, y in batches]).tolist() == [labels[number] for number in order]
        orders.append(order)
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_a_batch_depends_on_seed_and_step_alone(data):
    task, other = ImageTask(digits(), data, CPU), ImageTask(digits(), data, CPU)
    in_order = [task.batch(step) for step in range(12)]
    for step in (11, 3, 7, 4):
        for ours, theirs in zip(other.batch(step), in_order[step], strict=True):
            assert torch.equal(ours, theirs)
    reseeded = ImageTask(digits(seed=2), data, CPU)
    assert not torch.equal(reseeded.batch(3)[0], in_order[3][0])


PUBLISHED_SCALES = {  # mean and deviation of the channels, of bytes divided by 255
    "mnist": ([0.0], [1.0]),
    "cifar10": ([0.491, 0.482, 0.447], [0.247, 0.243, 0.262]),
}


@pytest.mark.parametrize("name", PUBLISHED_SCALES)
def test_pixels_are_scaled_by_the_channels_mean_and_deviation(data, name):
    task = ImageTask(replace(preset(name, network="mlp", layer="mlp"), batch_size=100), data, CPU)
    x, _ = task.batch(0)  # all
    (images, _), _ = load(name, data, download=False)
    mean, deviation = (torch.tensor(numbers).view(-1, 1, 1) for numbers in PUBLISHED_SCALES[name])
    expected = (images.float() / 255 - mean) / deviation
    order = task.order.tolist()
    assert sorted(order) == list(range(len(images)))
    torch.testing.assert_close(x, expected[order], rtol=1e-5, atol=1e-6)


def test_augmented_images_are_mirrored_or_not_and_moved_by_up_to_four_pixels():
    picture = torch.randint(1, 256, (3, 6, 5), dtype=torch.uint8)  # C, H, W
    allowed = {}
    for mirrored in (False, True):
        for down in range(-4, 5):
            for right in range(-4, 5):
                moved = torch.zeros_like(picture)
                for row in range(6):
                    for column in range(5):
                        from_row, from_column = row - down, column - right
                        if 0 <= from_row < 6 and 0 <= from_column < 5:
                            if mirrored:
                                from_column = 4 - from_column
                            moved[:, row, column] = picture[:, from_row, from_column]
                allowed[moved.numpy().tobytes()] = (mirrored, down, right)
    torch.manual_seed(0)
    many = flip_and_shift(picture.expand(3000, -1, -1, -1))
    assert many.dtype == torch.uint8 and many.shape == (3000, 3, 6, 5)
    seen = {allowed[image.contiguous().numpy().tobytes()] for image in many}
    assert len(allowed) == len(seen) == 2 * 9 * 9  # all of them, and nothing else


def test_augmented_images_stay_in_their_place_of_the_batch():
    pictures = torch.arange(1, 41, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 6, 5)
    for number, moved in enumerate(flip_and_shift(pictures), start=1):
        assert set(moved.unique().tolist()) <= {0, number} and (moved == number).any()


def algorithm_task(**changes) -> AlgorithmTask:
    config = replace(preset("algorithms", layer="mlp"), batch_size=3, tasks_per_sequence=2, steps=50)
    return AlgorithmTask(replace(config, **changes), CPU)


class Watched(nn.Module):
    """A network whose answers depend on the inputs. Keeps the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x[..., :8].roll(3, dims=1) - 0.5


def test_algorithms_are_evaluated_on_the_same_sequences_every_time_and_on_none_of_training():
    task, first, again = algorithm_task(), Watched(), Watched()
    metric = task.evaluate(first, torch.tensor([1.0]))
    assert task.evaluate(again, torch.tensor([2.0, 3.0])) == metric
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.seen, again.seen, strict=True))
    trained_on = {x.numpy().tobytes() for step in range(50) for x in task.batch(step)[0]}
    evaluated_on = {x.numpy().tobytes() for batch in first.seen for x in batch}
    assert len(evaluated_on) == 4 * 3 and not trained_on & evaluated_on
    other_seed = Watched()
    algorithm_task(seed=2).evaluate(other_seed, torch.tensor([1.0]))
    assert not evaluated_on & {x.numpy().tobytes() for batch in other_seed.seen for x in batch}


def test_the_bit_error_is_that_of_a_loop_over_the_answers(monkeypatch):
    episodes, draw = [], algorithms.episode
    monkeypatch.setattr(algorithms, "episode", lambda *a, **k: episodes.append(draw(*a, **k)) or episodes[-1])
    network = Watched()
    metric = algorithm_task().evaluate(network, torch.zeros(1))
    wrong = []
    for episode in episodes:
        answers = network(episode.inputs)[:, -episode.targets.shape[1] :].flatten().tolist()
        bits = episode.targets.flatten().tolist()
        wrong += [(answer > 0) != (bit == 1) for answer, bit in zip(answers, bits, strict=True)]
    assert len({len(episode.targets[0]) for episode in episodes}) > 1  # some have more bits than others
    assert len(episodes) == 4 and 0 < metric < 100 and metric == pytest.approx(100 * sum(wrong) / len(wrong))


def test_every_seed_and_every_step_has_sequences_of_its_own():
    polynomials = replace(preset("polynomials", layer="mlp"), points=10, batch_size=3)
    for make, config in ((PolynomialTask, polynomials), (AlgorithmTask, algorithm_task().config)):
        batches = [
            make(replace(config, seed=seed), CPU).batch(step)[0].numpy().tobytes()
            for seed in (0, 1, 2, 2**32 - 1)
            for step in (0, 1, 2, 99_999)
        ]
        assert len(set(batches)) == 4 * 4
