"""How MDS and litdata encode a field: name of the encoding → a function of its bytes, or None where it is not read.

Pictures (`jpeg`, `png`, `image`) stay the bytes of their file. What is pickled would run whatever code is in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

Decode = Callable[[bytes], Any]
NUMPY = (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", "complex64",
    "complex128", "bool",
)  # fmt: skip
"""litdata's numbers for numpy's types."""
TORCH = {
    0: "float32", 1: "float32", 2: "float64", 3: "float64", 4: "complex64", 5: "complex64", 6: "complex128", 7: "complex128",
    8: "float16", 9: "float16", 11: "uint8", 12: "int8", 13: "int16", 14: "int16", 15: "int32", 16: "int32", 17: "int64",
    18: "int64", 19: "bool", 20: "uint16",
}  # fmt: skip
"""litdata's numbers for torch's types; bfloat16 is not among numpy's."""
MDS = {
    8: "uint8", 9: "int8", 16: "uint16", 17: "int16", 18: "float16", 32: "uint32", 33: "int32", 34: "float32", 64: "uint64",
    65: "int64", 66: "float64",
}  # fmt: skip
"""mosaicml-streaming's numbers for types."""
SCALARS = frozenset(MDS.values())


def mds(encoding: str) -> Decode | None:
    """Of mosaicml-streaming."""
    kind, _, rest = encoding.partition(":")
    if kind in ("bytes", "jpeg", "png"):
        return bytes
    if kind == "ndarray":
        return _mds_array(*rest.partition(":")[::2])
    if kind in SCALARS:
        return scalar(kind)
    known: dict[str, Decode] = {
        "str": bytes.decode, "int": scalar("int64"), "str_int": int, "str_float": float, "json": msgspec.json.decode,
    }  # fmt: skip
    return known.get(kind)


def litdata(kind: str) -> Decode | None:
    """Of litdata."""
    kind, _, rest = kind.partition(":")
    if kind in ("bytes", "jpeg", "image"):
        return bytes
    if kind == "no_header_numpy" and int(rest) < len(NUMPY):
        return lambda body: np.frombuffer(body, NUMPY[int(rest)])
    if kind == "no_header_tensor" and int(rest) in TORCH:
        return lambda body: np.frombuffer(body, TORCH[int(rest)])
    known: dict[str, Decode] = {
        "str": bytes.decode, "text": bytes.decode, "int": scalar("int64"), "float": scalar("float64"), "bool": scalar("bool"),
        "json": msgspec.json.decode, "numpy": _numpy, "tensor": _tensor,
    }  # fmt: skip
    return known.get(kind)


def scalar(dtype: str) -> Decode:
    """One number."""
    return lambda body: np.frombuffer(body, dtype)[0].item()


def _mds_array(dtype: str, shape: str) -> Decode:
    """An array, whose type and shape are before it where the encoding does not tell them."""

    def decode(body: bytes) -> np.ndarray:
        at, kind = (0, dtype) if dtype else (1, MDS[body[0]])
        if shape:
            sizes: Any = [int(each) for each in shape.split(",")]
        else:
            width = 1 << (body[at] & 3)
            end = at + 1 + (body[at] >> 2) * width
            sizes, at = np.frombuffer(body[at + 1 : end], f"<u{width}"), end
        return np.frombuffer(body[at:], kind).reshape(sizes)

    return decode


def _numpy(body: bytes) -> np.ndarray:
    dtype, dims = struct.unpack_from("<II", body)
    if dtype >= len(NUMPY):
        raise ValueError(f"arrays of type {dtype} are not read")
    return np.frombuffer(body[8 + 4 * dims :], NUMPY[dtype]).reshape(struct.unpack_from(f"<{dims}I", body, 8))


def _tensor(body: bytes) -> np.ndarray:
    dtype, dims = struct.unpack_from(">II", body)
    if dtype not in TORCH:
        raise ValueError(f"tensors of type {dtype} are not read")
    return np.frombuffer(body[8 + 4 * dims :], TORCH[dtype]).reshape(struct.unpack_from(f">{dims}I", body, 8))
