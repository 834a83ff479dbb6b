"""What the commands with many runs share: where the runs go, on what they run, and how they end.

runs/polynomials-gru-20260131-142501/
  mlp-seed1/            a run: config.json, curves, checkpoints, at last result.json, or failed.json
  neurocoder-seed1/
  results.csv           all finished runs
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import tyro

from agents.errors import TrainingError
from agents.files import write_json_atomically
from agents.runs.folder import RunFolder, software_versions
from launch.command_line.errors import check_address, fail, has_gpu, require_gpu
from launch.command_line.interruption import Interruption
from launch.experiments.ray_tasks import RESULT, Execute, run_here, run_on_ray
from neurocoder.checks import check_at_least, check_known, check_not_negative
from neurocoder.settings import LayerSettings

Config = TypeVar("Config", bound=LayerSettings)


@dataclass(frozen=True)
class Placement:
    """Where runs are kept and on what they run."""

    run_dir: Path | None = None
    """Folder of the runs; runs/<what>-<time> if not given. New runs may join those it has."""
    tag: str | None = None
    """A word before the names of these runs, for runs with other settings to join a folder."""
    resume: Path | None = None
    """Go on with the unfinished runs in this folder, with their own settings."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    gpus_per_run: float = 0.0
    """Share of a GPU that each of several runs takes."""
    address: str | None = None
    """Join the Ray cluster at this address ("auto": the one running on this machine); all its nodes must see the folders."""

    def label(self, *parts: str | None) -> str:
        """What the runs of one configuration are called. ValueError for a tag that is no word."""
        if self.tag is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._]*", self.tag):
            raise ValueError(
                f"--tag {self.tag!r}: it becomes part of folders' names; use letters, digits, '.' and '_'"
            )
        return "-".join(part for part in (self.tag, *parts) if part)

    def resolve_device(self) -> str:
        """cpu or cuda. ValueError for another, or for a GPU where there is none."""
        check_known("--device", self.device, ("auto", "cpu", "cuda"))
        check_not_negative("--gpus-per-run", self.gpus_per_run)
        if self.address is not None:  # this machine may have no GPU where the cluster's nodes do
            check_address(self.address)
            return "cuda" if self.gpus_per_run or self.device == "cuda" else "cpu"
        if self.device == "cuda" or self.gpus_per_run:
            require_gpu("--device cuda" if self.device == "cuda" else "--gpus-per-run")
            return "cuda"
        return "cuda" if self.device == "auto" and has_gpu() else "cpu"


def with_given_settings(config: Config, arguments: Any, argv: list[str], *, program: str) -> Config:
    """`config` with those of its settings that are on the command line; `arguments.settings` are some of its fields.

    The command line is read a second time, with the settings of `config` as defaults.
    """
    kind = type(arguments.settings)
    names = [f.name for f in fields(kind)]
    defaults = kind(**{name: getattr(config, name) for name in names})
    given = tyro.cli(type(arguments), args=argv, default=replace(arguments, settings=defaults), prog=program)
    return replace(config, **{name: getattr(given.settings, name) for name in names})


def seed_range(first: int, count: int) -> range:
    """`count` seeds from `first` on. ValueError, in one line, for what cannot be."""
    check_at_least("--seeds", count, 1)
    check_at_least("--first-seed", first, 0)
    # Of a larger one torch's generator on the CPU ignores the upper bits.
    if first + count > 2**32:
        raise ValueError(f"--first-seed is {first}; seeds must be below 2^32")
    return range(first, first + count)


def make_runs(experiment: Path, described: Mapping[str, dict[str, Any]]) -> list[Path]:
    """Makes the folder of every run, by name, with what describes it. ValueError, before that, if there is one already."""
    runs = [experiment / name for name in described]
    for run in runs:
        if run.exists():
            raise ValueError(f"{run}: there is such a run already; go on with it by --resume {experiment}")
    software = software_versions()
    for run, settings in zip(runs, described.values(), strict=True):
        with RunFolder.create(run):
            write_json_atomically(run / "config.json", settings | {"software": software})
    return runs


def unfinished_runs(experiment: Path) -> list[Path]:
    """The runs of a folder that have no result yet. ValueError if it has no runs, or nothing is left to do."""
    runs = sorted(path.parent for path in experiment.glob("*/config.json"))
    if not runs:
        raise ValueError(f"--resume {experiment}: not a folder of runs, none in it has a config.json")
    left = [run for run in runs if not (run / RESULT).exists()]
    if not left:
        raise ValueError(f"--resume {experiment}: all of its {len(runs)} runs are finished")
    return left


def resumed_runs(experiment: Path, read: Callable[[dict[str, Any]], object]) -> list[Path]:
    """`unfinished_runs`. ValueError, too, if one of them is not of the command that asks.

    Args:
        read: takes what is in a run's config.json; ValueError, KeyError or TypeError if it is not what it should be.
    """
    runs = unfinished_runs(experiment)
    for run in runs:
        try:
            read(json.loads((run / "config.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"--resume {experiment}: {run.name}/config.json cannot be used ({reason})"
            ) from error
    return runs


def carry_out(
    placement: Placement,
    experiment: Path,
    runs: list[Path],
    execute: Execute,
    *,
    program: str,
    conclude: Callable[[Path], None],
) -> int:
    """Does the runs, and concludes with what the experiment has come to: the exit status."""
    print(f"run folder {experiment}   curves: tensorboard --logdir {experiment}", flush=True)
    interruption = Interruption()
    try:
        if len(runs) == 1 and placement.address is None:
            failures = run_here(runs, execute, interruption)
        else:
            failures = run_on_ray(
                runs, execute, interruption, address=placement.address, gpus_per_run=placement.gpus_per_run
            )
    except TrainingError as error:
        fail(error, status=1)
    interruption.release()
    conclude(experiment)
    for name, failure in failures.items():
        print(f"error: {name}: {failure}", file=sys.stderr)
    if interruption.signal is not None:
        print(f"stopped; continue with {program} --resume {experiment}")
        return interruption.exit_status
    return 1 if failures else 0
