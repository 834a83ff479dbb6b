"""Which file may import which: the rule, and proof that a violation is found."""

import ast
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

ROOMS = {
    # What each folder may import of the project, itself included. The longest name that fits a file decides.
    "neurocoder": {"neurocoder"},
    "neurocoder/kernels": {"neurocoder/kernels"},
    "neurocoder/networks": {"neurocoder"},
    "neurocoder/alternatives": {"neurocoder"},
    "envs": {"envs"},
    "agents": {"agents/*", "envs", "neurocoder"},
    "agents/actor_critic": {"agents/*", "agents/actor_critic", "envs", "neurocoder"},
    "agents/a3c": {"agents/*", "agents/a3c", "agents/actor_critic", "envs", "neurocoder"},
    "agents/rllib": {"agents/*", "agents/rllib", "agents/actor_critic", "envs", "neurocoder"},
    "agents/supervised": {"agents/*", "agents/supervised", "envs", "neurocoder"},
    "agents/continual": {"agents/*", "agents/continual", "envs", "neurocoder"},
    "agents/runs": {
        "agents/*", "agents/runs", "agents/a3c", "agents/rllib", "agents/actor_critic", "envs", "neurocoder",
    },
    # Its two functions are loaded at first use.
    "agents/__init__.py": {"agents/runs"},
    "launch": {"launch/command_line", "launch/experiments", "launch/results", "agents", "envs", "neurocoder"},
    "launch/command_line": {
        "launch/command_line", "launch/experiments", "launch/results", "agents", "envs", "neurocoder",
    },
    "launch/experiments": {"launch/experiments", "launch/results", "agents", "envs", "neurocoder"},
    "launch/results": {"launch/results", "agents", "envs", "neurocoder"},
}  # fmt: skip
FOLDERS = ("neurocoder", "envs", "agents", "launch")
PROJECT = {*FOLDERS, "tests"}
LIGHT = {"neurocoder", "torch", *sys.stdlib_module_names}  # all that neurocoder may import
RAY = {
    "agents/a3c/ray_training.py",
    "agents/private_cluster.py",
    "agents/ray_cluster.py",
    "agents/rllib/module.py",
    "agents/rllib/training.py",
    "agents/runs/evaluator.py",
    "agents/shared_cluster.py",
}  # and all of launch


def imported_modules(source: str, path: Path) -> list[tuple[int, str]]:
    """Lists line and dotted name of every import in the file at `path`, which is relative to the root.

    `from a import b` is "a.b". An import by name, `import_module` or `__import__`, counts as well. If the name is computed or
    relative, it is "?".
    """
    imports = []
    for node in ast.walk(ast.parse(source, filename=str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # The package that the dots lead to.
            package = path.parts[: len(path.parts) - node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and called_name(node.func) in ("import_module", "__import__"):
            is_constant = node.args and isinstance(node.args[0], ast.Constant)
            names = [str(node.args[0].value)] if is_constant else ["?"]
        else:
            continue
        imports += [(node.lineno, "?" if name.startswith(".") else name) for name in names]
    return imports


def called_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def room(path: str) -> str:
    """Returns the longest name in ROOMS that a path lies in."""
    return max((name for name in ROOMS if path == name or path.startswith(f"{name}/")), key=len, default="")


def is_allowed(importer: str, imported: str) -> bool:
    """True if the file at `importer` may import the module at `imported`. Both are paths such as "agents/a3c/worker"."""
    for entry in ROOMS[room(importer)]:
        if entry.endswith("/*"):  # the files of a folder, and none in folders below it
            folder = entry.removesuffix("/*")
            if imported == folder or (imported.startswith(f"{folder}/") and room(imported) == folder):
                return True
        elif imported == entry or imported.startswith(f"{entry}/"):
            return True
    return False


def violations(root: Path) -> list[str]:
    """Lists 'path:line imports module' for every import against the rule."""
    against = []
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            path = file.relative_to(root)
            may_use_ray = folder == "launch" or path.as_posix() in RAY
            for line, module in imported_modules(file.read_text(encoding="utf-8"), path):
                package = module.partition(".")[0]
                foreign = package in PROJECT and not is_allowed(path.as_posix(), module.replace(".", "/"))
                heavy = folder == "neurocoder" and package not in LIGHT
                ray = package == "ray" and not may_use_ray
                if foreign or heavy or ray or package == "?":
                    against.append(f"{path.as_posix()}:{line} imports {module}")
    return against


def test_no_file_imports_against_the_rule():
    assert violations(ROOT) == []


@pytest.mark.parametrize("name", ROOMS)
def test_every_room_has_files_with_imports_to_check(name):
    path = ROOT / name
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert any(imported_modules(file.read_text(encoding="utf-8"), file.relative_to(ROOT)) for file in files)


def planted(root: Path, path: str, source: str) -> list[str]:
    file = root / path
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    return violations(root)


@pytest.mark.parametrize(
    ("path", "source", "module"),
    [
        ("neurocoder/networks/a.py", "\nimport numpy as np", "numpy"),
        ("neurocoder/a.py", "\nfrom agents.a3c import config", "agents.a3c.config"),
        ("neurocoder/a.py", "import math\nimport math, envs.atari", "envs.atari"),
        ("neurocoder/a.py", "def f():\n    import ray", "ray"),
        ("neurocoder/a.py", "def f():\n    from torchvision import models", "torchvision.models"),
        (
            "neurocoder/kernels/a.py",
            "\nfrom neurocoder.networks.mlp import MLP",
            "neurocoder.networks.mlp.MLP",
        ),
        ("neurocoder/kernels/a.py", "\nfrom neurocoder import layer", "neurocoder.layer"),
        (
            "envs/deep/down/a.py",
            "\nfrom neurocoder import NeurocoderLinear",
            "neurocoder.NeurocoderLinear",
        ),
        ("envs/a.py", "class A:\n    from launch import train", "launch.train"),
        ("envs/a.py", "\nfrom .. import agents", "agents"),
        ("envs/deep/a.py", "\nfrom ...agents.a3c import config", "agents.a3c.config"),
        ("agents/a.py", "if True:\n    import launch.train", "launch.train"),
        ("agents/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING: import launch", "launch"),
        ("agents/a.py", "\ntry: import tests.unit\nexcept ImportError: pass", "tests.unit"),
        ("agents/a.py", "import importlib\nimportlib.import_module('launch.train')", "launch.train"),
        ("agents/a.py", "name = 'launch'\n__import__(name)", "?"),
        ("agents/a.py", "import importlib\nimportlib.import_module('.train', 'launch')", "?"),
        ("agents/a.py", "\nfrom agents.a3c.config import A3CConfig", "agents.a3c.config.A3CConfig"),
        ("agents/a.py", "\nfrom agents import a3c", "agents.a3c"),
        ("agents/actor_critic/a.py", "\nfrom agents.a3c import config", "agents.a3c.config"),
        ("agents/a3c/a.py", "\nimport agents.rllib.config", "agents.rllib.config"),
        ("agents/rllib/a.py", "\nfrom ..a3c import worker", "agents.a3c.worker"),
        ("agents/a3c/a.py", "\nfrom agents.runs.recorder import Recorder", "agents.runs.recorder.Recorder"),
        ("agents/supervised/a.py", "\nimport agents.continual.config", "agents.continual.config"),
        ("agents/continual/a.py", "\nfrom agents.runs import checkpoints", "agents.runs.checkpoints"),
        ("agents/a3c/worker.py", "\nimport ray", "ray"),
        ("agents/a3c/loop/ray_training.py", "async def f():\n    from ray import actor", "ray.actor"),
        ("envs/a.py", "\nlambda: __import__('ray.tune')", "ray.tune"),
        ("launch/train.py", "\nfrom launch.evaluate import show", "launch.evaluate.show"),
        ("launch/train.py", "\nfrom launch import sweep", "launch.sweep"),
        ("launch/command_line/a.py", "\nimport launch.train", "launch.train"),
        (
            "launch/experiments/a.py",
            "\nfrom launch.command_line import errors",
            "launch.command_line.errors",
        ),
        ("launch/results/a.py", "\nfrom ..experiments import folder", "launch.experiments.folder"),
    ],
)
def test_a_planted_violation_is_found_with_its_line(tmp_path, path, source, module):
    assert planted(tmp_path, path, source) == [f"{path}:2 imports {module}"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("neurocoder/networks/a.py", "import math, torch.nn\nfrom neurocoder.layer import NeurocoderLinear"),
        (
            "neurocoder/networks/a.py",
            "from . import mlp\nfrom .. import layer\nfrom ..layer import ProgramTrace",
        ),
        ("envs/a.py", "import gymnasium\nfrom envs.atari import AtariGames"),
        (
            "agents/a3c/ray_training.py",
            "import ray, torch\nfrom envs import atari\nimport neurocoder\nfrom agents import errors",
        ),
        ("agents/rllib/module.py", "from ray.rllib.core import rl_module\nimport agents.actor_critic.loss"),
        (
            "agents/runs/a.py",
            "from agents.a3c import start_training\nimport agents.rllib.config, agents.seeding",
        ),
        ("agents/__init__.py", "def f():\n    from agents.runs.policy import load_policy"),
        (
            "launch/experiments/a.py",
            "import agents.a3c, envs, neurocoder\nfrom ray import tune\nfrom ..results import sweep",
        ),
        ("launch/train.py", "from launch.command_line.atari import parse\nfrom launch.results import video"),
        ("agents/a.py", "text = 'import ray'  # import launch\nimport rayon"),
    ],
)
def test_an_import_within_the_rule_is_accepted(tmp_path, path, source):
    assert planted(tmp_path, path, source) == []
