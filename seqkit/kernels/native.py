"""``steps.c`` for tensors; see ``seqkit.models.step_kernels`` for what each function computes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from seqkit.kernels.compiling import compiled_steps

_LANES = 16
"""A head's width must be a multiple of it."""
_GROUP = 64
_Steps = c_int64 * 11
_ARGUMENTS = {
    "round_rows": [c_void_p] * 3 + [c_int64] * 2 + [c_float],
    "scale_rows": [c_void_p] * 3 + [c_int64] * 2,
    "add_scaled_rows": [c_void_p] * 4 + [c_int64] * 2,
    "scale_relu_round_rows": [c_void_p] * 6 + [c_int64] * 2 + [c_float],
    "attend": [c_void_p] * 6 + [ctypes.POINTER(c_int64)] + [c_int64] * 5 + [c_float],
    "best_tokens": [c_void_p] * 9 + [c_int64] * 4,
}


def native_kernels(cache: Path) -> NativeKernels | None:
    """The functions, where this machine has or can make them.

    Args:
        cache: Folder for what is compiled.
    """
    library = compiled_steps(cache).library
    return NativeKernels(library) if library is not None else None


class NativeKernels:
    """The functions of a library, one thread each; see ``StepKernels``.

    Args:
        library: Of ``steps.c``.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
        self._library = library

    def round_rows(self, x_NI: Tensor, whole_MI: Tensor, smallest: float) -> Tensor:
        """See ``StepKernels``."""
        x_NI = _checked(x_NI)
        largest_N = x_NI.new_empty(len(x_NI))
        self._library.round_rows(
            whole_MI.data_ptr(), largest_N.data_ptr(), x_NI.data_ptr(), len(x_NI), x_NI.size(1), smallest
        )
        return largest_N

    def scale_rows_(self, y_NO: Tensor, largest_N: Tensor, bias_O: Tensor) -> None:
        """See ``StepKernels``."""
        assert y_NO.is_contiguous(), "written in place"
        self._library.scale_rows(
            _checked(y_NO).data_ptr(), largest_N.data_ptr(), bias_O.data_ptr(), len(y_NO), y_NO.size(1)
        )

    def add_scaled_rows_(self, x_NO: Tensor, y_NO: Tensor, largest_N: Tensor, bias_O: Tensor) -> None:
        """See ``StepKernels``."""
        assert x_NO.is_contiguous(), "written in place"
        y_NO = _checked(y_NO)
        self._library.add_scaled_rows(
            _checked(x_NO).data_ptr(),
            y_NO.data_ptr(),
            largest_N.data_ptr(),
            bias_O.data_ptr(),
            len(y_NO),
            y_NO.size(1),
        )

    def scale_relu_round_rows(
        self, y_NO: Tensor, largest_N: Tensor, bias_O: Tensor, whole_MO: Tensor, smallest: float
    ) -> Tensor:
        """See ``StepKernels``."""
        y_NO = _checked(y_NO)
        num_rows, size = y_NO.shape
        after_N, room_O = y_NO.new_empty(num_rows), y_NO.new_empty(size)
        self._library.scale_relu_round_rows(
            whole_MO.data_ptr(),
            after_N.data_ptr(),
            y_NO.data_ptr(),
            largest_N.data_ptr(),
            bias_O.data_ptr(),
            room_O.data_ptr(),
            num_rows,
            size,
            smallest,
        )
        return after_N

    def can_attend(self, q_BHWK: Tensor) -> bool:
        """See ``StepKernels``."""
        return q_BHWK.is_cpu and q_BHWK.dtype == torch.float32 and q_BHWK.size(3) % _LANES == 0

    def attend(self, q_BHWK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None) -> Tensor:
        """See ``StepKernels``."""
        num_sources, num_heads, width, d_head = q_BHWK.shape
        num_positions = k_BHSK.size(2)
        assert q_BHWK.dtype == k_BHSK.dtype == v_BHSK.dtype == torch.float32, "what steps.c reads"
        assert q_BHWK.stride(3) == k_BHSK.stride(3) == v_BHSK.stride(3) == 1, "heads lie in one piece"
        y_ND = q_BHWK.new_empty(num_sources * width, num_heads * d_head)
        scores = q_BHWK.new_empty(width * (num_positions + _LANES))
        mask, mask_steps = 0, (0, 0)
        if bias is not None:
            bias = bias.expand(num_sources, 1, width, num_positions)
            assert bias.stride(3) == 1 and bias.dtype == torch.float32, "so do the positions of a mask"
            mask, mask_steps = bias.data_ptr(), (bias.stride(0), bias.stride(2))
        steps = _Steps(*q_BHWK.stride()[:3], *k_BHSK.stride()[:3], *v_BHSK.stride()[:3], *mask_steps)
        self._library.attend(
            y_ND.data_ptr(),
            q_BHWK.data_ptr(),
            k_BHSK.data_ptr(),
            v_BHSK.data_ptr(),
            mask,
            scores.data_ptr(),
            steps,
            num_sources,
            num_heads,
            width,
            num_positions,
            d_head,
            d_head**-0.5,
        )
        return y_ND

    def best_tokens(
        self,
        y_NV: Tensor,
        largest_N: Tensor | None,
        bias_V: Tensor | None,
        blocked_ids: Sequence[int],
        count: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``StepKernels``."""
        y_NV = _checked(y_NV)
        num_rows, vocab_size = y_NV.shape
        assert 0 < count <= vocab_size, "as many as there are"
        num_groups = -(-vocab_size // _GROUP)
        normalizer_N = y_NV.new_empty(num_rows)
        top_NK, token_NK = y_NV.new_empty(num_rows, count), torch.empty(num_rows, count, dtype=torch.int64)
        room, maxima = y_NV.new_empty(num_groups * _GROUP), y_NV.new_empty(num_groups)
        blocked = (c_int64 * len(blocked_ids))(*blocked_ids)
        self._library.best_tokens(
            normalizer_N.data_ptr(),
            top_NK.data_ptr(),
            token_NK.data_ptr(),
            y_NV.data_ptr(),
            largest_N.data_ptr() if largest_N is not None else 0,
            bias_V.data_ptr() if bias_V is not None else 0,
            ctypes.addressof(blocked),
            room.data_ptr(),
            maxima.data_ptr(),
            num_rows,
            vocab_size,
            count,
            len(blocked_ids),
        )
        return normalizer_N, top_NK, token_NK


def _checked(x: Tensor) -> Tensor:
    assert x.dtype == torch.float32 and x.is_cpu, "what steps.c reads"
    return x.contiguous()
