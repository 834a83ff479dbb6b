"""The attention of the Neurocoder layer as one compiled pass over the inputs, in single precision on a CPU.

`usable` says when. `neurocoder.kernels.compiled` compiles the source.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurocoder.kernels import compiled

SOURCE = Path(__file__).with_name("fused_attention.cpp")


class _Sizes(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int) for name in ("J", "H", "K", "P", "B", "least_used", "gate_steps", "signal_rows")
    ]


class _Tensors(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("signal", "keys", "gates", "in_slots", "M_S")]


class _Gradients(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("signal", "keys", "gates", "in_slots", "M_S")]


def library() -> ctypes.CDLL | None:
    """Loads the compiled code. Returns None where there is none."""
    return compiled.library(SOURCE)


def usable(*tensors: Tensor) -> bool:
    """Returns whether `attend` can take these tensors.

    It needs compiled code, single precision and a CPU. No torch transform or autocast may be active.
    """
    return (
        all(tensor.dtype == torch.float32 for tensor in tensors)
        and compiled.takes(*tensors)
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
    """Computes the slots' shares of the output from the composition signal.

    Args:
        signal: (J, 3HK + 1, B); its last row is not used here.
        keys: program keys (3, P, K) with length beta.
        gates: (J or 1, 3, P, B), in [0, 1]; None without least-used slots.
        in_slots: x M_U^T, (P, B).
        M_S: raw singular values (P, 1).

    Returns:
        What multiplies M_V, (P, B), and the smallest singular values (B,). Both have a first derivative only.
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
        code.attend(
            *_described(ctx, tensors),
            compiled.address(out_slots),
            compiled.address(smallest),
            _threads(in_slots),
        )
        return out_slots, smallest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out_slots: Tensor, d_smallest: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        signal, keys, gates, in_slots, M_S = tensors
        # The compiled code leaves the gradient of the signal's last row at 0. It adds to the gradients of keys and M_S.
        gradients = (
            torch.zeros_like(signal),
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
            compiled.address(d_out_slots),
            compiled.address(d_smallest),
            ctypes.byref(_Gradients(*map(compiled.address, gradients))),
            _threads(in_slots),
        )
        return (*gradients, None, None)


def _described(ctx: Any, tensors: Any) -> tuple[Any, Any]:
    """Makes the C structures of sizes and tensors."""
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
    return ctypes.byref(sizes), ctypes.byref(_Tensors(*map(compiled.address, tensors)))


def _threads(in_slots: Tensor) -> int:
    """Returns torch's number of threads, but at most one for each block of 8 inputs."""
    return max(1, min(torch.get_num_threads(), -(-in_slots.shape[1] // 8)))
