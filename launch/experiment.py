"""What the commands with many runs share: where the runs go, on what they run, and how they end.

runs/polynomials-gru-20260131-142501/
  mlp-seed1/            a run: config.json, curves, checkpoints, at last result.json, or failed.json
  neurocoder-seed1/
  results.csv           all finished runs
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.errors import TrainingError
from agents.layer_settings import check_choice, check_not_negative
from launch.command_line import Interruption, check_address, fail, has_gpu, require_gpu
from launch.grid import RESULT, Execute, run_here, run_on_ray
from launch.run_folder import RunFolder, software_versions, write_json_atomically


@dataclass(frozen=True)
class Placement:
    """Where runs are kept and on what they run."""

    run_dir: Path | None = None
    """Folder of the runs; runs/<what>-<time> if not given. New runs may join those it has."""
    resume: Path | None = None
    """Go on with the unfinished runs in this folder, with their own settings."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    gpus_per_run: float = 0.0
    """Share of a GPU that each of several runs takes."""
    address: str | None = None
    """Join the Ray cluster at this address ("auto": the one running on this machine); all its nodes must see the folders."""

    def resolve_device(self) -> str:
        """cpu or cuda. ValueError for another, or for a GPU where there is none."""
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        check_not_negative("gpus_per_run", self.gpus_per_run)
        if self.address is not None:  # this machine may have no GPU where the cluster's nodes do
            check_address(self.address)
            return "cuda" if self.gpus_per_run or self.device == "cuda" else "cpu"
        if self.device == "cuda" or self.gpus_per_run:
            require_gpu("--device cuda" if self.device == "cuda" else "--gpus-per-run")
            return "cuda"
        return "cuda" if self.device == "auto" and has_gpu() else "cpu"


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
