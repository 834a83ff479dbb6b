"""docs/how-it-works.md does what it says: its recipes are applied to a copy of the project, and its commands run there."""

import re
import shutil

import pytest

from tests.commands import ROOT, run_in

PAGE = (ROOT / "docs" / "how-it-works.md").read_text()
SHORT = {
    "launch.train": (
        "--envs-per-worker",
        1,
        "--rollout-steps",
        5,
        "--total-steps",
        20,
        "--evaluate-episodes",
        1,
    ),
    "launch.supervised": ("--batch-size", 2),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the packages after all recipes."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in ("neurocoder", "agents", "envs", "launch"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for source in blocks("python"):
        path = folder / re.match(r"# (\S+)\n", source)[1]
        assert not path.exists()
        path.write_text(source)
    for diff in blocks("diff"):
        name, *lines = diff.splitlines()
        before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        after = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        text = (folder / name).read_text()
        assert text.count(before) == 1, f"{name} has not these lines once:\n{before}"
        (folder / name).write_text(text.replace(before, after))
    return folder


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_a_command_with_what_was_added_succeeds(command, checkout):
    _, _, module, *arguments = command.split()
    done = run_in(checkout, "-m", module, *arguments, *SHORT[module])
    assert done.returncode == 0, done.stderr


def test_an_added_layer_is_made_by_name_and_its_settings_are_checked(checkout):
    program = """
import torch
from neurocoder import OUTPUT_LAYERS
from neurocoder.output_layers import configured_layer
from neurocoder.settings import LayerSettings, ScaledSettings

layer = configured_layer("scaled", LayerSettings(scaled=ScaledSettings(initial=3.0)), bias=False)(4, 2)
x = torch.randn(5, 4)
assert type(layer) is OUTPUT_LAYERS["scaled"]
torch.testing.assert_close(layer(x), 3 * x @ layer.linear.weight.T)
print(layer.linear.bias)
"""
    done = run_in(checkout, "-c", program)
    assert (done.stdout, done.stderr) == ("None\n", "")
    done = run_in(checkout, "-m", "launch.train", "--head", "scaled", "--scaled.initial", 0)
    assert done.returncode == 2
    assert done.stderr == "error: --scaled.initial is 0.0; it must be a finite number above 0\n"


def test_the_page_names_files_that_exist():
    for name in set(re.findall(r"`((?:agents|envs|launch|neurocoder|tests)/[\w/.]+\.py)`", PAGE)):
        assert (ROOT / name).is_file(), name


def test_no_recipe_is_longer_than_twenty_lines_but_for_the_new_file():
    for recipe in PAGE.partition("## How to add things")[2].split("\n### ")[1:]:
        changed = re.findall(r"^[+-]\S*", recipe, re.MULTILINE)
        assert len(changed) <= 20, recipe.splitlines()[0]
