"""The layer's attention as one compiled pass over the inputs, where there is a compiler; elsewhere torch does the same.

fused_attention.cpp is compiled at the first use, in a few seconds, by the `c++` of this machine, and kept in the cache folder
(XDG_CACHE_HOME, else ~/.cache). NEUROCODER_FUSED=0 in the environment switches it off. It computes in single precision on a CPU;
see `usable`.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("fused_attention.cpp")
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


class _Sizes(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int) for name in ("J", "H", "K", "P", "B", "least_used", "gate_steps", "signal_rows")
    ]


class _Tensors(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("signal", "keys", "gates", "in_slots", "M_S")]


class _Gradients(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("signal", "keys", "gates", "in_slots", "M_S")]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None where it is switched off or cannot be had."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or os.environ.get("NEUROCODER_FUSED") == "0":
        return None
    try:
        return ctypes.CDLL(str(_compile(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(compiler: str) -> Path:
    """The shared library, from the cache or made now. Raises OSError, SubprocessError."""
    cpu = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), platform.processor())
    key = hashlib.sha256("\0".join((compiler, *FLAGS, cpu, SOURCE.read_text())).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurocoder"
    target = cache / f"fused_attention-{key}.so"
    if not target.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / target.name
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            os.replace(made, target)  # whole or not at all, also if several processes do it
    return target


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def usable(*tensors: Tensor) -> bool:
    """Whether `attend` can take these: single precision, on a CPU, not within a torch transform, and compiled."""
    return (
        all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled("cpu")
        and library() is not None
    )


def attend(
    signal: Tensor,
    keys: Tensor,
    gates: Tensor | None,
    in_slots: Tensor,
    M_S: Tensor,
    *,
    heads: int,
    least_used: int,
) -> tuple[Tensor, Tensor]:
    """From the composition signal to the slots that the output is made of.

    Args:
        signal: (J, 3HK + 1, B); its last row is not used here.
        keys: program keys (3, P, K) at a length of beta.
        gates: (J or 1, 3, P, B), in [0, 1]; None without least-used slots.
        in_slots: x M_U^T, (P, B).
        M_S: raw singular values (P, 1).

    Returns:
        What multiplies M_V, (P, B), and the smallest singular values (B). They can be differentiated once.
    """
    out_slots, smallest = _Attend.apply(signal, keys, gates, in_slots, M_S, heads, least_used)
    return out_slots, smallest


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        signal: Tensor,
        keys: Tensor,
        gates: Tensor | None,
        in_slots: Tensor,
        M_S: Tensor,
        heads: int,
        least_used: int,
    ) -> tuple[Tensor, Tensor]:
        tensors = [
            None if tensor is None else tensor.contiguous() for tensor in (signal, keys, gates, in_slots, M_S)
        ]
        ctx.save_for_backward(*tensors)
        ctx.heads, ctx.least_used = heads, least_used
        out_slots, smallest = in_slots.new_empty(in_slots.shape), in_slots.new_empty(in_slots.shape[1])
        code = library()
        assert code is not None
        code.attend(*_described(ctx, tensors), _address(out_slots), _address(smallest), _threads(in_slots))
        return out_slots, smallest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out_slots: Tensor, d_smallest: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        signal, keys, gates, in_slots, M_S = tensors
        gradients = (
            torch.zeros_like(signal),  # the row that is not used stays 0
            torch.zeros_like(keys),
            None if gates is None else torch.empty_like(gates),
            torch.empty_like(in_slots),
            torch.zeros_like(M_S),
        )
        d_out_slots, d_smallest = d_out_slots.contiguous(), d_smallest.contiguous()
        code = library()
        assert code is not None
        code.attend_backward(
            *_described(ctx, tensors),
            _address(d_out_slots),
            _address(d_smallest),
            ctypes.byref(_Gradients(*map(_address, gradients))),
            _threads(in_slots),
        )
        return (*gradients, None, None)


def _described(ctx: Any, tensors: Any) -> tuple[Any, Any]:
    """The C structures of sizes and tensors."""
    signal, keys, gates, in_slots, _ = tensors
    sizes = _Sizes(
        J=len(signal),
        H=ctx.heads,
        K=keys.shape[2],
        P=keys.shape[1],
        B=in_slots.shape[1],
        least_used=0 if gates is None else ctx.least_used,
        gate_steps=1 if gates is None else len(gates),
        signal_rows=signal.shape[1],
    )
    return ctypes.byref(sizes), ctypes.byref(_Tensors(*map(_address, tensors)))


def _threads(in_slots: Tensor) -> int:
    """torch's, but not more than there are blocks of 8 inputs."""
    return max(1, min(torch.get_num_threads(), -(-in_slots.shape[1] // 8)))


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
