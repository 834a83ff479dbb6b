"""The stream of tasks against plain loops over the images."""

import pytest
import torch

from agents.continual.tasks import CLASSES_PER_TASK, Split, mnist_features, shuffled, split_tasks


def split(classes: int, count: int, *, seed: int) -> Split:
    """Every class at least once, in no order; the one feature is the image's number."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (count - classes,), generator=draw)])
    return Split(torch.arange(count).float().unsqueeze(1), labels[torch.randperm(count, generator=draw)])


def numbers_and_labels(part: Split) -> list[tuple[float, int]]:
    return [(x.item(), y) for x, y in zip(part.x, part.labels.tolist(), strict=True)]


@pytest.mark.parametrize(("classes", "per_task"), [(10, 2), (100, 5), (7, 3)])  # of 7, the last task has one
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_tasks_are_those_of_a_loop_over_the_images(scenario, classes, per_task):
    train, test = split(classes, 300, seed=0), split(classes, 200, seed=1)
    stream = split_tasks(train, test, per_task=per_task, scenario=scenario)
    firsts = list(range(0, classes, per_task))
    assert len(stream.tasks) == len(firsts)
    for number, first in enumerate(firsts):
        task = stream.tasks[number]
        for part, whole in ((task.train, train), (task.test, test)):
            expected = []
            for x, label in numbers_and_labels(whole):
                if label in range(first, first + per_task):
                    expected.append((x, label if scenario == "class" else label - first))
            assert numbers_and_labels(part) == expected and expected
        assert task.head == {"task": number, "domain": 0, "class": 0}[scenario]
        seen = min(first + per_task, classes)
        assert torch.zeros(stream.classes)[: task.answers].numel() == (
            seen if scenario == "class" else per_task
        )
    assert stream.heads == {"task": len(firsts), "domain": 1, "class": 1}[scenario]
    assert stream.classes == {"task": per_task, "domain": per_task, "class": classes}[scenario]


def test_every_image_is_in_exactly_one_task():
    train = split(10, 50, seed=0)
    stream = split_tasks(train, train, per_task=2, scenario="domain")
    seen = [x for task in stream.tasks for x, _ in numbers_and_labels(task.train)]
    assert sorted(seen) == list(range(50))


def test_the_benchmarks_have_as_many_tasks_as_the_paper():
    classes = {"split-mnist": 10, "split-cifar10": 10, "split-cifar100": 100}
    assert {name: classes[name] / n for name, n in CLASSES_PER_TASK.items()} == {
        "split-mnist": 5, "split-cifar10": 5, "split-cifar100": 20,
    }  # fmt: skip


def test_mnist_is_padded_to_32_by_32_pixels_and_normalised():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8, generator=draw)
    features = mnist_features(images)
    assert features.shape == (3, 1024) and features.dtype == torch.float32
    for image, pixels in zip(images, features.tolist(), strict=True):
        expected = []
        for row in range(-2, 30):
            for column in range(-2, 30):
                inside = 0 <= row < 28 and 0 <= column < 28
                pixel = image[0, row, column].item() / 255 if inside else 0.0
                expected.append((pixel - 0.1) / 0.2752)
        assert pixels == pytest.approx(expected, abs=1e-5)


def test_an_order_has_every_image_once_and_depends_on_each_of_its_numbers_and_on_nothing_else():
    given = dict(seed=1, task=2, epoch=3)
    order = shuffled(100, **given)
    assert sorted(order.tolist()) == list(range(100)) and order.tolist() != list(range(100))
    torch.manual_seed(7)  # what came before does not matter
    assert torch.equal(shuffled(100, **given), order)
    others = [given | {name: value} for name in given for value in (0, 4, 2**32 + given[name])]
    orders = {tuple(shuffled(100, **other).tolist()) for other in (given, *others)}
    assert len(orders) == 1 + 9
