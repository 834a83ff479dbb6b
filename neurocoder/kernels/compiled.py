"""C++ beside the Python that calls it, where there is a compiler; elsewhere torch does the same.

A source is compiled at its first use, in a few seconds, by the `c++` of this machine, and kept in the cache folder
(XDG_CACHE_HOME, else ~/.cache). NEUROCODER_FUSED=0 in the environment switches all of it off.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

# Strict enough that sums keep their order; without `errno` and traps a loop becomes vector instructions.
FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-std=c++17",
    "-fopenmp",
    "-fPIC",
    "-shared",
)

TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}  # the compiled code's names for them


@functools.cache
def library(source: Path) -> ctypes.CDLL | None:
    """The compiled code; None where it is switched off or cannot be had."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or os.environ.get("NEUROCODER_FUSED") == "0":
        return None
    try:
        return ctypes.CDLL(str(_compile(source, compiler)))
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return None


def _compile(source: Path, compiler: str) -> Path:
    """The shared library, from the cache or made now. Raises OSError, SubprocessError; RuntimeError for a user without a home."""
    cpu = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), platform.processor())
    key = hashlib.sha256("\0".join((compiler, *FLAGS, cpu, source.read_text())).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurocoder"
    target = cache / f"{source.stem}-{key}.so"
    if not target.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / target.name
            command = [compiler, *FLAGS, str(source), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            os.replace(made, target)  # whole or not at all, also if several processes do it
    return target


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def takes(*tensors: Tensor) -> bool:
    """Whether compiled code can have these: on a CPU, and not within a torch transform."""
    return (
        all(tensor.device.type == "cpu" for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def function(source: Path, name: str, dtype: torch.dtype) -> Callable[..., None]:
    """Function `name` of a source that is compiled, for numbers of one of TYPES."""
    code = library(source)
    assert code is not None
    return getattr(code, f"{name}_{TYPES[dtype]}")
