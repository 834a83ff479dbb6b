"""Presets of `launch.train` and `launch.sweep`."""

from dataclasses import replace

import pytest

from agents.a3c.config import A3CConfig
from agents.a3c.presets import preset
from launch import sweep, train
from launch.command_line.atari import parse


def parsed(*flags: str) -> A3CConfig:
    return parse(train.PROGRAM, train.Arguments, list(flags), None).config


def test_without_a_preset_a_run_has_the_papers_settings():
    assert parsed() == parsed("--preset", "paper") == A3CConfig()


def test_a_flag_overrides_what_the_preset_says_and_nothing_else():
    two_cores = preset("two-cores")
    assert parsed("--preset", "two-cores") == two_cores != A3CConfig()
    config = parsed("--neurocoder.slots", "7", "--preset", "two-cores", "--learning-rate", "0.25", "--anneal")
    neurocoder = replace(two_cores.neurocoder, slots=7)
    assert config == replace(two_cores, neurocoder=neurocoder, learning_rate=0.25, anneal=True)


def test_help_with_a_preset_shows_what_that_preset_has(capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed("--preset", "two-cores", "--help")
    assert stopped.value.code == 0
    assert f"(default: {preset('two-cores').learning_rate})" in capsys.readouterr().out


def test_every_run_of_a_sweep_has_the_preset_but_for_what_the_sweep_is_over():
    arguments = sweep.Arguments(env="Pong", head="mlp", learning_rate="0.25", seeds=2, preset="two-cores")
    configs = sweep.expand(arguments, ["--gamma", "0.5"])
    expected = replace(preset("two-cores"), env="Pong", head="mlp", learning_rate=0.25, gamma=0.5)
    assert list(configs.values()) == [replace(expected, seed=seed) for seed in (1, 2)]
