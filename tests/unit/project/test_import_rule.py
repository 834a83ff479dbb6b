"""Who may import whom: launch -> agents -> {envs, neurocoder}. Every import statement counts, wherever it stands."""

import ast
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

ALLOWED = {  # what each folder may import of the project
    "neurocoder": {"neurocoder"},
    "envs": {"envs"},
    "agents": {"agents", "envs", "neurocoder"},
    "launch": {"launch", "agents", "envs", "neurocoder"},
}
PROJECT = {*ALLOWED, "tests"}
LIGHT = {"neurocoder", "torch", *sys.stdlib_module_names}  # all that neurocoder may import
RAY = {
    "agents/a3c/ray_training.py",
    "agents/ray_cluster.py",
    "agents/rllib/module.py",
    "agents/rllib/training.py",
    "agents/runs/evaluator.py",
}  # and all of launch


def imported_packages(source: str, path: Path) -> list[tuple[int, str]]:
    """Line and top-level package of every import in the file at `path`, relative to the root.

    An import by name, `import_module` or `__import__`, counts as well; if the name is computed or relative, as "?".
    """
    found = []
    for node in ast.walk(ast.parse(source, filename=str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = (
                node.level and path.parts[: len(path.parts) - node.level]
            )  # the package that dots lead to
            names = [inside[0]] if inside else [node.module] if node.module else [a.name for a in node.names]
        elif isinstance(node, ast.Call) and called_name(node.func) in ("import_module", "__import__"):
            named = node.args and isinstance(node.args[0], ast.Constant)
            names = [str(node.args[0].value)] if named else ["?"]
        else:
            continue
        found += [(node.lineno, name.partition(".")[0] or "?") for name in names]
    return found


def called_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def violations(root: Path) -> list[str]:
    """'path:line imports package' for every import against the rule."""
    found = []
    for folder, allowed in ALLOWED.items():
        for file in sorted((root / folder).rglob("*.py")):
            path = file.relative_to(root)
            may_use_ray = folder == "launch" or path.as_posix() in RAY
            for line, package in imported_packages(file.read_text(encoding="utf-8"), path):
                foreign = package in PROJECT and package not in allowed
                heavy = folder == "neurocoder" and package not in LIGHT
                ray = package == "ray" and not may_use_ray
                if foreign or heavy or ray or package == "?":
                    found.append(f"{path.as_posix()}:{line} imports {package}")
    return found


def test_no_file_imports_against_the_rule():
    assert violations(ROOT) == []


@pytest.mark.parametrize("folder", ALLOWED)
def test_every_folder_has_files_with_imports_to_check(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert any(imported_packages(file.read_text(encoding="utf-8"), file.relative_to(ROOT)) for file in files)


def planted(root: Path, path: str, source: str) -> list[str]:
    file = root / path
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    return violations(root)


@pytest.mark.parametrize(
    ("path", "source", "package"),
    [
        ("neurocoder/networks/a.py", "\nimport numpy as np", "numpy"),
        ("neurocoder/a.py", "\nfrom agents.a3c import loss", "agents"),
        ("neurocoder/a.py", "import math\nimport math, envs.atari", "envs"),
        ("neurocoder/a.py", "def f():\n    import ray", "ray"),
        ("neurocoder/a.py", "def f():\n    from torchvision import models", "torchvision"),
        ("envs/deep/down/a.py", "\nfrom neurocoder import NeurocoderLinear", "neurocoder"),
        ("envs/a.py", "class A:\n    from launch import train", "launch"),
        ("envs/a.py", "\nfrom .. import agents", "agents"),
        ("envs/deep/a.py", "\nfrom ...agents.a3c import loss", "agents"),
        ("agents/a.py", "if True:\n    import launch.train", "launch"),
        ("agents/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING: import launch", "launch"),
        ("agents/a.py", "\ntry: import tests.unit\nexcept ImportError: pass", "tests"),
        ("agents/a.py", "import importlib\nimportlib.import_module('launch.train')", "launch"),
        ("agents/a.py", "name = 'launch'\n__import__(name)", "?"),
        ("agents/a.py", "import importlib\nimportlib.import_module('.train', 'launch')", "?"),
        ("agents/a3c/worker.py", "\nimport ray", "ray"),
        ("agents/a3c/loop/ray_training.py", "async def f():\n    from ray import actor", "ray"),
        ("envs/a.py", "\nlambda: __import__('ray.tune')", "ray"),
    ],
)
def test_a_planted_violation_is_found_with_its_line(tmp_path, path, source, package):
    assert planted(tmp_path, path, source) == [f"{path}:2 imports {package}"]


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
            "import ray, torch\nfrom envs import atari\nimport neurocoder, agents",
        ),
        ("agents/rllib/module.py", "from ray.rllib.core import rl_module"),
        (
            "launch/deep/a.py",
            "import agents.a3c, envs, neurocoder\nfrom ray import tune\nfrom .. import train",
        ),
        ("agents/a.py", "text = 'import ray'  # import launch\nimport rayon"),
    ],
)
def test_an_import_within_the_rule_is_accepted(tmp_path, path, source):
    assert planted(tmp_path, path, source) == []
