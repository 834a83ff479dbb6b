"""Settings of Atari runs: their ranges, their form in JSON, and the heads that they build."""

import json
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch

from agents.a3c.config import A3CConfig
from agents.actor_critic.config import PolicySettings
from agents.actor_critic.network import build_network
from envs.atari import resolve
from neurocoder import OUTPUT_LAYERS
from neurocoder.settings import LAYERS, LayerSettings
from tests.commands import ROOT
from tests.unit.neurocoder import changed_settings

CHANGED_LAYERS = {
    field.name: getattr(changed_settings.ALL_CHANGED, field.name) for field in fields(LayerSettings)
}

ALL_CHANGED = A3CConfig(
    env="ALE/Seaquest-v5",
    head="hypernet",
    head_on="both",
    network="impala", frames=3, motion=0.5, lstm_hidden=64,
    **CHANGED_LAYERS,
    workers=0, envs_per_worker=3, cpus_per_worker=2, gpus_per_worker=0.5, total_steps=99, seed=11,
    deterministic=True, precision="bf16",
    max_restarts=1, stall_seconds=9.0, max_staleness=5, max_bad_updates=2,
    rollout_steps=6, gamma=0.9, gae_lambda=0.8, entropy_weight=0.02, value_weight=0.25, reward_clip=2.0,
    life_loss_terminates=False, fire_after_life_loss=False, gradient_clip=0.5,
    optimizer="adam", learning_rate=1e-3, anneal=False, anneal_entropy=True, rmsprop_decay=0.95,
    rmsprop_epsilon=0.01, adam_epsilon=1e-8,
)  # fmt: skip


def changed(flag: str, value: object) -> A3CConfig:
    """Returns the default settings with a change of one, which is named as on the command line."""
    *group, name = flag.removeprefix("--").replace("-", "_").split(".")
    if not group:
        return replace(A3CConfig(), **{name: value})
    settings = replace(getattr(A3CConfig(), group[0]), **{name: value})
    return replace(A3CConfig(), **{group[0]: settings})


@pytest.mark.parametrize("config", [A3CConfig(), ALL_CHANGED], ids=["defaults", "all changed"])
def test_settings_come_back_the_same_through_json(config):
    assert A3CConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_changed_settings_above_change_every_field():
    defaults, altered = A3CConfig().to_dict(), ALL_CHANGED.to_dict()
    assert [name for name, value in defaults.items() if altered[name] == value] == []


@pytest.mark.parametrize("group", [None, "neurocoder"])
def test_a_stored_setting_that_this_version_does_not_know_is_refused(group):
    stored = A3CConfig().to_dict()
    (stored if group is None else stored[group])["invented"] = 1
    with pytest.raises(ValueError, match="invented"):
        A3CConfig.from_dict(stored)


def test_layers_without_stored_settings_have_their_defaults():
    stored = ALL_CHANGED.to_dict()
    for group in ("film", "moe", "nsm"):
        del stored[group]
    default = A3CConfig()
    assert A3CConfig.from_dict(stored) == replace(
        ALL_CHANGED, film=default.film, moe=default.moe, nsm=default.nsm
    )


@pytest.mark.parametrize("config", [A3CConfig(), ALL_CHANGED], ids=["defaults", "all changed"])
def test_settings_in_range_are_accepted_and_give_the_settings_of_the_game(config):
    own = dict(
        life_loss_terminates=config.life_loss_terminates,
        fire_after_life_loss=config.fire_after_life_loss,
        stack=4 if config.motion else 1,
    )
    config.check()
    assert config.game() == replace(resolve(config.env), **own)


def test_settings_stored_before_fire_was_pressed_after_a_lost_life_do_not_press_it():
    saved = A3CConfig().to_dict()
    del saved["fire_after_life_loss"]
    assert A3CConfig.from_dict(saved) == replace(A3CConfig(), fire_after_life_loss=False)
    assert A3CConfig().game().fire_after_life_loss


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--workers", 0),
        ("--workers", "auto"),
        ("--max-restarts", 0),
        ("--max-staleness", 0),
        ("--max-bad-updates", 0),
        ("--gamma", 0.0),
        ("--gamma", 1.0),
        ("--gae-lambda", 0.0),
        ("--rmsprop-decay", 0.0),
        ("--entropy-weight", 0.0),
        ("--value-weight", 0.0),
        ("--seed", 0),
        ("--total-steps", 1),
        ("--rollout-steps", 1),
        ("--envs-per-worker", 1),
    ],
)
def test_a_setting_at_the_edge_of_its_range_is_accepted(flag, value):
    changed(flag, value).check()


NAN, INFINITE = float("nan"), float("inf")
ABOVE_ZERO = (
    "--learning-rate", "--gradient-clip", "--reward-clip", "--rmsprop-epsilon", "--adam-epsilon", "--stall-seconds",
)  # fmt: skip
ZERO_OR_MORE = ("--gpus-per-worker", "--entropy-weight", "--value-weight")
FROM_ZERO_TO_ONE = ("--gamma", "--gae-lambda", "--rmsprop-decay")
OUT_OF_RANGE = [
    ("--env", "Seaqest"),
    ("--env", "Seaquest-v4"),
    ("--head", "neurocodr"),
    ("--workers", -1),
    ("--envs-per-worker", 0),
    ("--cpus-per-worker", 0),
    ("--max-restarts", -1),
    ("--max-staleness", -1),
    ("--max-bad-updates", -1),
    ("--total-steps", 0),
    ("--rollout-steps", 0),
    ("--seed", -1),
    ("--neurocoder.slots", 0),
    *((flag, value) for flag in ABOVE_ZERO for value in (0.0, -1.0, NAN, INFINITE)),
    *((flag, value) for flag in ZERO_OR_MORE for value in (-0.1, NAN, INFINITE)),
    *((flag, value) for flag in FROM_ZERO_TO_ONE for value in (-0.1, 1.1, NAN)),
]


@pytest.mark.parametrize("flag, value", OUT_OF_RANGE, ids=[f"{flag}={value}" for flag, value in OUT_OF_RANGE])
def test_a_setting_out_of_range_is_refused_in_one_line_that_names_it_and_its_value(flag, value):
    with pytest.raises(ValueError) as refusal:
        changed(flag, value).check()
    line = str(refusal.value)
    assert (flag if flag != "--env" else "env") in line and "\n" not in line
    assert (repr(value) if isinstance(value, str) else f"is {value}") in line


def test_deterministic_training_with_workers_is_refused_in_one_line_that_names_both():
    with pytest.raises(ValueError, match=r"^--deterministic needs --workers 0, but --workers is 3.*$"):
        A3CConfig(deterministic=True, workers=3).check()


@pytest.mark.parametrize("head", LAYERS)
@pytest.mark.parametrize("head_on", ["actor", "critic", "both"])
def test_every_layer_can_be_a_head(head, head_on):
    settings = PolicySettings(env="Breakout", head=head, head_on=head_on)
    settings.check()
    network, plain = build_network(settings), build_network(replace(settings, head="mlp"))
    chosen = {"actor": head, "critic": head} if head_on == "both" else {head_on: head}
    for name in ("actor", "critic"):
        layer = getattr(network, name)
        assert isinstance(layer, OUTPUT_LAYERS[chosen.get(name, "mlp")])
        assert layer(torch.zeros(3, 512)).shape == getattr(plain, name)(torch.zeros(3, 512)).shape


def test_a_misspelt_head_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean neurocoder"):
        replace(A3CConfig(), head="neurocodr").check()


def test_the_settings_can_be_imported_and_checked_without_torch_or_ray():
    program = (
        "import sys; from agents.a3c.config import A3CConfig; A3CConfig().check(); "
        "print(sorted({'agents', 'ale_py', 'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("['agents', 'ale_py']\n", "")
