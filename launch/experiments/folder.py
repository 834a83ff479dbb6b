"""The folder of an experiment, which holds the folder of every run.

runs/polynomials-gru-20260131-142501/
  mlp-seed1/            a run: config.json, curves, checkpoints, at last result.json, or failed.json
  neurocoder-seed1/
  results.md            the table of all finished runs
  results.csv           and their numbers
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agents.files import write_json_atomically
from agents.runs.folder import RESULT, RunFolder, RunFolderError, software_versions
from neurocoder.checks import check_at_least


def seed_range(first: int, count: int) -> range:
    """Returns `count` seeds from `first` on. Raises ValueError, in one line, for what cannot be."""
    check_at_least("--seeds", count, 1)
    check_at_least("--first-seed", first, 0)
    # torch's generator on the CPU ignores the upper bits of a larger seed.
    if first + count > 2**32:
        raise ValueError(f"--first-seed is {first}; seeds must be below 2^32")
    return range(first, first + count)


def make_runs(experiment: Path, described: Mapping[str, dict[str, Any]]) -> list[Path]:
    """Makes the folder of every run, by name, with what describes the run.

    Raises:
        ValueError: one of the runs exists already, or one cannot be made. Then none is made.
    """
    runs = [experiment / name for name in described]
    for run in runs:
        if run.exists():
            raise ValueError(f"{run}: this run exists already; continue it by --resume {experiment}")
    software = software_versions()
    made = []
    try:
        for run, settings in zip(runs, described.values(), strict=True):
            with RunFolder.create(run):
                made.append(run)
                write_json_atomically(run / "config.json", settings | {"software": software})
    except (OSError, RunFolderError) as error:
        for run in made:
            shutil.rmtree(run, ignore_errors=True)
        with suppress(OSError):
            experiment.rmdir()
        raise ValueError(f"{error}; make room or name another --run-dir") from error
    return runs


def resumed_runs(experiment: Path, read: Callable[[dict[str, Any]], object]) -> list[Path]:
    """Finds the runs that have no result yet, and checks that they are of the command that asks.

    Says so if all are finished.

    Args:
        read: takes what is in a run's config.json. Raises ValueError, KeyError or TypeError if that cannot be used.

    Raises:
        ValueError: there are no runs, or a config.json cannot be used.
    """
    runs = sorted(path.parent for path in experiment.glob("*/config.json"))
    if not runs:
        raise ValueError(f"--resume {experiment}: not a folder of runs, none in it has a config.json")
    unfinished = [run for run in runs if not (run / RESULT).exists()]
    # A run of an earlier version that is finished need not be read, but some run must be.
    for run in unfinished or runs[:1]:
        try:
            read(json.loads((run / "config.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"--resume {experiment}: {run.name}/config.json cannot be used ({reason})"
            ) from error
    if not unfinished:
        print(f"all {len(runs)} runs of {experiment} are finished")
    return unfinished
