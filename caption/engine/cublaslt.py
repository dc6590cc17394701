"""Matrix products by cuBLASLt through its C interface: torch does not let one say in which of its ways they are made.

It is the library that torch itself has loaded. Names and numbers are those of its header, cublasLt.h.
"""

import ctypes
import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch

TYPES = {torch.float16: 2, torch.bfloat16: 14, torch.float32: 0}  # CUDA_R_16F, CUDA_R_16BF, CUDA_R_32F
FP32_SUMS = 68  # CUBLAS_COMPUTE_32F
# CUBLASLT_EPILOGUE_…; gelu: with a bias before it; added: to what stands there, rounded before.
EPILOGUES = {"plain": 1, "added": 1, "bias": 4, "added bias": 4, "gelu": 36}
TRANSPOSED, EPILOGUE, BIAS = 3, 7, 8  # CUBLASLT_MATMUL_DESC_…
COLUMNS = 3  # CUBLASLT_MATRIX_LAYOUT_COLS
WORKSPACE = 1  # CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
FAMILY, TILE, REDUCTION, CUSTOM, STAGES, CLUSTER = 0, 1, 3, 5, 6, 8  # CUBLASLT_ALGO_CONFIG_…
SIZES = dict.fromkeys((FAMILY, TILE, REDUCTION, CUSTOM, STAGES), ctypes.c_uint32) | {CLUSTER: ctypes.c_uint16}
# What won, of all settings that there are, where the heuristic's choice did not (ten shapes on an H200), and the best
# under load first. The meaning of the last ones is in no document.
TILES = (29, 30, 20, 19)  # 128 x 160, 160 x 128, 128 x 128, 64 x 256
CLUSTERS = (3, 5, 2)  # 2 x 1, 1 x 2, 1 x 1
CUSTOMS = (1, 3, 0, 2)
NAMED = 16  # ways that the heuristic is asked for
SCRATCH = 65536  # bytes of the device that a product may use: some count the tiles that are done
Algorithm = ctypes.c_uint64 * 8  # opaque, and good for the same version of the library


class _Named(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", Algorithm), ("workspace", ctypes.c_size_t), ("status", ctypes.c_int),
        ("waves", ctypes.c_float), ("reserved", ctypes.c_int * 4),
    ]  # fmt: skip


class Shape(NamedTuple):
    """Of states [rows, inner] times weight [columns, inner], transposed. kind: one of EPILOGUES, what else is done."""

    kind: str
    columns: int
    inner: int
    dtype: torch.dtype


class Failed(Exception):
    """The library refused something; the message says what."""


def version() -> str:
    """Raises Failed."""
    ask = _library().cublasLtGetVersion
    ask.restype = ctypes.c_size_t
    return str(ask())


class Product:
    """Products of a shape, by any of its ways.

    For the library, whose matrices lie column by column, each is the transposed: weight.T times states. Not for two
    streams at a time. Raises Failed.
    """

    def __init__(self, shape: Shape, device: torch.device):
        self.shape, self.library, self.handle = shape, _library(), _handle(device)
        kind = TYPES[shape.dtype]
        self.operation = ctypes.c_void_p()
        self._call("cublasLtMatmulDescCreate", ctypes.byref(self.operation), FP32_SUMS, TYPES[torch.float32])
        self._describe(TRANSPOSED, ctypes.c_int32(1))
        self._describe(EPILOGUE, ctypes.c_uint32(EPILOGUES[shape.kind]))
        self.weight = self._layout(kind, shape.inner, shape.columns)
        self.states = self._layout(kind, shape.inner, 1)
        self.made = self._layout(kind, shape.columns, 1)
        self.scratch = torch.empty(SCRATCH, dtype=torch.uint8, device=device)
        self.one, self.beta = ctypes.c_float(1), ctypes.c_float("added" in shape.kind)

    def ways(self, rows: int) -> list[bytes]:
        """Others of the family of the heuristic's choice, what is best under load first, then those that it names for
        so many rows. None sums up in parts: so all round alike."""
        self._set_rows(rows)
        preference, most, count = ctypes.c_void_p(), ctypes.c_size_t(SCRATCH), ctypes.c_int()
        self._call("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
        size = ctypes.c_size_t(ctypes.sizeof(most))
        self._call("cublasLtMatmulPreferenceSetAttribute", preference, WORKSPACE, ctypes.byref(most), size)
        named = (_Named * NAMED)()
        places = (self.weight, self.states, self.made, self.made)
        arguments = (self.handle, self.operation, *places, preference, NAMED, named, ctypes.byref(count))
        try:
            self._call("cublasLtMatmulAlgoGetHeuristic", *arguments)
        finally:
            self.library.cublasLtMatmulPreferenceDestroy(preference)
        found = [one.algorithm for one in named[: count.value] if not one.status and not _get(one, REDUCTION)]
        alike = filter(self._takes, self._alike(found[0]) if found else ())
        return list(dict.fromkeys(map(bytes, (*alike, *found))))

    def _alike(self, one: ctypes.Array) -> Iterator[ctypes.Array]:
        """Others of its family, whether the library has them or not."""
        types = (FP32_SUMS, TYPES[torch.float32], *[TYPES[self.shape.dtype]] * 4)
        for custom, tile, cluster in itertools.product(CUSTOMS, TILES, CLUSTERS):
            other = Algorithm()
            if self.library.cublasLtMatmulAlgoInit(self.handle, *types, _get(one, FAMILY), ctypes.byref(other)):
                return
            settings = {STAGES: _get(one, STAGES), TILE: tile, CLUSTER: cluster, CUSTOM: custom}
            if all(_set(other, *setting) for setting in settings.items()):
                yield other

    def run(
        self, way: bytes, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, made: torch.Tensor
    ) -> bool:
        """Write into `made`, [rows, columns], or add to it. All lie row by row without gaps. False: it refused."""
        self._set_rows(len(states))
        if bias is not None:
            self._describe(BIAS, ctypes.c_void_p(bias.data_ptr()))
        here = ctypes.c_void_p(made.data_ptr())
        return not self.library.cublasLtMatmul(
            self.handle, self.operation, ctypes.byref(self.one), ctypes.c_void_p(weight.data_ptr()), self.weight,
            ctypes.c_void_p(states.data_ptr()), self.states, ctypes.byref(self.beta), here, self.made, here, self.made,
            Algorithm.from_buffer_copy(way), ctypes.c_void_p(self.scratch.data_ptr()), ctypes.c_size_t(SCRATCH),
            ctypes.c_void_p(torch.cuda.current_stream(states.device).cuda_stream),
        )  # fmt: skip

    def _takes(self, algorithm: ctypes.Array) -> bool:
        """Whether the library has it for this shape."""
        result = _Named()
        places = (self.weight, self.states, self.made, self.made)
        arguments = (self.handle, self.operation, *places, ctypes.byref(algorithm), ctypes.byref(result))
        refused = self.library.cublasLtMatmulAlgoCheck(*arguments) or result.status
        return not refused and result.workspace <= SCRATCH

    def _set_rows(self, rows: int) -> None:
        value = ctypes.c_uint64(rows)
        size = ctypes.c_size_t(ctypes.sizeof(value))
        for layout in (self.states, self.made):
            self._call("cublasLtMatrixLayoutSetAttribute", layout, COLUMNS, ctypes.byref(value), size)

    def _layout(self, kind: int, rows: int, columns: int) -> ctypes.c_void_p:
        layout = ctypes.c_void_p()
        sizes = (ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(rows))
        self._call("cublasLtMatrixLayoutCreate", ctypes.byref(layout), kind, *sizes)
        return layout

    def _describe(self, what: int, value) -> None:
        size = ctypes.c_size_t(ctypes.sizeof(value))
        self._call("cublasLtMatmulDescSetAttribute", self.operation, what, ctypes.byref(value), size)

    def _call(self, name: str, *arguments) -> None:
        if status := getattr(self.library, name)(*arguments):
            raise Failed(f"{name} answered {status}")


def described(way: bytes) -> str:
    """Its tile, its cluster of tiles and its last setting, by the header's numbers."""
    algorithm = Algorithm.from_buffer_copy(way)
    return " ".join(str(_get(algorithm, what)) for what in (TILE, CLUSTER, CUSTOM))


def _get(algorithm, what: int) -> int:
    value, written = SIZES[what](), ctypes.c_size_t()
    size = ctypes.c_size_t(ctypes.sizeof(value))
    get = _library().cublasLtMatmulAlgoConfigGetAttribute
    get(ctypes.byref(algorithm), what, ctypes.byref(value), size, ctypes.byref(written))  # where it can't: 0
    return value.value


def _set(algorithm: ctypes.Array, what: int, value: int) -> bool:
    value = SIZES[what](value)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    set_ = _library().cublasLtMatmulAlgoConfigSetAttribute
    return not set_(ctypes.byref(algorithm), what, ctypes.byref(value), size)


@functools.cache
def _library() -> ctypes.CDLL:
    """Raises Failed where torch has none."""
    if not torch.version.cuda:
        raise Failed("this torch is built without CUDA")
    try:
        return ctypes.CDLL(f"libcublasLt.so.{torch.version.cuda.partition('.')[0]}")  # loaded already: no search
    except OSError as error:
        raise Failed(str(error)) from error


def _handle(device: torch.device) -> ctypes.c_void_p:
    if device not in _handles:
        _handles[device] = ctypes.c_void_p()
        with torch.cuda.device(device):
            if status := _library().cublasLtCreate(ctypes.byref(_handles[device])):
                del _handles[device]
                raise Failed(f"cublasLtCreate answered {status}")
    return _handles[device]


_handles: dict[torch.device, ctypes.c_void_p] = {}
