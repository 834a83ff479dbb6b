"""The flags of a command line, and settings of layers that no run has."""

import pytest

from launch.command_line.flags import given_flags, refuse_unused_layers


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("", []),
        ("polynomials --layer mlp,film", ["--layer"]),
        ("--batch-size 5 --batch_size=7", ["--batch-size"]),
        ("--run_dir=a_b --neurocoder.key_dim 3", ["--run-dir", "--neurocoder.key-dim"]),
        ("--no-bias --no_usage --neurocoder.no-residual", ["--bias", "--usage", "--neurocoder.residual"]),
        ("--noise --nsm.slots 3", ["--noise", "--nsm.slots"]),
        ("--strength -1 -h", ["--strength"]),
    ],
)
def test_each_flag_has_one_name_however_it_is_typed(typed, names):
    assert given_flags(typed.split()) == names


@pytest.mark.parametrize("layer", ["neurocoder", "lowrank"])
def test_the_settings_of_the_neurocoder_are_for_the_neurocoder_and_its_control(layer):
    refuse_unused_layers(["--neurocoder.slots", "3", "--layer", layer], ["mlp", layer])


@pytest.mark.parametrize(
    ("flag", "layers"),
    [("--film.hidden=3", ["mlp"]), ("--neurocoder.no-residual", ["mlp", "nsm"]), ("--nsm.key_dim", ["lowrank"])],
)  # fmt: skip
def test_a_setting_of_a_layer_that_no_run_has_is_refused_by_name(flag, layers):
    with pytest.raises(ValueError) as refusal:
        refuse_unused_layers([flag, "3", "--hidden", "5"], layers)
    (name,) = given_flags([flag])
    group = name[2:].split(".")[0]
    assert str(refusal.value) == (
        f"{name}: {group} is not among the layers of these runs ({', '.join(layers)})"
    )
