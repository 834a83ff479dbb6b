"""Training on a GPU: steps replayed as CUDA graphs against plain steps, and few shapes against the exact ones."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from agents.a3c.config import A3CConfig
from agents.a3c.worker import RolloutWorker
from agents.supervised.config import NETWORKS
from agents.supervised.cuda_graphs import GraphedGradients, can_be_graphed
from agents.supervised.network import build_network
from agents.supervised.presets import preset
from agents.supervised.tasks import AlgorithmTask
from agents.supervised.training import SupervisedTraining
from neurocoder.networks.ntm import NTM
from neurocoder.settings import LAYERS
from tests.benchmarks.supervised import write_random_images

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_random_images(folder)
    return folder


def short_run(task: str, network: str, layer: str):
    config = preset(task, network=network, layer=layer)
    if task == "algorithms":
        return replace(config, tasks_per_sequence=2, batch_size=4, steps=6)
    if task == "polynomials":
        return replace(config, points=20, batch_size=8, steps=6)
    # 1,000 images: but for DenseNet, which takes much memory, the last batch of an epoch is smaller.
    return replace(config, batch_size=20 if network == "densenet" else 300, epochs=2)


TASKS = [task for task in NETWORKS if task != "cifar100"]  # as cifar10, but for the number of classes


@needs_gpu
@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer != "moe"])
@pytest.mark.parametrize("task, network", [(task, name) for task in TASKS for name in NETWORKS[task]])
def test_a_run_of_graphs_takes_the_steps_of_one_without(task, network, layer, data, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    config, cuda = short_run(task, network, layer), torch.device("cuda")
    graphed, plain = (SupervisedTraining(config, data, cuda) for _ in range(2))
    assert isinstance(graphed.differentiate, GraphedGradients)
    plain.differentiate = plain._differentiate
    for _ in range(6):
        for ours, theirs in zip(graphed.train_step()[:2], plain.train_step()[:2], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for name, ours in graphed.network.state_dict().items():
        theirs = plain.network.state_dict()[name]
        # By Adam even a gradient of rounding errors moves a weight by the learning rate.
        assert (ours - theirs).float().norm() <= 1e-3 * (1 + theirs.float().norm()), name


@needs_gpu
def test_a_gpu_computes_the_gradient_that_a_cpu_does(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(
        torch, "multinomial", lambda policy, *_, **__: policy.new_zeros(len(policy), 1).long()
    )
    weights, vectors = None, []
    for share in (0.0, 1.0):
        config = A3CConfig(head="neurocoder", envs_per_worker=2, precision="fp32", gpus_per_worker=share)
        worker = RolloutWorker(config, 0)
        if weights is None:
            weights = worker.weights.numpy().copy()
        worker.load(weights)
        vector, report = worker.rollout(0, 0)
        assert report.not_finite is None and report.steps == 2 * config.rollout_steps
        vectors.append(torch.from_numpy(vector))
    on_cpu, on_gpu = vectors
    assert (on_gpu - on_cpu).norm() < 1e-3 * on_cpu.norm()


def test_experts_and_cpus_do_without_graphs():
    layers = {name: build_network(short_run("polynomials", "gru", name)) for name in LAYERS}
    assert not any(can_be_graphed(network, CPU) for network in layers.values())
    cuda = torch.device("cuda")
    assert {name for name, network in layers.items() if not can_be_graphed(network, cuda)} == {"moe"}


@pytest.mark.parametrize("multiple_of", [1, 16])
def test_steps_after_the_last_answer_change_neither_loss_nor_gradient(multiple_of):
    """Against the loss of the answers alone, on the sequences as they are drawn."""
    config = replace(preset("algorithms", layer="mlp"), tasks_per_sequence=2, batch_size=3, seed=4)
    task = AlgorithmTask(config, CPU, multiple_of=multiple_of)
    torch.manual_seed(0)
    network = NTM(10, 8, hidden=6, cells=5, cell_width=4).double()
    for step in range(3):
        x, targets = (tensor.double() for tensor in task.batch(step))
        sequences, bits = (tensor.double() for tensor in task._sequences("training", step))
        assert x.shape[1] % multiple_of == 0 and x.shape[1] - sequences.shape[1] < multiple_of
        ours = task.loss(network(x), targets)
        exact = F.binary_cross_entropy_with_logits(network(sequences)[:, -bits.shape[1] :], bits)
        torch.testing.assert_close(ours, exact)
        gradients = (torch.autograd.grad(loss, list(network.parameters())) for loss in (ours, exact))
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs)
