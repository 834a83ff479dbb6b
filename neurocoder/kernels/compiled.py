"""Compiles and loads the C++ sources of this folder. Where there is no compiler, torch does the same work.

A source is compiled at its first use, in a few seconds, by the `c++` of this machine. The result stays in the
cache folder (XDG_CACHE_HOME, else ~/.cache). NEUROCODER_FUSED=0 in the environment switches all compiled code
off.
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

# These flags keep the order of sums. Without `errno` and traps a loop becomes vector instructions.
COMPILER_FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-std=c++17",
    "-fopenmp",
    "-fPIC",
    "-shared",
)

DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""The types that compiled functions exist for, and the names of these types there."""


@functools.cache
def library(source: Path) -> ctypes.CDLL | None:
    """Loads the compiled code. Returns None where it is switched off or cannot be compiled."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or os.environ.get("NEUROCODER_FUSED") == "0":
        return None
    try:
        return ctypes.CDLL(str(_compile(source, compiler)))
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return None


def _compile(source: Path, compiler: str) -> Path:
    """Returns the path of the shared library in the cache, and compiles it first where needed.

    Raises:
        OSError, SubprocessError: compiling fails.
        RuntimeError: the user has no home folder.
    """
    cpu = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), platform.processor())
    key = hashlib.sha256(
        "\0".join((compiler, *COMPILER_FLAGS, cpu, source.read_text())).encode()
    ).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurocoder"
    target = cache / f"{source.stem}-{key}.so"
    if not target.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            output = Path(folder) / target.name
            command = [compiler, *COMPILER_FLAGS, str(source), "-o", str(output)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            # Atomic, so several processes may compile at once.
            os.replace(output, target)
    return target


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def takes(*tensors: Tensor) -> bool:
    """Returns whether compiled code can take these: they are on a CPU, and no torch transform is active."""
    return (
        all(tensor.device.type == "cpu" for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Returns the address of a tensor's numbers, or a null pointer for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def function(source: Path, name: str, dtype: torch.dtype) -> Callable[..., None]:
    """Returns the function `name` of a compiled source, for numbers of one of `DTYPE_NAMES`."""
    code = library(source)
    assert code is not None
    return getattr(code, f"{name}_{DTYPE_NAMES[dtype]}")
