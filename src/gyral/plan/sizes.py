"""Bytes of a model in other forms, from the names and shapes in its file's header: no weight is read.

What rounds weights is exact: its bytes follow from shapes alone. What leaves weights out depends on what they are, or on a
share that shapes can hold only nearly, so its bytes are told within `OFF`.

Shapes: M rows, N columns, g groups of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from gyral.compress import rows
from gyral.compress.chain import parts_of
from gyral.errors import InputError
from gyral.model.card import WEIGHTS, Weights
from gyral.model.quant import packing, sparse
from gyral.plan.figure import Figure

OFF = 1.15
_TYPES = {"F32": "f4", "F64": "f8", "F16": "f2", "BF16": "u2", "I8": "i1", "U8": "u1", "I16": "i2", "U16": "u2", "I32": "i4",
          "U32": "u4", "I64": "i8", "U64": "u8", "BOOL": "?"}  # fmt: skip
_MOST_HEADER = 100 << 20
_BITS = {"gguf-f16": 16.0, "gguf-q8_0": 8.5, "gguf-q4_0": 4.5, "gguf-q4_1": 5.0}
"""Bits a weight of a matrix, of formats whose other arrays are float32."""


def shapes_of(folder: Path) -> Weights:
    """A model's weights by name, type and shape, that take no memory: each is one zero, told many times.

    Raises
    ------
    InputError : the file is missing, or not safetensors.
    """
    path = folder / WEIGHTS
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MOST_HEADER:
                raise ValueError(f"its header would have {length:,} bytes")
            header = msgspec.json.decode(file.read(length))
        settings = msgspec.json.decode(header.pop("__metadata__", {}).get("gyral", "{}"))
        arrays = {
            name: np.broadcast_to(np.zeros((), _TYPES[told["dtype"]]), tuple(told["shape"])) for name, told in header.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "train the model again"
        raise InputError(f"the weights of `{folder.name}` cannot be read", why=str(error), where=str(path), hint=hint) from None
    return Weights(arrays, settings)


def bytes_of(weights: Weights) -> int:
    """Of all arrays as they are."""
    return sum(array.nbytes for array in weights.arrays.values())


def bytes_as(to: str, weights: Weights, patterns: Sequence[str]) -> Figure:
    """Of all arrays once they are made `to`, one target or several joined by `+`, or written in a format.

    Parameters
    ----------
    patterns : of the matrices that the family lets be quantized.

    Raises
    ------
    UsageError : a target is not known.
    """
    names = packing.chosen(weights, patterns)
    if to in _BITS or to in ("hf", "onnx", "torch"):
        rest = sum(array.size for name, array in weights.arrays.items() if name not in names)
        held = sum(weights.arrays[name].size for name in names)
        value = held * _BITS.get(to, 32.0) / 8 + 4.0 * rest
        return Figure(value, "bytes", "sheet", f"{_BITS.get(to, 32.0):g} bits a weight of a matrix", value / OFF, value * OFF)
    *before, last = parts_of(to)
    kept = {name: 1.0 for name in names}
    halved: set[str] = set()
    for part in [*before, last]:
        in_blocks = [name for name in names if ".blocks." in f".{name}"]
        if part.startswith(("prune-", "rank-")):
            share = float(part.partition("-")[2])
            kept |= {name: kept[name] * (1 - share if part.startswith("prune-") else share) for name in in_blocks}
        elif part.startswith("2:4"):
            halved |= set(in_blocks)
    rounded = [name for name in names if not last.startswith("rows-") or name in rows.TABLES]
    gone = {*names, *(f"{name}_scale" for name in rounded if last.startswith(("rows-", "int")))}  # each has a new scale
    total = float(sum(array.nbytes for name, array in weights.arrays.items() if name not in gone))
    for name in names:
        shape = weights.arrays[name].shape
        value_bytes = weights.arrays[name].itemsize
        if name in halved:
            value_bytes = 1 if last.startswith("int8") else 2 if last == "bf16" else value_bytes
            total += sparse.stored_bytes(shape, value_bytes) + (4 * shape[0] if last.startswith("int8") else 0)
        else:
            total += kept[name] * _matrix_bytes(last, name, (shape[0], shape[1]), value_bytes)
    exact = not halved and all(share == 1.0 for share in kept.values()) and last != "int4-mixed"
    if exact:
        return Figure(total, "bytes", "counted", f"{len(names)} matrices by their shapes")
    why = f"{len(names)} matrices; what goes depends on what they hold"
    return Figure(total, "bytes", "assumed", why, total / OFF, total * OFF)


def _matrix_bytes(to: str, name: str, shape: tuple[int, int], itemsize: int) -> float:
    """Of one matrix [M, N]."""
    many, columns = shape
    if to.startswith("rows-"):
        if name not in rows.TABLES:
            return float(many * columns * itemsize)
        if to.startswith("rows-pq"):
            width = int(to.removeprefix("rows-pq"))
            parts = -(-columns // width)
            return float(many * parts + 2 * parts * rows.WORDS * width)
        if to.startswith("rows-hash-"):
            return float(2 * 2 * max(1, many // (2 * int(to.removeprefix("rows-hash-")))) * columns)
        return float(packing.stored_bytes("int4" if to == "rows-int4" else "int8", shape, rows.GROUP))
    if to.startswith("int8"):
        return float(packing.stored_bytes("int8", shape))
    if to == "bf16":
        return float(packing.stored_bytes("bf16", shape))
    if to.startswith("int4"):
        is_four = ".blocks." in f".{name}" and packing.is_for_int4(shape)
        four = float(packing.stored_bytes("int4" if is_four else "int8", shape))
        return four * 5 / 4.625 if to == "int4-mixed" and is_four else four
    return float(many * columns * itemsize)


def losses(measured: Mapping[str, Sequence[float]], to: str) -> Figure:
    """What share of its quality a model loses by a target: what this project's models lost, else the leaderboard's.

    Parameters
    ----------
    measured : target → relative losses of earlier cards.
    """
    mine = list(measured.get(to, ()))
    if mine:
        middle = float(np.median(mine))
        why = f"{len(mine)} {'model' if len(mine) == 1 else 'models'} of this family here"
        return Figure(middle, "", "calibrated", why, 0.0 if len(mine) < 3 else min(mine), max(2 * max(mine), 0.002))
    if to in LOST:
        value, file = LOST[to]
        return Figure(value, "", "sheet", f"benchmarks/results/{file}.json", 0.0, max(4 * value, 0.005))
    return Figure(0.02, "", "assumed", f"nothing here was made `{to}`; making it measures it", 0.0, 0.2)


LOST = {
    "int8": (0.0038, "compress_tables"), "rows-int8": (0.0038, "compress_tables"), "rows-int4": (0.0, "compress_tables"),
    "rows-pq8": (0.0244, "compress_tables"), "rows-pq16": (0.0352, "compress_tables"),
    "rows-hash-4": (0.0, "compress_tables"), "bf16": (0.0, "compress_quant"), "int8-smooth": (0.0001, "compress_quant"),
    "int4-rtn": (0.0053, "compress_quant"), "int4": (0.0017, "compress_quant"),
    "int4-mixed": (0.002, "compress_quant"), "int4-awq": (0.0053, "compress_quant"), "prune-0.2": (0.0139, "compress_fewer"),
    "2:4": (0.0813, "compress_fewer"), "2:4+int8": (0.0814, "compress_fewer"), "rank-0.7": (0.0227, "compress_fewer"),
}  # fmt: skip
"""Relative losses of committed results, 0 where it was better."""
