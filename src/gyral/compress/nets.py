"""Compressors of nets: fewer bits a weight, rounded blindly or by what layers see of real inputs.

| `--to` | bits a weight | how |
|---|---|---|
| `bf16` | 16 | round to nearest |
| `int8` | 8 | a scale a row (`gyral.compress.quantize`); activations are int8, too, where a kernel does it |
| `int8-smooth` | 8 | the same after SmoothQuant |
| `int4` | 4.625 in blocks, 8 outside of them | GPTQ |
| `int4-mixed` | 5 in blocks, 8 outside of them | GPTQ; the matrices that cost most in 4 bits have 8 |
| `int4-rtn`, `int4-awq` | as `int4` | round to nearest; AWQ's scales |

Calibrated ones take a third argument, which the family's twin makes. Measured on SmolLM2-135M and a byte model:
`benchmarks/compress/quant.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gyral.model.card import Weights
from gyral.model.quant import packing

if TYPE_CHECKING:
    from gyral.model.quant.calibration import Calibration
    from gyral.model.quant.recipe import Method


class Calibrated:
    """A compressor that wants to know what layers see.

    Parameters
    ----------
    bits : a weight in blocks, on the mean: the matrices that cost most in 4 bits have 8; 0: none has.
    """

    needs_calibration = True

    def __init__(self, method: Method, bits: float = 0.0) -> None:
        self.method, self.bits = method, bits

    def __call__(self, weights: Weights, matrices: Sequence[str], calibration: Calibration) -> Weights:
        from gyral.model.quant.recipe import packed_net

        eight: list[str] = []
        if self.bits:
            from gyral.model.quant.sensitivity import in_eight, prices

            eight = in_eight(prices(weights, matrices, calibration), self.bits)
        return packed_net(weights, matrices, calibration, self.method, in_int8=eight)


def bf16(weights: Weights, matrices: Sequence[str]) -> Weights:
    """Half the bytes, and next to no loss."""
    return packing.with_packed(weights, {name: packing.to_bf16(weights.arrays[name]) for name in matrices})


def int4_rtn(weights: Weights, matrices: Sequence[str]) -> Weights:
    """Round to nearest."""
    from gyral.model.quant.recipe import rounded_net

    return rounded_net(weights, matrices)


INT4 = Calibrated("gptq")
INT4_MIXED = Calibrated("gptq", 5.0)
INT4_AWQ = Calibrated("awq")
INT8_SMOOTH = Calibrated("smooth")
